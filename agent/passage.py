"""One volume's way to where it must be: observe, decide, perform one step, until none is left.

    while (step := next_step(grant, situation)) is not None: perform it; look at everything again

The decisions are all in ``agent.plan``; the effects are all in ``agent.world``. What is here joins them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from agent.plan.provision import next_step
from agent.plan.situation import Content, Mapping, Situation
from agent.plan.steps import (
    Ask,
    Claim,
    Deposit,
    Inscribe,
    Link,
    MakeFilesystem,
    Mark,
    Mount,
    Open,
    Ready,
    Step,
    SwapOn,
)
from agent.world import Sighting, World
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.messages import ClaimRequest, DepositRequest, ReadyRequest, UnlockRequest
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Grant, Observation, Record
from keybroker.wire.values import dataclass

Result = Literal["opened", "already", "refused"]

LIMIT: Final = 24
"""Steps a volume may take in one run; the longest way there is, with a stale revision in it, takes 12."""

_IN_USE: Final = ("ready", "plain")
"""Stages at which an open volume needs nothing but, at most, to be mounted."""


@dataclass(frozen=True, slots=True)
class Boot:
    """Which boot of which machine this is: what a request says besides what is seen.

    Attributes:
        boot_id, machine_id, agent_version: as in ``UnlockRequest``.
    """

    boot_id: str
    machine_id: str
    agent_version: str

    def request(self, seen: Sequence[Observation]) -> UnlockRequest:
        """Return the request that tells the broker what is seen."""
        return UnlockRequest(self.boot_id, self.machine_id, self.agent_version, tuple(seen))

    def asking(self) -> AskingBoot:
        """Return what a request for a single key says of this boot."""
        return AskingBoot(self.boot_id, self.machine_id)


@dataclass(frozen=True, slots=True)
class VolumeOutcome:
    """What became of one volume.

    Attributes:
        result: ``already`` where no step was needed.
        steps: that were taken, in order, each with its reason.
        notes: what an operator should hear though nothing stopped.
        error: None unless the result is ``refused``.
    """

    record: Record
    result: Result
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    error: KeybrokerError | None = None


class NotConverging(KeybrokerError):
    """Steps were taken and taken and led nowhere: a mistake in this program, not in its input."""


class Passage:
    """One volume on its way, in the hands of one thread at a time."""

    def __init__(self, world: World, boot: Boot, grant: Grant) -> None:
        self._world = world
        self._boot = boot
        self._told: Observation | None = None
        self._sighting: Sighting | None = None
        self._mapping = Mapping()
        self._content: Content | None = None
        self._mounted: bool | None = None
        self._stale = True
        self._conflicts = 0
        self._steps: list[Step] = []
        self._notes: list[str] = []
        self.grant = grant
        self.gone = False
        self.error: KeybrokerError | None = None

    @property
    def record(self) -> Record:
        """What the broker says of it."""
        return self.grant.record

    @property
    def seen(self) -> Observation | None:
        """What the broker is to be told; None where nobody looked, because it is open or out of reach."""
        return self._sighting.observation if self._sighting is not None else None

    @property
    def absent(self) -> bool:
        """Say whether waiting for its disk may help."""
        return self.seen is not None and self.seen.sight == "absent"

    @property
    def local(self) -> bool:
        """Say whether it needs no broker: swap that was marked, under a key that nobody keeps."""
        return self.record.is_swap and self.record.stage == "ready"

    @property
    def in_use(self) -> bool:
        """Say whether it is open and needs nothing but, at most, to be mounted."""
        return self._mapping.reach == "open" and self.record.stage in _IN_USE and self.error is None

    def outcome(self) -> VolumeOutcome:
        """Return what became of it."""
        result: Result = "refused" if self.error else "opened" if self._steps else "already"
        return VolumeOutcome(self.record, result, tuple(self._steps), tuple(self._notes), self.error)

    def hear(self, grant: Grant, told: Observation | None) -> None:
        """Take a new grant; a record that is another one makes all that was seen worth a new look."""
        if grant.record != self.record:
            self._stale, self.error = True, None
        self.grant, self._told = grant, told

    def dismiss(self) -> None:
        """Take note that the broker does not name this volume among this machine's; it is left as it is."""
        self.gone = True
        self.error = KeybrokerError(
            Problem.UNKNOWN, f"{self.record.name}: the broker does not know this volume any more"
        )

    def observe(self) -> None:
        """Look at everything; trouble with looking is the volume's own error."""
        try:
            self._look()
        except KeybrokerError as error:
            self.error = error
        except OSError as error:
            self.error = self._broken(error)

    def settle(self) -> None:
        """Take step after step until none is left, or until one of them may not be taken."""
        if self.error is not None:
            return
        try:
            for _ in range(LIMIT):
                if self._stale:
                    self._look()
                situation = Situation(self._mapping, self.seen, self._told, self._content, self._mounted)
                step = next_step(self.grant, situation)
                if step is None:
                    return
                self._take(step)
        except KeybrokerError as error:
            self.error = error
            return
        except OSError as error:  # a disk that dies under a step is this volume's trouble, and no other's
            self.error = self._broken(error)
            return
        taken = ", ".join(type(step).__name__ for step in self._steps[-6:])
        self.error = NotConverging(
            Problem.INTERNAL, f"{self.record.name}: {LIMIT} steps led nowhere; the last ones: {taken}"
        )

    def _broken(self, error: OSError) -> KeybrokerError:
        return KeybrokerError(Problem.NO_DEVICE, f"{self.record.name}: {error}", hint="dmesg | tail")

    def _look(self) -> None:
        world, record = self._world, self.record
        self._stale = False
        self._sighting = self._content = self._mounted = None
        self._mapping = world.mappings.look(record)
        is_open = self._mapping.reach == "open"
        if self._mapping.obstacle:
            return
        if record.is_swap or self._mapping.reach == "closed":
            self._sighting = world.disks.look(record)
            if record.is_bare and self._sighting.observation.sight in ("other", "blank"):
                self._content = world.filesystems.look(record)
        elif is_open and record.stage == "deposited" and record.filesystem != "none":
            self._content = world.filesystems.look(record)
        elif is_open and record.stage in _IN_USE and record.mount is not None:
            self._mounted = world.filesystems.mounted(record)

    def _take(self, step: Step) -> None:
        try:
            self._perform(step)
        except KeybrokerError as error:
            # A call of ours arrived and its reply did not, or another process was faster: the record went on.
            if error.problem is not Problem.CONFLICT or self._conflicts > 0:
                raise
            self._conflicts += 1
            step = Ask(f"the record had gone on: {error.detail}")
            self._perform(step)
        self._steps.append(step)
        self._stale = True

    def _perform(self, step: Step) -> None:
        """Do one step's effect."""
        world, record = self._world, self.record
        match step:
            case Ask():
                tell(world, self._boot, [self])
            case Claim(device):
                claim = ClaimRequest(record.revision, device, self._boot.asking())
                self.hear(world.broker.claim(record.volume, claim), self._told)
            case Deposit(version):
                made = world.disks.compose(record, self.grant.keys[version])
                request = DepositRequest(record.revision, made.header, made.copy)
                # The key is let go of: what opens the volume later is what the broker hands out then.
                self.hear(Grant(world.broker.deposit(record.volume, request)), self._told)
            case Inscribe():
                # The broker's copy, also where we have just made one: it is the one that is pinned.
                world.disks.inscribe(record, world.broker.header_copy(record.volume).copy)
            case Open():
                if self._sighting is None:
                    raise KeybrokerError(Problem.INTERNAL, f"{record.name}: nobody read its header")
                self._notes += world.mappings.open(record, self.grant.keys, self._sighting)
            case Link():
                world.mappings.link(record)
            case MakeFilesystem():
                world.filesystems.make(record)
            case Ready():
                said = world.broker.ready(record.volume, ReadyRequest(record.revision))
                self.hear(Grant(said), self._told)
            case Mount():
                world.filesystems.mount(record)
            case Mark():
                world.disks.mark(record)
            case SwapOn():
                world.mappings.swap_on(record)


def tell(
    world: World, boot: Boot, about: Sequence[Passage], *, unseen: bool = False
) -> dict[VolumeId, Grant]:
    """Send one request that names what is seen of ``about``, and hand each of them what it brings.

    Args:
        unseen: name those, too, whose disk nobody looked at: as absent, for which no key leaves.

    Returns:
        Every volume's grant; those that were not named have no keys in it.

    Raises:
        KeybrokerError: as ``Broker.unlock``.
    """
    seen = {passage.record.volume: passage.seen for passage in about}
    named = [
        each or Observation(name, "absent", detail="was not looked at")
        for name, each in seen.items()
        if each is not None or unseen
    ]
    reply = world.broker.unlock(boot.request(named))
    grants = {grant.record.volume: grant for grant in reply.grants}
    for passage in about:
        name = passage.record.volume
        if name in grants:
            passage.hear(grants[name], seen[name])
    return grants
