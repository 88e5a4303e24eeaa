"""A re-encryption that is cut anywhere: the volume always opens, and the next run ends where it was to end.

On the model, single cuts and each pair of them; tests/kernel does it under a mounted filesystem.
"""

from __future__ import annotations

import itertools

import pytest

from agent.change.course import Course, CourseOutcome
from agent.plan.steps import Announce, Ask, Backup, Begin, Clear, Evict, Finish, Reencrypt, Stage, Tag
from keybroker.wire.orders import Order
from keybroker.wire.problems import Problem
from keybroker.wire.values import replace
from tests.crash.memory_world import MemoryWorld
from tests.crash.mortal import MOMENTS, Death, Mortal
from tests.crash.test_crash_memory import BOOT
from tests.crash.test_crash_memory import settle as boot
from tests.crash.test_crash_rotation import (
    DATA,
    check_opens,
    foreign,
    header,
    now,
    opened,
    run,
    run_until_death,
)
from tests.crash.volumes import key_of

WAY = (Ask, Announce, Begin, Announce, Reencrypt, Tag, Ask, Backup, Finish)
"""The effects of a re-encryption; the first Ask brings the keys."""

ORDER = Order(1, "reencrypt")


@pytest.fixture
def world() -> MemoryWorld:
    return ordered()


def ordered(order: Order = ORDER) -> MemoryWorld:
    world = opened()
    world.broker.order(DATA.volume, order)
    return world


def check_done(world: MemoryWorld, before: str, version: int = 1) -> None:
    kept, luks = now(world), header(world)
    assert kept.order is None
    assert luks.volume_key != before
    assert (luks.moved, luks.next_key, luks.unbound) == (None, "", frozenset())
    assert list(luks.keyslots.values()) == [key_of(DATA.name, version).reveal().decode()]
    assert luks.token == dict.fromkeys(luks.keyslots, version)
    assert kept.pin == luks.pin
    assert kept.sequence == luks.sequence
    assert world.broker.copies[DATA.volume] == luks.written()
    check_opens(world)


def settle(world: MemoryWorld, before: str, version: int = 1) -> CourseOutcome:
    outcome = run(world)
    assert outcome.error is None, outcome.error
    check_done(world, before, version)
    again = run(world)
    assert (again.error, [type(step) for step in again.steps]) == (None, [Ask])
    return outcome


def reopen(world: MemoryWorld) -> None:
    """Hold the invariant: what the broker hands out now opens the volume at a boot."""
    check_opens(world)


def test_a_reencryption_takes_each_step_once(world: MemoryWorld) -> None:
    before = header(world).volume_key
    mortal = Mortal(world.workshop(), world)
    outcome = run(world, mortal)
    assert outcome.error is None
    assert tuple(mortal.journey) == WAY
    assert all(step.reason for step in outcome.steps)
    check_done(world, before)


def test_nothing_is_begun_with_a_tool_that_could_not_finish_it(world: MemoryWorld) -> None:
    world.reencryption.corrupting = True
    outcome = Course(world.workshop(), BOOT, now(world)).settle()
    assert outcome.error is not None
    assert outcome.error.problem is Problem.TOOL_FAILED
    order = now(world).order
    assert order is not None
    assert order.phase == "ordered", "it could never be taken back"


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("effect", range(len(WAY)))
def test_a_reencryption_that_is_cut_anywhere_is_finished_by_the_next_run(
    world: MemoryWorld, effect: int, moment: str
) -> None:
    before = header(world).volume_key
    assert not run_until_death(world, Death(effect, moment)).survived
    reopen(world)
    settle(world, before)


@pytest.mark.parametrize("first", range(len(WAY)))
def test_two_cuts_in_a_row_are_survived_wherever_they_are(first: int) -> None:
    cut_twice = 0
    for earlier, later in itertools.product(MOMENTS, MOMENTS):
        for second in range(len(WAY) + 1):
            world = ordered()
            before = header(world).volume_key
            run_until_death(world, Death(first, earlier))
            reopen(world)
            cut_twice += not run_until_death(world, Death(second, later)).survived
            reopen(world)
            settle(world, before)
    print(f"cut at effect {first} and once more: {cut_twice} times")
    assert cut_twice >= 25


def test_a_rotation_that_is_wanted_too_comes_first(world: MemoryWorld) -> None:
    before = header(world).volume_key
    world.broker.rotate(DATA.volume)
    steps = [type(step) for step in settle(world, before, 2).steps]
    assert steps.index(Announce) > max(n for n, step in enumerate(steps) if step is Clear)


def test_what_a_beginning_that_was_cut_left_is_cleared_before_the_next(world: MemoryWorld) -> None:
    before = header(world).volume_key
    for effect in (WAY.index(Begin), 3, 3):  # later: Ask, Clear, Ask
        run_until_death(world, Death(effect, "during"))
        assert len(header(world).unbound) == 1
        world.power_cut()
        boot(world)
    settle(world, before)


def test_in_the_middle_nothing_else_is_done_to_the_header(world: MemoryWorld) -> None:
    run_until_death(world, Death(WAY.index(Reencrypt), "during"))
    world.broker.rotate(DATA.volume)
    before = header(world).volume_key
    step = Course(world.workshop(), BOOT, now(world)).next_step()
    assert isinstance(step, Reencrypt)
    steps = [type(step) for step in settle(world, before, 2).steps]
    assert steps.index(Finish) < steps.index(Stage)


def test_a_keyslot_of_somebody_else_stops_it_before_anything_is_said_or_written(world: MemoryWorld) -> None:
    theirs = foreign(world, 1)
    outcome = run(world)
    assert outcome.error is not None
    assert outcome.error.problem is Problem.FOREIGN_KEYSLOTS
    assert now(world).order == ORDER
    assert theirs.items() <= header(world).keyslots.items()


def test_a_keyslot_of_somebody_else_is_lost_where_the_order_says_so() -> None:
    world = ordered(replace(ORDER, drop_foreign=True))
    before = header(world).volume_key
    foreign(world, 1)
    settle(world, before)


DROPPING = (Ask, Backup, Announce, Evict, Ask, *WAY[2:])
"""The same where somebody else's keyslot is let go: never is it tried midway, at whatever cost."""


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("effect", range(len(DROPPING)))
def test_one_that_drops_a_foreign_keyslot_is_cut_anywhere_and_finished(effect: int, moment: str) -> None:
    world = ordered(replace(ORDER, drop_foreign=True))
    before = header(world).volume_key
    theirs = foreign(world, 1)
    mortal = run_until_death(world, Death(effect, moment))
    assert tuple(mortal.journey[: effect + 1]) == DROPPING[: effect + 1]
    assert header(world).moved is None or not theirs.items() & header(world).keyslots.items()
    reopen(world)
    settle(world, before)


def test_a_header_in_the_middle_that_nobody_announced_is_refused(world: MemoryWorld) -> None:
    run_until_death(world, Death(WAY.index(Reencrypt), "during"))
    world.broker.records[DATA.volume] = replace(now(world), order=None)
    kept = dict(world.disk(DATA).header)
    outcome = run(world)
    assert outcome.error is not None
    assert outcome.error.problem is Problem.HEADER_REFUSED
    assert world.disk(DATA).header == kept


def test_an_older_snapshot_of_before_the_beginning_is_told_as_such(world: MemoryWorld) -> None:
    snapshot = dict(world.disk(DATA).header)
    run_until_death(world, Death(WAY.index(Reencrypt), "before"))
    world.disk(DATA).header = dict(snapshot)
    outcome = run(world)
    assert outcome.error is not None
    assert outcome.error.problem is Problem.CONFLICT
    assert "older snapshot" in (outcome.error.hint or "")
    assert world.disk(DATA).header == snapshot
    check_opens(world)


def test_a_volume_that_is_closed_waits_until_it_is_open(world: MemoryWorld) -> None:
    world.power_cut()
    outcome = run(world)
    assert outcome.error is not None
    assert "unlock" in (outcome.error.hint or "")
    assert now(world).order == ORDER


def test_a_current_key_that_opens_nothing_stops_it(world: MemoryWorld) -> None:
    run_until_death(world, Death(WAY.index(Begin), "before"))
    luks = header(world)
    world.write_header(now(world), luks.changed(keyslots={0: "other"}))
    outcome = run(world)
    assert outcome.error is not None
    assert outcome.error.problem is Problem.LOCKED_OUT


def test_progress_is_told_as_the_work_goes_on(world: MemoryWorld) -> None:
    told = []
    course = Course(
        world.workshop(), BOOT, now(world),
        watch=lambda _, doing: told.append(doing.progress.done) if doing and doing.progress else None,
    )  # fmt: skip
    course.settle()
    assert told == [0, 100]
