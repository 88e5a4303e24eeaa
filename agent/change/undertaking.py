"""What concerns whole disks: a volume moves to another one, grows with its own, or comes to its end.

    holder ──Mirror, Copy, Verify, Switch, Drop──▶ successor;   the disk that was left: Close, Wipe, Erased

As ``agent.change.course`` does for one header, this looks, decides, takes one step and looks again; what it
decides on are two volumes that stand for the same data, and the stable device over one or both of them. What
it has seen itself (that both disks hold the same, that a header is gone) is never written down: an agent that
begins anew sees to it anew.

A Switch of which nobody knows whether it arrived ends the undertaking. The next one begins with records that
were asked for anew: going back to the old disk on the strength of an older word could lose what is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from agent.change import handover
from agent.change.course import LIMIT, CourseOutcome, activity, look_away
from agent.change.course import Watch as Hear
from agent.change.workshop import Watch, Workshop
from agent.passage import Boot, NotConverging
from agent.plan import erasure, growth, migration, steps
from agent.plan.growth import Sizes
from agent.plan.migration import Seen, Side, Turn
from agent.plan.situation import Mapping, Situation, Stable
from agent.plan.steps import Ask, Change, Step
from agent.world import Sighting
from keybroker.wire.changes import ErasedRequest, SwitchRequest
from keybroker.wire.messages import ClaimRequest, DepositRequest, ReadyRequest
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Device, Grant, Observation, Record
from keybroker.wire.reports import Activity, Progress
from keybroker.wire.values import replace

TELL_SECONDS: Final = 1.0
"""How often long work is told of."""


Keep = Callable[[tuple[Record, ...]], None]
"""Is told of both volumes, to remember, before the one that was left is written to no more."""


def keep_nothing(records: tuple[Record, ...]) -> None:
    """Remember nothing."""


class _Volume:
    """One of the volumes, as it was heard of and seen last."""

    def __init__(self, record: Record) -> None:
        self.grant = Grant(record)
        self.told: Observation | None = None
        self.mapping = Mapping()
        self.sighting: Sighting | None = None

    @property
    def record(self) -> Record:
        return self.grant.record

    @property
    def side(self) -> Side:
        seen = self.sighting.observation if self.sighting is not None else None
        return Side(self.grant, Situation(self.mapping, seen, self.told))


class Undertaking:
    """One volume, or the two of a migration, on their way, in the hands of one thread at a time.

    Args:
        records: one holder and the disk that its data moves to or has left, or one of them alone; as the
            broker said them after whatever Switch was tried before.
        watch: hears what is going on; what it raises ends the undertaking.
        keep: see ``Keep``; a broker that is set back is known by what was kept (``agent.plan.relapse``).
    """

    def __init__(
        self,
        workshop: Workshop,
        boot: Boot,
        records: Sequence[Record],
        *,
        watch: Hear = look_away,
        keep: Keep = keep_nothing,
    ) -> None:
        self.workshop = workshop
        self.boot = boot
        self._volumes = {record.volume: _Volume(record) for record in records}
        self._first = records[0]
        self._watch = watch
        self._keep = keep
        self._seen = Seen()
        self._method = ""
        self._stable = Stable()
        self._sizes: Sizes | None = None
        self._steps: list[Step | Change] = []
        self._conflicts: set[type] = set()

    def settle(self) -> CourseOutcome:
        """Take step after step until none is left, or until one of them may not be taken.

        Returns:
            What became of it; every KeybrokerError, and a disk that dies under a step, is in it.
        """
        error: KeybrokerError | None = None
        try:
            with self.workshop.legs.alone(self._first):
                self._go()
        except KeybrokerError as failed:
            error = failed
        except OSError as failed:
            error = KeybrokerError(Problem.NO_DEVICE, f"{self._first.name}: {failed}", hint="dmesg | tail")
        finally:
            self.workshop.legs.release()
        self._watch(self._main.record, None)
        return CourseOutcome(self._main.record, tuple(self._steps), error)

    def next_step(self) -> Turn | None:
        """Say what ``settle`` would do next, and do nothing; the records were asked for just now.

        Raises:
            KeybrokerError: as ``agent.plan.migration.next_step``.
        """
        self._seen = replace(self._seen, asked=True)
        self._look()
        return self._decide()

    @property
    def _main(self) -> _Volume:
        """The one that is reported of: the holder, where there is one."""
        holders = [each for each in self._volumes.values() if each.record.role == "holder"]
        return (holders or list(self._volumes.values()))[0]

    @property
    def _partner(self) -> _Volume | None:
        return next((each for each in self._volumes.values() if each is not self._main), None)

    def _go(self) -> None:
        for _ in range(LIMIT):
            self._look()
            turn = self._decide()
            if turn is None:
                return
            self._take(turn)
        taken = ", ".join(type(step).__name__ for step in self._steps[-8:])
        raise NotConverging(
            Problem.INTERNAL, f"{self._first.name}: {LIMIT} steps led nowhere; the last ones: {taken}"
        )

    def _look(self) -> None:
        main, partner = self._main, self._partner
        self._stable, self._sizes = Stable(), None
        if main.record.role == "holder":
            self._stable = self.workshop.legs.look(main.record, (partner or main).record)
            self._sizes = self.workshop.growth.sizes(main.record)
        for each in self._volumes.values():
            each.mapping = self.workshop.world.mappings.look(each.record)
            wanted = each.mapping.reach == "closed" or is_resized(each.record)
            # Under a mirror no header is of interest, and a disk that fails must not keep it from being
            # dropped: until it is, the kernel holds every write back.
            is_looked_at = wanted and len(self._stable.legs) < 2
            each.sighting = self.workshop.world.disks.look(each.record) if is_looked_at else None
            if self._seen.raised is not None and each.record.role == "successor":
                each.sighting, self._seen = handover.look(self.workshop, each.record, self._seen)
        is_offline = main.record.order is not None and main.record.order.offline
        if not self._stable.in_sync and not is_offline:
            # what was compared may have changed since, under the header that was raised for it
            self._seen = replace(self._seen, compared=None, raised=None)

    def _decide(self) -> Turn | None:
        main, partner = self._main, self._partner
        if partner is not None:
            return migration.next_step(main.side, partner.side, self._stable, self._seen, self._sizes)
        record = main.record
        if erasure.is_wanted(record):
            step = erasure.next_step(record, main.side.here, self._stable, wiped=self._seen.wiped)
            return Turn(record.volume, step) if step is not None else None
        if is_resized(record) and record.order is not None:
            grown = growth.resize(record.order.number, self._sizes, has_keys=bool(main.grant.keys))
            return Turn(record.volume, grown)
        return None

    def _take(self, turn: Turn) -> None:
        volume, step = self._volumes[turn.volume], turn.step
        doing = activity(step)
        self._watch(self._main.record, doing)
        try:
            self._perform(volume, step, self._teller(doing))
        except KeybrokerError as error:
            # A call of ours arrived and its reply did not, or another process was faster: the record went on.
            if error.problem is not Problem.CONFLICT or type(step) in self._conflicts:
                raise
            self._conflicts.add(type(step))
            step = Ask(f"the record had gone on: {error.detail}")
            self._ask(volume)
        self._steps.append(step)

    def _perform(self, volume: _Volume, step: Step | Change, watch: Watch) -> None:
        """Do one step's effect."""
        world, legs, record = self.workshop.world, self.workshop.legs, volume.record
        match step:
            case steps.Ask():
                self._ask(volume)
            case steps.Claim(device):
                claim = ClaimRequest(record.revision, device, self.boot.asking())
                volume.grant = world.broker.claim(record.volume, claim)
            case steps.Deposit(version):
                made = world.disks.compose(record, volume.grant.keys[version], self._sector_size)
                request = DepositRequest(record.revision, made.header, made.copy)
                volume.grant = Grant(world.broker.deposit(record.volume, request))
            case steps.Inscribe():
                world.disks.inscribe(record, world.broker.header_copy(record.volume).copy)
            case steps.Open():
                if volume.sighting is None:
                    raise KeybrokerError(Problem.INTERNAL, f"{record.name}: nobody read its header")
                world.mappings.open(record, volume.grant.keys, volume.sighting)
            case steps.Unlink():
                legs.unlink(record)
            case steps.Mirror():
                legs.mirror(record, self._other.record)
            case steps.Copy() if self._stable.legs:
                legs.wait(record, watch)
            case steps.Copy():
                legs.copy(record, self._other.record, watch)
                self._seen = replace(self._seen, copied=True)
            case steps.Verify():
                compared, differs = legs.verify(record, self._other.record, watch)
                self._seen = replace(self._seen, compared=compared or None, differs=differs)
            case steps.Ready():
                self._hear(world.broker.ready(record.volume, ReadyRequest(record.revision)))
            case steps.Raise():
                self._seen = handover.raise_header(self.workshop, record, self._seen)
            case steps.Backup():
                self._hear(handover.back_up(self.workshop, volume.grant, volume.sighting))
            case steps.Switch():
                self._switch(volume)
            case steps.Drop():
                self._keep((record, self._other.record))
                legs.drop(record, self._other.record)
                self._seen = replace(self._seen, failed=self._stable.failure)
            case steps.Close():
                legs.close(record)
            case steps.Wipe():
                legs.release(record)  # a plain disk that was copied offline is held itself
                wiped = self.workshop.wiping.wipe(record, watch)
                self._seen, self._method = replace(self._seen, wiped=wiped.length), wiped.method
            case steps.Erased():
                self._erased(volume)
            case steps.Grow(layer):
                seen = volume.sighting or world.disks.look(record)
                self.workshop.growth.grow(record, layer, volume.grant.keys, seen)
            case steps.Finish(order):
                self._hear(self.workshop.broker.finish(record.volume, order))
            case other:
                raise KeybrokerError(Problem.INTERNAL, f"{record.name}: {other} is no step of a disk's")

    @property
    def _other(self) -> _Volume:
        if self._partner is None:
            raise KeybrokerError(Problem.INTERNAL, f"{self._first.name}: has no other disk")
        return self._partner

    @property
    def _sector_size(self) -> int | None:
        """Of the volume that moves, in bytes: its filesystem was made for that."""
        if self._main.record.stage == "plain":
            return 512  # as the broker has it in the successor's profile: what is below now is a bare disk
        pin = self._main.record.pin
        return pin.sector_size if pin is not None else None

    def _ask(self, volume: _Volume) -> None:
        """Tell the broker of one volume, and hear of both; of one that is open there is nothing to tell.

        From its reply on, no Switch that was sent before has any effect.
        """
        sight = volume.sighting.observation if volume.sighting is not None else None
        reply = self.workshop.broker.unlock(self.boot.request([] if sight is None else [sight]))
        grants = {grant.record.volume: grant for grant in reply.grants}
        if volume.record.volume not in grants:
            raise KeybrokerError(
                Problem.UNKNOWN,
                f"{volume.record.name}: the broker does not know {volume.record.volume} any more",
            )
        for name, each in self._volumes.items():
            if (each is not volume or sight is None) and name in grants:
                self._hear(grants[name].record)
        if sight is not None:
            volume.grant, volume.told = grants[volume.record.volume], sight
        self._seen = replace(self._seen, asked=True)

    def _hear(self, record: Record) -> None:
        volume = self._volumes[record.volume]
        if record != volume.record:
            volume.grant = Grant(record, volume.grant.keys if record.role == volume.record.role else {})

    def _switch(self, successor: _Volume) -> None:
        holder, seen = self._main.record, self._seen
        request = SwitchRequest(
            successor.record.revision, holder.revision, seen.compared or 0, seen.raised or 0
        )
        reply = self.workshop.broker.switch(successor.record.volume, request)
        self._hear(reply.holder)
        self._hear(reply.former)

    def _erased(self, volume: _Volume) -> None:
        record = volume.record
        device = record.device or Device(record.serial, record.size_bytes)
        method = self._method or "nothing was ever written to it"
        request = ErasedRequest(record.revision, device, self._seen.wiped or 0, method)
        self._hear(self.workshop.broker.erased(record.volume, request))

    def _teller(self, doing: Activity) -> Watch:
        begun = told = time.monotonic()
        since: int | None = None

        def tell(done: int, total: int) -> None:
            nonlocal told, since
            now = time.monotonic()
            since = done if since is None else since
            if now - told < TELL_SECONDS:
                return
            told = now
            rate = int((done - since) / (now - begun))
            left = int((total - done) / rate) if rate else None
            progress = Progress(done, total, max(0, rate), left)
            self._watch(self._main.record, Activity(doing.step, doing.why, doing.then, progress))

        return tell


def is_resized(record: Record) -> bool:
    """Say whether an operator wants a volume to grow."""
    return record.order is not None and record.order.kind == "resize"
