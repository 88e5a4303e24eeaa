"""A run over all volumes of this machine.

    look at every disk ──▶ one request for all of them ──▶ each volume on a thread of its own (agent.passage)
      └─▶ swap that is known goes on at once, and asks nobody

A volume that is refused does not stop the others: what became of each is a value. Volumes that are open
already are not named to the broker, so that no key leaves it for nothing. Disks that are not there yet are
waited for after the others have been opened, not before, and one that comes does not wait for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.parallel import Aside, at_once, join
from agent.passage import Boot, Passage, VolumeOutcome, tell
from agent.plan import relapse
from agent.world import World
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.records import Grant, Record
from keybroker.wire.values import dataclass

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
        self._paged: frozenset[VolumeId] = frozenset()
        self._others: dict[VolumeId, Record] = {}
        self._known: tuple[Record, ...] = ()
        self._erased: dict[VolumeId, Grant] = {}

    def unlock(self, known: Sequence[Record]) -> Report:
        """Open all volumes: at once those whose disks are there, then those that take waiting for.

        Args:
            known: the records of the last boot; what they leave out is found in the broker's reply.

        Returns:
            The report. Every KeybrokerError is in it: the refusal of one volume concerns that one, and a
            broker that cannot be asked leaves what needs none (swap, and what is open already) in use.
        """
        self._known = tuple(known)
        self._others = {record.volume: record for record in known if not _is_opened(record)}
        volumes = {record.volume: self._passage(record) for record in known if _is_opened(record)}
        at_once(Passage.observe, volumes.values())
        swaps = {name: volume for name, volume in volumes.items() if volume.local}
        others = {name: volume for name, volume in volumes.items() if name not in swaps}
        self._paged = frozenset(swaps)
        paging = [Aside(self._page, volume) for volume in swaps.values()]
        heard: dict[VolumeId, Grant] = {}
        error = self._serve(others, heard)
        if error is not None:
            _without_broker(list(others.values()), error)
        join(paging)  # last: a swap disk that is missing is waited for until the deadline
        _compare(swaps, heard)
        volumes = {
            name: volume for name, volume in volumes.items() if name in swaps or name in others
        } | others
        if (
            known or heard
        ):  # a lost cache and a broker that is down are no reason to forget what systemd knows
            kept = tuple(volume.record for volume in volumes.values() if not volume.gone)
            self._keep(relapse.kept(self._known, (*kept, *self._others.values())))
        return Report(tuple(volume.outcome() for volume in volumes.values()), error)

    def _passage(self, record: Record) -> Passage:
        return Passage(self._world, self._boot, Grant(record))

    def _serve(self, volumes: dict[VolumeId, Passage], heard: dict[VolumeId, Grant]) -> KeybrokerError | None:
        """Take all volumes that need the broker as far as they get; return why it could not be asked.

        Args:
            volumes: gets those that the broker was the first to name.
            heard: gets what the broker said of every volume.
        """
        there = [volume for volume in volumes.values() if not volume.absent]
        try:
            # Also where nothing is there: a disk that was given up is not waited for, a new one may be there.
            self._ask(volumes, there, heard)
            late = _late(volumes)
            at_once(Passage.settle, _but(volumes, late))
            while late:
                self._world.disks.wait([volume.record for volume in late])
                at_once(Passage.observe, late)
                come = [volume for volume in late if not volume.absent]
                self._ask(volumes, come or late, heard)
                late = _late(volumes) if come else []  # nobody came: that was the deadline
                at_once(Passage.settle, _but(volumes, late))
        except KeybrokerError as failed:
            return failed
        return None

    def _ask(
        self, volumes: dict[VolumeId, Passage], about: Sequence[Passage], heard: dict[VolumeId, Grant]
    ) -> None:
        """Tell the broker of some volumes, and, once more, of those that its reply was the first to name.

        In between it is asked about those that it does not speak of any more, though another has their name.
        """
        grants = tell(self._world, self._boot, about)
        said = tuple(grant.record for grant in (self._erased | grants).values())
        doubted = [
            volume
            for each in relapse.replaced(self._known, said)
            if (volume := volumes.get(each.volume)) is not None and (volume not in about or not volume.seen)
        ]
        if doubted:
            # Of what was erased the broker speaks to who names it; of what it forgot it says nothing at all.
            # Whether anything is on its disk does not matter: open or unreadable, it is named all the same.
            grants = tell(self._world, self._boot, doubted, unseen=True) | grants
        # That is final, and heard once: what is asked next names the volumes that came late, and not these.
        self._erased |= {name: each for name, each in grants.items() if each.record.stage == "erased"}
        grants = self._erased | grants
        said = tuple(grant.record for grant in grants.values())
        self._keep(relapse.kept(self._known, said))
        self._others = {name: each.record for name, each in grants.items() if not _is_opened(each.record)}
        grants = {name: grant for name, grant in grants.items() if name not in self._others}
        for name in self._others.keys() & volumes.keys():  # the holder's data has moved since the last boot
            del volumes[name]
        for name in volumes.keys() - grants.keys():
            volumes[name].dismiss()
        unknown = grants.keys() - volumes.keys() - self._paged
        new = {name: self._passage(grant.record) for name, grant in grants.items() if name in unknown}
        at_once(Passage.observe, new.values())
        there = [volume for volume in new.values() if not volume.absent]
        if there:
            tell(self._world, self._boot, there)
        volumes.update(new)
        heard.update(grants)
        fallen = relapse.names(self._known, said)
        for volume in volumes.values():
            if volume.record.name in fallen:
                volume.error = relapse.error(volume.record.name)

    def _page(self, volume: Passage) -> None:
        """Turn a known swap volume on without asking anybody, waiting for its disk if need be."""
        if volume.absent:
            self._world.disks.wait([volume.record])
            volume.observe()
        volume.settle()


def _is_opened(record: Record) -> bool:
    """Say whether a boot opens it: the holder of the data alone.

    A migration's other disk, on its way in or out, is not waited for, and no key is asked for it.
    """
    return record.role == "holder" and record.stage != "erased"


def _late(volumes: dict[VolumeId, Passage]) -> list[Passage]:
    """Return those that waiting for their disks may help."""
    return [volume for volume in volumes.values() if volume.absent and volume.error is None]


def _but(volumes: dict[VolumeId, Passage], these: Sequence[Passage]) -> list[Passage]:
    return [volume for volume in volumes.values() if volume not in these]


def _compare(swaps: dict[VolumeId, Passage], heard: dict[VolumeId, Grant]) -> None:
    """Hold what was done without the broker to what the broker said meanwhile, if it said anything."""
    for name, volume in swaps.items():
        if name in heard:
            volume.hear(heard[name], None)
        elif heard:
            volume.dismiss()
    at_once(Passage.settle, swaps.values())


def _without_broker(volumes: Sequence[Passage], error: KeybrokerError) -> None:
    """Let be what is in use already; anything else fails for the reason that the broker did."""
    in_use = [volume for volume in volumes if volume.in_use]
    at_once(Passage.settle, in_use)
    for volume in volumes:
        if volume.error is None and volume not in in_use and not volume.local:
            volume.error = error
