"""One volume's way to where the broker wants it, while it is in use: look, decide, take one step, look again.

    while (step := settling.next_step(survey)) is not None: perform it; look at everything again

The decisions are all in ``agent.plan``; what a step does is in ``agent.change.deeds``, by its type; the
effects are all in ``agent.change.workshop``. What is here joins them, as ``agent.passage`` does for a boot.

Who adds a change adds: a planner (``agent.plan.settling``), a deed a step (``agent.change.deeds``), what the
planner looks at (``Course.look``), and what it acts on (``Workshop``). A deed of long work calls
``Course.progress`` every second or so: that is what is reported, and how an operator's bar moves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.change.deeds import DEEDS
from agent.change.workshop import Workshop
from agent.passage import Boot, NotConverging
from agent.plan import encryption, rotation, settling, steps
from agent.plan.steps import Change, Step
from agent.plan.survey import Survey
from agent.world import Sighting
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Grant, Observation, Record
from keybroker.wire.reports import Activity, Progress
from keybroker.wire.values import dataclass

LIMIT: Final = 48
"""Steps a volume may take in one run; a rotation takes 10, and the longest way there is, a migration, 30."""

Watch = Callable[[Record, Activity | None], None]
"""Hears what is going on, before each step and as long work goes on; None when nothing is any more."""


@dataclass(frozen=True, slots=True)
class CourseOutcome:
    """What became of one volume.

    Attributes:
        steps: that were taken, in order, each with its reason.
        error: what keeps the volume from where it is wanted; None where nothing does.
    """

    record: Record
    steps: tuple[Step | Change, ...] = ()
    error: KeybrokerError | None = None


def look_away(record: Record, activity: Activity | None) -> None:
    """Hear nothing."""


class Course:
    """One volume on its way, in the hands of one thread at a time.

    Args:
        record: as the broker said it last; the keys are asked for when a planner wants them.
        watch: hears what is going on; what it raises ends the course.

    Attributes:
        grant: the record, and the keys that the broker gave last, as far as they may still open the volume.
        sighting: what the last look at the disk brought.
    """

    def __init__(self, workshop: Workshop, boot: Boot, record: Record, *, watch: Watch = look_away) -> None:
        self.workshop = workshop
        self.boot = boot
        self.grant = Grant(record)
        self.sighting: Sighting | None = None
        self._told: Observation | None = None
        self._surveyed: Survey | None = None
        self._watch = watch
        self._doing: Activity | None = None
        self._conflicts: set[type] = set()
        self._steps: list[Step | Change] = []

    @property
    def record(self) -> Record:
        """What the broker says of it."""
        return self.grant.record

    def settle(self) -> CourseOutcome:
        """Take step after step until none is left, or until one of them may not be taken.

        Returns:
            What became of it; every KeybrokerError, and a disk that dies under a step, is in it.
        """
        error: KeybrokerError | None = None
        try:
            self._go()
        except KeybrokerError as failed:
            error = failed
        except OSError as failed:  # this volume's trouble, and no other's
            error = KeybrokerError(Problem.NO_DEVICE, f"{self.record.name}: {failed}", hint="dmesg | tail")
        self._say(None)
        return CourseOutcome(self.record, tuple(self._steps), error)

    def next_step(self) -> Step | Change | None:
        """Say what ``settle`` would do next, and do nothing but ask for the keys that this takes to know.

        Raises:
            KeybrokerError: as ``agent.plan.settling.next_step``, and as ``Broker.unlock``.
        """
        step = settling.next_step(self.look())
        if isinstance(step, steps.Ask):
            self.ask()
            step = settling.next_step(self.look())
        return step

    def hear(self, record: Record) -> None:
        """Take a newer record; keys that it does not name any more are let go of."""
        alive = rotation.live(record)
        keys = {version: key for version, key in self.grant.keys.items() if version in alive}
        self.grant = Grant(record, keys)

    def hear_grant(self, grant: Grant) -> None:
        """Take a newer record with keys, of what the broker has been told already."""
        self.grant = grant

    def ask(self) -> None:
        """Tell the broker what is on the disk now, and get the grant that fits it.

        Raises:
            KeybrokerError: as ``Broker.unlock``; UNKNOWN where the broker does not name the volume any more.
        """
        seen = self.seen
        reply = self.workshop.broker.unlock(self.boot.request([seen]))
        grants = {grant.record.volume: grant for grant in reply.grants}
        if seen.volume not in grants:
            raise KeybrokerError(
                Problem.UNKNOWN, f"{self.record.name}: the broker does not know this volume any more"
            )
        self.grant, self._told = grants[seen.volume], seen

    @property
    def seen(self) -> Observation:
        """What the last look at the disk brought, without the header's copy."""
        if self.sighting is None:
            raise KeybrokerError(Problem.INTERNAL, f"{self.record.name}: nobody looked at its disk")
        return self.sighting.observation

    @property
    def survey(self) -> Survey:
        """All that is known; what the step that is being performed was decided on."""
        if self._surveyed is None:
            raise KeybrokerError(Problem.INTERNAL, f"{self.record.name}: nobody looked at it")
        return self._surveyed

    def progress(self, progress: Progress) -> None:
        """Say how far the step is that is being performed."""
        if self._doing is not None:
            self._say(Activity(self._doing.step, self._doing.why, self._doing.then, progress))

    def _go(self) -> None:
        for _ in range(LIMIT):
            step = settling.next_step(self.look())
            if step is None:
                return
            self._take(step)
        taken = ", ".join(type(step).__name__ for step in self._steps[-8:])
        raise NotConverging(
            Problem.INTERNAL, f"{self.record.name}: {LIMIT} steps led nowhere; the last ones: {taken}"
        )

    def look(self) -> Survey:
        """Look at everything; who adds a planner adds what it looks at here."""
        world, record = self.workshop.world, self.record
        mapping = world.mappings.look(record)
        self.sighting = world.disks.look(record)
        keyslots = None
        if self.grant.keys and self.sighting.copy is not None and record.pin is not None:
            keyslots = self.workshop.headers.probe(record, self.grant.keys, self.sighting)
        ground = None
        if record.is_bare and encryption.is_wanted(record):
            ground = self.workshop.shelving.look(record, in_use=mapping.reach != "closed")
        self._surveyed = Survey(self.grant, mapping, self.seen, self._told, keyslots, ground)
        return self.survey

    def _take(self, step: Step | Change) -> None:
        self._say(activity(step))
        try:
            DEEDS[type(step)](self, step)
        except KeybrokerError as error:
            # A call of ours arrived and its reply did not, or another process was faster: the record went on.
            if error.problem is not Problem.CONFLICT or type(step) in self._conflicts:
                raise
            self._conflicts.add(type(step))
            step = steps.Ask(f"the record had gone on: {error.detail}")
            self.ask()
        self._steps.append(step)

    def _say(self, doing: Activity | None) -> None:
        self._doing = doing
        self._watch(self.record, doing)


def activity(step: Step | Change) -> Activity:
    """Return what is said of a step: its name, why it is taken, and what is expected after it."""
    return Activity(type(step).__name__, step.reason, settling.THEN.get(type(step)))
