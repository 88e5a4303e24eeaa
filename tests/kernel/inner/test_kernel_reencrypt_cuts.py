"""A re-encryption of which every write is logged, and the power cut between any two of them.

Many a cut falls among cryptsetup's last writes, where everything is encrypted and the header does not say so:
by itself, cryptsetup 2.6.1 then begins anew, over what is done, or does not open (``agent.luks.completion``).
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.luks.completion import is_complete
from agent.luks.hotzone import hot
from agent.places import Places
from keybroker.wire.profile import MIB
from tests.crash.memory_broker import MemoryBroker
from tests.crash.volumes import record
from tests.kernel import voyage
from tests.kernel.disks import image, loop
from tests.kernel.inner.test_kernel_encrypt_in_place import LOGGED_SECONDS
from tests.kernel.inner.test_kernel_reencrypt import SEED, Ship, fill
from tests.kernel.logged import DEVICE, Told, logged

pytestmark = [pytest.mark.kernel, pytest.mark.limit(480)]

SIZE = 68 * MIB
TWICE = 3
"""So many boots are cut that settle the last stretch (``agent.luks.hotzone``)."""


@contextlib.contextmanager
def afloat(directory: Path, device: Path, told: Told | None = None) -> Iterator[Ship]:
    """Put a machine together whose volume is on ``device``."""
    mounted = directory / "data"
    new = record(size=SIZE, mount=str(mounted))
    broker = MemoryBroker([new])
    if told is not None:
        told.again(broker)
    shop = voyage.workshop(broker, Places({new.volume: device}), directory / "run")
    ship = Ship(broker, shop, device, mounted, directory, directory / "run")
    try:
        yield ship
    finally:
        ship.close()


def test_no_power_cut_between_any_two_writes_costs_a_byte(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    disk = image(tmp_path / "disk", SIZE)
    with loop(disk) as device, afloat(tmp_path, device) as ship:
        assert ship.unlock().error is None
        content = fill(ship)
        kept = Told.by(ship.broker)
    with logged(disk, 4 * SIZE) as voyage_of, afloat(tmp_path, DEVICE, kept) as ship:
        assert ship.unlock().error is None
        before = ship.order()
        assert ship.settle(voyage_of.watch(ship.broker)).error is None
    met: Counter[bool] = Counter()
    until = time.monotonic() + LOGGED_SECONDS
    while time.monotonic() < until:
        told = voyage_of.cut(chance, tmp_path / "cut")
        met[_boot(tmp_path, content, told, before, chance)] += 1
    for end in voyage_of.unfinished():
        told = voyage_of.stop(end, tmp_path / "cut")
        met[_boot(tmp_path, content, told, before, chance)] += 1
    assert met[True] >= 4
    for _ in range(TWICE):
        told = voyage_of.stop(voyage_of.in_work(), tmp_path / "cut")
        with logged(tmp_path / "cut", 4 * SIZE) as boot, afloat(tmp_path, DEVICE, told) as ship:
            assert hot(ship.header()) is not None
            assert ship.unlock().error is None
        boot.tear(chance, tmp_path / "cut")
        _boot(tmp_path, content, told, before, chance)
    print(f"{met.total()} cuts between {len(voyage_of.entries)} writes, {met[True]} among the last ones")


def _boot(directory: Path, content: str, told: Told, before: str, chance: random.Random) -> bool:
    """Boot after a cut, hold the content, and now and then go on to the end.

    Returns:
        Whether the cut had left everything encrypted, and the header unfinished.
    """
    with loop(directory / "cut") as device, afloat(directory, device, told) as ship:
        ship.content = content
        found = is_complete(ship.header())
        outcome = ship.unlock()
        assert outcome.error is None, outcome.error
        ship.check()
        if found or chance.random() < 0.5:
            settled = ship.settle()
            assert settled.error is None, settled.error
            ship.check_done(before)
            ship.boot_again()
    return found
