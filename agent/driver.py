"""A run over all volumes of this machine.

    look at every disk ──▶ one request for all of them ──▶ each volume on a thread of its own (agent.passage)
      └─▶ swap that is known goes on at once, and asks nobody

A volume that is refused does not stop the others: what became of each is a value. Volumes that are open
already are not named to the broker, so that no key leaves it for nothing. Disks that are not there yet are
waited for after the others have been opened, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.parallel import Aside, at_once, join
from agent.passage import Boot, Passage, VolumeOutcome, tell
from agent.world import World
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.records import Grant, Record

__all__ = ["Boot", "Driver", "Report", "VolumeOutcome"]


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a run.

    Attributes:
        outcomes: one a volume.
        error: why the broker could not be asked; None where it could.
    """

    outcomes: tuple[VolumeOutcome, ...]
    error: KeybrokerError | None = None


def _keep_nothing(records: tuple[Record, ...]) -> None:
    return


class Driver:
    """Brings every volume of this machine to where it must be.

    Args:
        keep: is given the newest records when the broker has said them, and once more at the end.
    """

    def __init__(
        self, world: World, boot: Boot, *, keep: Callable[[tuple[Record, ...]], None] = _keep_nothing
    ) -> None:
        self._world = world
        self._boot = boot
        self._keep = keep

    def unlock(self, known: Sequence[Record]) -> Report:
        """Open all volumes: at once those whose disks are there, then those that take waiting for.

        Args:
            known: the records of the last boot; what they leave out is found in the broker's reply.

        Returns:
            The report. Every KeybrokerError is in it: the refusal of one volume concerns that one, and a
            broker that cannot be asked leaves what needs none (swap, and what is open already) in use.
        """
        volumes = {record.volume: self._passage(record) for record in known}
        at_once(Passage.observe, volumes.values())
        swaps = {name: volume for name, volume in volumes.items() if volume.local}
        paging = [Aside(self._page, volume) for volume in swaps.values()]
        error, heard = self._ask_first(volumes, swaps)
        join(paging)
        for name in swaps.keys() & heard.keys():
            swaps[name].hear(heard[name], None)
        if error is None:
            at_once(Passage.settle, [volume for volume in volumes.values() if not volume.absent])
            late = [volume for volume in volumes.values() if volume.absent and volume.error is None]
            error = self._late(volumes, late) if late else None
        if error is not None:
            _without_broker(list(volumes.values()), error)
        self._keep(tuple(volume.record for volume in volumes.values() if not volume.gone))
        return Report(tuple(volume.outcome() for volume in volumes.values()), error)

    def _passage(self, record: Record) -> Passage:
        return Passage(self._world, self._boot, Grant(record))

    def _ask_first(
        self, volumes: dict[VolumeId, Passage], swaps: dict[VolumeId, Passage]
    ) -> tuple[KeybrokerError | None, dict[VolumeId, Grant]]:
        """Ask about what is there; nothing is asked while all that is known is still to come."""
        there = [volume for name, volume in volumes.items() if name not in swaps and not volume.absent]
        if volumes.keys() - swaps.keys() and not there:
            return None, {}
        try:
            return None, self._ask(volumes, there)
        except KeybrokerError as failed:
            return failed, {}

    def _ask(self, volumes: dict[VolumeId, Passage], about: Sequence[Passage]) -> dict[VolumeId, Grant]:
        """Tell the broker of some volumes, and, once more, of those that its reply was the first to name."""
        grants = tell(self._world, self._boot, about)
        self._keep(tuple(grant.record for grant in grants.values()))
        for name in volumes.keys() - grants.keys():
            volumes[name].dismiss()
        new = {name: self._passage(grant.record) for name, grant in grants.items() if name not in volumes}
        at_once(Passage.observe, new.values())
        there = [volume for volume in new.values() if not volume.absent]
        if there:
            tell(self._world, self._boot, there)
        volumes.update(new)
        return grants

    def _late(self, volumes: dict[VolumeId, Passage], late: Sequence[Passage]) -> KeybrokerError | None:
        """Wait for disks that were not there, and go through everything for them."""
        self._world.disks.wait([volume.record for volume in late])
        at_once(Passage.observe, late)
        try:
            self._ask(volumes, late)
        except KeybrokerError as failed:
            return failed
        at_once(Passage.settle, volumes.values())  # all: this reply may have been the first of the run
        return None

    def _page(self, volume: Passage) -> None:
        """Turn a known swap volume on without asking anybody, waiting for its disk if need be."""
        if volume.absent:
            self._world.disks.wait([volume.record])
            volume.observe()
        volume.settle()


def _without_broker(volumes: Sequence[Passage], error: KeybrokerError) -> None:
    """Let be what is in use already; anything else fails for the reason that the broker did."""
    in_use = [volume for volume in volumes if volume.in_use]
    at_once(Passage.settle, in_use)
    for volume in volumes:
        if volume.error is None and volume not in in_use and not volume.local:
            volume.error = error
