"""A rotation that is cut anywhere: the volume always opens, and the next run ends where this one would have.

On the model, single cuts and each pair of them; tests/crash/test_crash_rotation_files.py does the single ones
on real LUKS2 headers.
"""

from __future__ import annotations

import itertools

import pytest

from agent.change.course import Course, CourseOutcome
from agent.plan import steps
from agent.plan.steps import Ask, Backup, Clear, Fill, Promote, Retire, Stage, Tag
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import Problem
from keybroker.wire.records import Record
from keybroker.wire.values import replace
from tests.crash.memory_header import Luks
from tests.crash.memory_keys import live
from tests.crash.memory_world import MemoryWorld
from tests.crash.mortal import MOMENTS, Death, Mortal
from tests.crash.test_crash_memory import BOOT
from tests.crash.test_crash_memory import settle as boot
from tests.crash.volumes import key_of, record

ROTATION = (Ask, Stage, Fill, Tag, Ask, Backup, Promote, Clear, Backup, Retire)
"""The effects of a rotation; the first Ask brings the keys."""

DATA = record()


@pytest.fixture
def world() -> MemoryWorld:
    return opened()


def opened() -> MemoryWorld:
    """Return a machine whose volume is in use."""
    world = MemoryWorld([DATA])
    boot(world)
    world.write_rows(DATA, "rows")
    return world


def now(world: MemoryWorld) -> Record:
    return world.broker.records[DATA.volume]


def header(world: MemoryWorld) -> Luks:
    found = world.header(now(world))
    assert found is not None
    return found


def run(world: MemoryWorld, mortal: Mortal | None = None) -> CourseOutcome:
    return Course(mortal.workshop if mortal else world.workshop(), BOOT, now(world)).settle()


def run_until_death(world: MemoryWorld, death: Death) -> Mortal:
    """Settle once with a cut; whatever comes of it, the process is gone."""
    return Mortal(world.workshop(), world, death).until_death(lambda mortal: run(world, mortal))


def check_opens(world: MemoryWorld) -> None:
    """Hold the invariant: a key that the broker hands out now opens the volume, and a boot does."""
    world.power_cut()
    boot(world)
    assert world.rows(DATA) == "rows"
    assert len(world.made) == 1


def check_key(world: MemoryWorld) -> None:
    """Hold the invariant without a boot, where there are thousands of stories."""
    given = live(now(world)).values()
    assert any(header(world).opened_by(key) is not None for key in given)


def check_rotated(world: MemoryWorld, version: int) -> None:
    kept, luks = now(world), header(world)
    assert (kept.current, kept.wanted, kept.staged, kept.retiring) == (version, version, None, None)
    assert list(luks.keyslots.values()) == [key_of(DATA.name, version).reveal().decode()]
    assert luks.token == dict.fromkeys(luks.keyslots, version)
    assert kept.sequence == luks.sequence
    assert world.broker.copies[DATA.volume] == luks.written()
    assert not world.is_degraded(kept)
    check_opens(world)


def settle(world: MemoryWorld, version: int = 2) -> None:
    outcome = run(world)
    assert outcome.error is None, outcome.error
    check_rotated(world, version)
    again = run(world)
    assert (again.error, [type(step) for step in again.steps]) == (None, [Ask])


def test_a_rotation_takes_each_step_once_and_leaves_two_copies(world: MemoryWorld) -> None:
    world.broker.rotate(DATA.volume)
    mortal = Mortal(world.workshop(), world)
    outcome = run(world, mortal)
    assert outcome.error is None
    assert tuple(mortal.journey) == ROTATION
    assert tuple(type(step) for step in outcome.steps) == ROTATION
    assert all(step.reason for step in outcome.steps)
    assert world.broker.backups == 2
    check_rotated(world, 2)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("effect", range(len(ROTATION)))
def test_a_rotation_that_is_cut_anywhere_is_finished_by_the_next_run(
    world: MemoryWorld, effect: int, moment: str
) -> None:
    world.broker.rotate(DATA.volume)
    assert not run_until_death(world, Death(effect, moment)).survived
    check_opens(world)
    settle(world)


@pytest.mark.parametrize("first", range(len(ROTATION)))
def test_two_cuts_in_a_row_are_survived_wherever_they_are(first: int) -> None:
    cut_twice = 0
    for earlier, later in itertools.product(MOMENTS, MOMENTS):
        for second in range(len(ROTATION)):
            world = opened()
            world.broker.rotate(DATA.volume)
            run_until_death(world, Death(first, earlier))
            check_key(world)
            cut_twice += not run_until_death(world, Death(second, later)).survived
            check_key(world)
            settle(world)
    print(f"cut at effect {first} and once more: {cut_twice} times")
    assert cut_twice > 25


def test_forty_rotations_leave_one_keyslot_and_one_token(world: MemoryWorld) -> None:
    for version in range(2, 42):
        world.broker.rotate(DATA.volume)
        settle(world, version)
    assert world.broker.retired[DATA.volume] == {KeyVersion(version) for version in range(1, 41)}


def test_a_current_key_that_opens_nothing_stops_everything(world: MemoryWorld) -> None:
    """An older snapshot of the disk is put back after a rotation."""
    snapshot = dict(world.disk(DATA).header)
    world.broker.rotate(DATA.volume)
    settle(world)
    world.disk(DATA).header = dict(snapshot)
    for said in ("version 1 does: the disk is an older", "filled with version 1: the disk is an older"):
        outcome = run(world)
        assert outcome.error is not None
        assert outcome.error.problem is Problem.LOCKED_OUT
        assert said in outcome.error.detail
        assert world.disk(DATA).header == snapshot
        world.broker.rotate(DATA.volume)
        world.broker.retired[DATA.volume] = set()  # destroyed: its retention is over
    assert now(world).staged is None


def test_a_snapshot_of_before_the_promotion_is_told_as_such(world: MemoryWorld) -> None:
    snapshot = dict(world.disk(DATA).header)
    world.broker.rotate(DATA.volume)
    run_until_death(world, Death(ROTATION.index(Clear), "before"))
    world.disk(DATA).header = dict(snapshot)
    outcome = run(world)
    assert outcome.error is not None
    assert outcome.error.problem is Problem.LOCKED_OUT
    assert "version 1 does" in outcome.error.detail
    assert world.disk(DATA).header == snapshot
    check_opens(world)


@pytest.mark.parametrize("effect", range(2, len(ROTATION)))
def test_a_broker_that_was_set_back_touches_nothing(world: MemoryWorld, effect: int) -> None:
    """Its database is restored from a backup of before the rotation, at each moment of one."""
    before = now(world)
    world.broker.rotate(DATA.volume)
    run_until_death(world, Death(effect, "before"))
    named = max((header(world).token or {}).values())
    world.broker.records[DATA.volume] = before
    kept = dict(world.disk(DATA).header)
    outcome = run(world)
    if named == 1:  # the next key is not named yet: whose it is nobody knows, and it stays
        assert world.disk(DATA).header == kept or len(header(world).keyslots) == 2
        return
    assert outcome.error is not None
    assert outcome.error.problem is Problem.CONFLICT
    assert "older backup" in (outcome.error.hint or "")
    assert world.disk(DATA).header == kept
    assert not [step for step in outcome.steps if not isinstance(step, Ask)]


def foreign(world: MemoryWorld, *numbers: int) -> dict[int, str]:
    luks = header(world)
    theirs = {number: f"somebody's {number}" for number in numbers}
    world.write_header(now(world), luks.changed(keyslots=luks.keyslots | theirs))
    return theirs


def test_a_keyslot_of_somebody_else_outlives_a_rotation(world: MemoryWorld) -> None:
    theirs = foreign(world, 1)
    world.broker.rotate(DATA.volume)
    outcome = run(world)
    assert outcome.error is None
    assert theirs.items() <= header(world).keyslots.items()
    assert now(world).current == 2
    assert [number for number, _ in world.headers.cleared] == [0]


def test_nothing_is_minted_where_there_is_no_room_for_it(world: MemoryWorld) -> None:
    theirs = foreign(world, 1, 2)
    world.broker.rotate(DATA.volume)
    outcome = run(world)
    assert outcome.error is not None
    assert outcome.error.problem is Problem.FOREIGN_KEYSLOTS
    assert "1, 2 are somebody else's" in outcome.error.detail
    assert now(world).staged is None
    assert theirs.items() <= header(world).keyslots.items()


def test_a_version_that_was_given_up_is_cleared(world: MemoryWorld) -> None:
    world.broker.rotate(DATA.volume)
    run_until_death(world, Death(ROTATION.index(Promote), "before"))
    kept = now(world)
    world.broker.records[DATA.volume] = replace(kept, staged=None, wanted=kept.current, newest=KeyVersion(2))
    assert run(world).error is None
    check_rotated(world, 1)
    world.broker.rotate(DATA.volume)
    settle(world, 3)


def test_a_retired_key_that_an_older_snapshot_brings_back_is_cleared_again(world: MemoryWorld) -> None:
    """The disk is set back to the middle of a rotation that is long over."""
    world.broker.rotate(DATA.volume)
    run_until_death(world, Death(ROTATION.index(Clear), "before"))
    snapshot = dict(world.disk(DATA).header)
    settle(world)
    world.disk(DATA).header = dict(snapshot)
    outcome = run(world)
    assert outcome.error is None
    assert [type(step) for step in outcome.steps] == [Ask, Backup, Clear, Backup]
    check_rotated(world, 2)


def test_a_header_that_others_changed_is_backed_up_and_one_damaged_copy_mended(world: MemoryWorld) -> None:
    foreign(world, 1)
    assert [type(step) for step in run(world).steps] == [Ask, Backup]
    del world.disk(DATA).header["second"]
    outcome = run(world)
    assert [type(step) for step in outcome.steps] == [Ask, Tag, Backup]
    assert not world.is_degraded(now(world))


def test_what_is_going_on_is_told_before_each_step_and_its_end(world: MemoryWorld) -> None:
    world.broker.rotate(DATA.volume)
    told: list[str | None] = []
    course = Course(
        world.workshop(), BOOT, now(world), watch=lambda _, doing: told.append(doing.step if doing else None)
    )
    course.settle()
    assert told == [*(step.__name__ for step in ROTATION), None]


def test_the_next_step_can_be_asked_for_and_changes_nothing(world: MemoryWorld) -> None:
    world.broker.rotate(DATA.volume)
    kept, disk = now(world), dict(world.disk(DATA).header)
    for _ in range(2):
        assert isinstance(Course(world.workshop(), BOOT, now(world)).next_step(), steps.Stage)
        assert (now(world), world.disk(DATA).header) == (kept, disk)


@pytest.mark.parametrize("effect", range(len(ROTATION)))
def test_a_broker_that_cannot_be_reached_leaves_a_volume_that_opens(world: MemoryWorld, effect: int) -> None:
    world.broker.rotate(DATA.volume)
    run_until_death(world, Death(effect, "before"))
    world.broker.reachable = False
    outcome = run(world)
    assert outcome.error is not None
    assert outcome.error.problem is Problem.UNREACHABLE
    world.broker.reachable = True
    check_opens(world)
    settle(world)


def test_a_wish_at_a_broker_that_was_set_back_does_not_hide_that_it_is_behind(world: MemoryWorld) -> None:
    """The version that is wanted was never minted there; on the disk, it is another key."""
    before = now(world)
    world.broker.rotate(DATA.volume)
    run_until_death(world, Death(ROTATION.index(Promote), "before"))
    world.broker.records[DATA.volume] = before
    world.broker.rotate(DATA.volume)
    assert now(world).wanted == max((header(world).token or {}).values())
    kept = dict(world.disk(DATA).header)
    outcome = run(world)
    assert outcome.error is not None
    assert outcome.error.problem is Problem.CONFLICT
    assert world.disk(DATA).header == kept


def test_a_broker_of_before_the_promotion_is_told_as_such_once_the_old_key_is_cleared(
    world: MemoryWorld,
) -> None:
    world.broker.rotate(DATA.volume)
    run_until_death(world, Death(ROTATION.index(Promote), "before"))
    before = now(world)
    run_until_death(world, Death(3, "before"))  # Promote and Clear were done
    assert len(header(world).keyslots) == 1
    world.broker.records[DATA.volume] = before
    outcome = run(world)
    assert outcome.error is not None
    assert outcome.error.problem is Problem.LOCKED_OUT
    assert "version 2 does: the broker was set back" in outcome.error.detail
