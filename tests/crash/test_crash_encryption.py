"""A plain disk that is encrypted in place, cut anywhere: it always boots, and the next run goes on.

Up to Deposit a boot uses the plain filesystem, so that what was kept of it is out of date; from then on a
boot finishes the inscription first. On the model, single cuts and each pair of them; test_crash_shelf.py has
every sector of the inscription, tests/kernel the rest under a mounted filesystem.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from agent.change.course import CourseOutcome
from agent.plan.steps import (
    Announce,
    Ask,
    Backup,
    Deposit,
    Finish,
    Inscribe,
    Link,
    Mount,
    Open,
    Reencrypt,
    Shelve,
    Tag,
    Unlink,
)
from keybroker.wire.problems import Problem
from tests.crash.memory_world import Inside, MemoryWorld
from tests.crash.mortal import MOMENTS, Death, Mortal
from tests.crash.test_crash_memory import run as boot
from tests.crash.test_crash_plain import PLAIN
from tests.crash.test_crash_rotation import header, now, run, run_until_death
from tests.crash.volumes import key_of

WAY = (
    Unlink, Announce, Ask, Shelve, Deposit, Inscribe, Ask, Open, Link, Reencrypt, Tag, Ask, Backup, Finish,
)  # fmt: skip
"""The effects of an encryption in place of a volume that is open and not mounted."""


def machine(rows: str = "rows 0") -> MemoryWorld:
    world = MemoryWorld([PLAIN])
    world.disks[PLAIN.serial].inside = Inside("ext4", touched=True, rows=rows)
    return world


@pytest.fixture
def world() -> MemoryWorld:
    return ordered()


def ordered() -> MemoryWorld:
    """Return a machine whose plain disk is open, unmounted, and to be encrypted."""
    world = machine()
    assert [outcome.error for outcome in boot(world).outcomes] == [None]
    world.mounted.clear()
    world.broker.encrypt(PLAIN.volume)
    return world


def check_boots(world: MemoryWorld, rows: str, then: str) -> None:
    """Hold the invariant: after a power cut it boots with what was written last, and can be written to."""
    world.power_cut()
    (outcome,) = boot(world).outcomes
    assert outcome.error is None, outcome.error
    assert world.rows(PLAIN) == rows
    world.write_rows(PLAIN, then)
    assert world.made == [], "a filesystem was made"


def stop_database(world: MemoryWorld) -> None:
    """Unmount it where it must be, which is as long as it is a plain disk."""
    if now(world).is_bare:
        world.mounted.clear()


def check_done(world: MemoryWorld, rows: str) -> None:
    kept, luks = now(world), header(world)
    assert (kept.stage, kept.order, kept.current) == ("ready", None, 1)
    assert (luks.moved, luks.in_place) == (None, False)
    assert list(luks.keyslots.values()) == [key_of(PLAIN.name).reveal().decode()]
    assert luks.token == dict.fromkeys(luks.keyslots, 1)
    assert (kept.pin, kept.sequence) == (luks.pin, luks.sequence)
    assert world.broker.copies[PLAIN.volume] == luks.written()
    check_boots(world, rows, rows)


def settle(world: MemoryWorld, rows: str) -> CourseOutcome:
    stop_database(world)
    outcome = run(world)
    assert outcome.error is None, outcome.error
    check_done(world, rows)
    again = run(world)
    assert (again.error, [type(step) for step in again.steps]) == (None, [Ask])
    return outcome


def test_an_encryption_in_place_takes_each_step_once(world: MemoryWorld) -> None:
    mortal = Mortal(world.workshop(), world)
    outcome = run(world, mortal)
    assert outcome.error is None, outcome.error
    assert tuple(mortal.journey) == WAY
    assert all(step.reason for step in outcome.steps)
    check_done(world, "rows 0")


def test_every_step_before_the_end_says_that_it_is_plaintext(world: MemoryWorld) -> None:
    said = {type(step): step.reason for step in run(world).steps}
    for step in (Unlink, Announce, Open, Reencrypt):
        assert "plaintext until it is encrypted" in said[step]


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("effect", range(len(WAY)))
def test_one_that_is_cut_anywhere_is_finished_by_the_next_run(
    world: MemoryWorld, effect: int, moment: str, power: bool
) -> None:
    assert not run_until_death(world, Death(effect, moment)).survived
    rows = "rows 0"
    if power:
        check_boots(world, rows, "rows 1")
        rows = "rows 1"
    settle(world, rows)


@pytest.mark.parametrize("first", range(len(WAY)))
def test_two_cuts_in_a_row_are_survived_wherever_they_are(first: int) -> None:
    cut_twice = 0
    for earlier, later in itertools.product(MOMENTS, MOMENTS):
        for second in range(len(WAY)):
            world, rows = ordered(), "rows 0"
            run_until_death(world, Death(first, earlier))
            if second % 2:
                check_boots(world, rows, rows := "rows 1")
            stop_database(world)
            cut_twice += not run_until_death(world, Death(second, later)).survived
            check_boots(world, rows, rows := "rows 2")
            settle(world, rows)
    print(f"cut at effect {first} and once more: {cut_twice} times")
    assert cut_twice >= 25


REST = ("keyslots-1", "keyslots-2", "second")


@pytest.mark.parametrize("there", [each for n in range(4) for each in itertools.combinations(REST, n)])
def test_a_boot_finishes_an_inscription_before_it_opens(world: MemoryWorld, there: tuple[str, ...]) -> None:
    world.first_written = there
    run_until_death(world, Death(WAY.index(Inscribe), "during"))
    assert set(world.disk(PLAIN).header) == set(there)
    world.power_cut()
    (outcome,) = boot(world).outcomes
    assert outcome.error is None, outcome.error
    assert [type(step) for step in outcome.steps] == [Inscribe, Ask, Open, Link, Mount]
    assert world.rows(PLAIN) == "rows 0"
    settle(world, "rows 0")


def test_until_the_broker_has_the_header_a_boot_uses_the_plain_disk(world: MemoryWorld) -> None:
    run_until_death(world, Death(WAY.index(Deposit), "before"))
    world.power_cut()
    (outcome,) = boot(world).outcomes
    assert [type(step) for step in outcome.steps] == [Link, Mount]
    world.write_rows(PLAIN, "rows 1")
    settle(world, "rows 1")


def test_the_volume_is_used_while_it_is_encrypted(world: MemoryWorld) -> None:
    run_until_death(world, Death(WAY.index(Reencrypt), "during"))
    boot(world)
    world.write_rows(PLAIN, "written meanwhile")
    settle(world, "written meanwhile")


def test_a_mounted_volume_is_left_alone_and_said_to_be(world: MemoryWorld) -> None:
    boot(world)
    outcome = run(world)
    assert outcome.error is not None
    assert outcome.error.problem is Problem.IN_USE
    assert "unmount" in (outcome.error.hint or "")
    order = now(world).order
    assert order is not None
    assert order.phase == "ordered"


def test_without_room_nothing_is_begun_and_the_volume_stays_in_use(world: MemoryWorld) -> None:
    boot(world)
    world.disk(PLAIN).has_room = False
    outcome = run(world)
    assert outcome.error is not None
    assert outcome.error.problem is Problem.CONFLICT
    assert "resize2fs" in (outcome.error.hint or "")
    assert outcome.steps == ()
    assert world.rows(PLAIN) == "rows 0"


@pytest.mark.parametrize("trouble", ["unclean", "tool"])
def test_nothing_is_begun_that_could_not_be_finished(world: MemoryWorld, trouble: str) -> None:
    world.shelving.unclean = trouble == "unclean"
    world.reencryption.corrupting = trouble == "tool"
    assert run(world).error is not None
    order = now(world).order
    assert order is not None
    assert order.phase == "ordered", "it could never be taken back"
    check_boots(world, "rows 0", "rows 0")


def test_another_filesystem_than_the_declared_one_is_left_alone(world: MemoryWorld) -> None:
    world.disk(PLAIN).inside.kind = "xfs"
    outcome = run(world)
    assert outcome.error is not None
    assert outcome.error.problem is Problem.WRONG_DEVICE
    assert world.disk(PLAIN).shelf == ""


def test_an_older_snapshot_from_before_it_is_encrypted_from_the_beginning(world: MemoryWorld) -> None:
    """The header is gone, the filesystem as it was: what lies at the end is of no time that counts."""
    run_until_death(world, Death(WAY.index(Reencrypt), "before"))
    disk = world.disk(PLAIN)
    disk.header, disk.shelf, disk.inside = {}, "", Inside("ext4", touched=True, rows="older")
    check_boots(world, "older", "older")
    settle(world, "older")


def test_a_header_that_the_broker_does_not_have_is_not_opened(world: MemoryWorld) -> None:
    run_until_death(world, Death(WAY.index(Reencrypt), "during"))
    kept = dict(world.disk(PLAIN).header)
    order = now(world).order
    assert order is not None
    world.broker.records[PLAIN.volume] = replace(now(world), order=replace(order, digest=None), pin=None)
    world.power_cut()
    (outcome,) = boot(world).outcomes
    assert outcome.error is not None
    assert outcome.error.problem is Problem.HEADER_REFUSED
    assert world.disk(PLAIN).header == kept
