"""The real workshop, put together: this machine's disks, and the way to its broker."""

from __future__ import annotations

import time
from pathlib import Path

from agent import contact, hygiene, identity, layout, thisboot
from agent.broker import Clockwork
from agent.change.broker import ChangeClient
from agent.change.growth import MachineGrowth
from agent.change.headers import MachineHeaders
from agent.change.legs import MachineLegs
from agent.change.reencryption import MachineReencryption
from agent.change.shelving import MachineShelving
from agent.change.wipe import MachineWiping
from agent.change.workshop import Broker, Workshop
from agent.config import Config
from agent.contact import Tell
from agent.machine import machine
from agent.places import Places
from agent.receipts import Receipts
from agent.world import World
from keybroker.wire.records import Record


def client(config: Config, *, patience: float, tell: Tell) -> ChangeClient:
    """Return the way to this machine's broker; nothing is asked yet but for a certificate, if it has ended.

    Args:
        patience: seconds that each call may take until a broker answers.

    Raises:
        KeybrokerError: CERTIFICATE or CONFIGURATION, where this machine has no identity; of an ended one, as
            ``agent.enrolment.renew_late``.
    """
    mine = identity.load(config.state_directory)
    clockwork = Clockwork(tell=lambda line: tell(line, 4))
    if clockwork.wall() > mine.not_after:
        from agent import lapsed  # as at a boot

        deadline = clockwork.monotonic() + patience
        mine = lapsed.renewed(config, deadline=deadline, clockwork=clockwork, tell=tell)
    return ChangeClient(
        config.brokers or mine.brokers,
        contact.credentials(mine),
        patience=patience,
        clockwork=clockwork,
        receipts=Receipts(config.state_directory, tell),
        boot=thisboot.named(),
    )


def workshop(config: Config, broker: Broker, tell: Tell) -> Workshop:
    """Put it together.

    Args:
        broker: as ``client`` returns it.
    """
    for failed in hygiene.harden():  # before a key is read
        tell(f"memory: {failed}", 4)
    places = Places(config.devices)
    world = machine(
        broker,
        places=places,
        runtime=config.runtime_directory,
        deadline=time.monotonic(),  # a change waits for no disk
        clock=time.time,
        mounts=None,
    )
    return fitted(world, broker, places, config.runtime_directory)


def fitted(world: World, broker: Broker, places: Places, runtime: Path) -> Workshop:
    """Return what changes this machine's volumes, over ``world``.

    Args:
        runtime: of the agent.
    """
    return Workshop(
        world,
        broker,
        headers=MachineHeaders(places, runtime),
        legs=MachineLegs(places, runtime),
        growth=MachineGrowth(places, runtime),
        reencryption=MachineReencryption(places, runtime),
        wiping=MachineWiping(places),
        shelving=MachineShelving(places),
    )


def keep(config: Config, records: tuple[Record, ...], tell: Tell) -> None:
    """Remember for the next boot what the broker said; a full /var is no reason to stop.

    Of what is erased nothing: it would be named in every report, and with it each reply grow by one a move.
    """
    try:
        layout.save(config.state_directory, tuple(each for each in records if each.stage != "erased"))
    except OSError as error:
        tell(f"layout: not kept for the next boot: {error}", 4)
