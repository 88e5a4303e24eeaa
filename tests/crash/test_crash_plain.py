"""A plain disk: opened as it is, and moved to an encrypted one by a move that is cut anywhere.

At each moment exactly one disk holds the data and opens, by boot or by mirror; no write is lost; and at the
end there is no plaintext on the disk that was left.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from agent.plan import steps
from agent.plan.steps import Copy, Drop, Erased, Mirror, Unlink, Verify, Wipe
from keybroker.wire.problems import Problem
from keybroker.wire.profile import MIB
from keybroker.wire.records import Record
from tests.crash.memory_world import Disk, Inside, MemoryWorld
from tests.crash.mortal import MOMENTS, Death, Mortal
from tests.crash.test_crash_memory import run as boot
from tests.crash.test_crash_migration import (
    COMMIT,
    READY,
    Database,
    holder,
    reboot,
    run,
    run_until_death,
    stop_database,
)
from tests.crash.volumes import SIZE, record

PLAIN = replace(record(), stage="plain", current=None, wanted=None)
TARGET = record("target", size=SIZE + 4 * MIB)
END = (Wipe, Erased)
JOURNEYS = {
    "live": (*READY, Mirror, Copy, *COMMIT, Drop, *END),
    "offline": (*READY, Unlink, Copy, *COMMIT, *END),
}


def machine() -> MemoryWorld:
    """Return a machine whose one disk was used before anybody spoke of encryption."""
    world = MemoryWorld([PLAIN])
    world.disks[PLAIN.serial].inside = Inside("ext4", touched=True, rows="rows 0")
    return world


def opened(how: str = "live", *, target: Record = TARGET) -> MemoryWorld:
    """Return one whose plain disk is in use, and is to be moved; offline, nothing has it mounted."""
    world = machine()
    assert [outcome.error for outcome in boot(world).outcomes] == [None]
    disk = replace(world.disks[PLAIN.serial].device, serial=target.serial, size_bytes=target.size_bytes)
    world.disks[target.serial] = Disk(disk)
    world.broker.migrate(PLAIN.volume, target, offline=how == "offline")
    if how == "offline":
        world.mounted.clear()
    return world


def check_moved(world: MemoryWorld, database: Database) -> None:
    now, old = holder(world), world.broker.records[PLAIN.volume]
    assert (now.volume, now.stage, now.order, now.partner) == (TARGET.volume, "ready", None, None)
    assert (old.role, old.stage) == ("former", "erased")
    assert world.disks[PLAIN.serial].is_blank, "plaintext is left"
    assert world.disks[TARGET.serial].header, "the data is not encrypted"
    assert set(world.wiping.wiped) == {PLAIN.volume}
    assert world.made == [], "a filesystem was made"
    reboot(world, database)


def settle(world: MemoryWorld, database: Database, how: str) -> None:
    stop_database(world, how)
    assert run(world) is None
    check_moved(world, database)


def test_it_is_linked_and_mounted_and_no_key_is_handed_out() -> None:
    world = machine()
    (outcome,) = boot(world).outcomes
    assert [type(step) for step in outcome.steps] == [steps.Link, steps.Mount]
    assert world.rows(PLAIN) == "rows 0"
    (outcome,) = boot(world).outcomes
    assert outcome.result == "already"


def test_a_disk_with_another_filesystem_is_refused_and_kept() -> None:
    world = machine()
    world.disks[PLAIN.serial].inside.kind = "xfs"
    (outcome,) = boot(world).outcomes
    assert outcome.error is not None
    assert outcome.error.problem is Problem.WRONG_DEVICE
    assert world.disks[PLAIN.serial].inside.rows == "rows 0"


@pytest.mark.parametrize("how", JOURNEYS)
def test_a_move_takes_each_step_once(how: str) -> None:
    world = opened(how)
    database = Database(world)
    mortal = Mortal(world.workshop(), world)
    assert run(world, mortal) is None
    assert tuple(mortal.journey) == JOURNEYS[how]
    check_moved(world, database)


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    ("how", "effect"), [(how, number) for how in JOURNEYS for number in range(len(JOURNEYS[how]))]
)
def test_a_move_that_is_cut_anywhere_is_finished_by_the_next_run(
    how: str, effect: int, moment: str, power: bool
) -> None:
    world = opened(how)
    database = Database(world)
    assert not run_until_death(world, Death(effect, moment)).survived
    database.write()
    if power:
        reboot(world, database)
    settle(world, database, how)


@pytest.mark.parametrize(
    ("how", "first"), [(how, number) for how in JOURNEYS for number in range(len(JOURNEYS[how]))]
)
def test_two_cuts_in_a_row_are_survived_wherever_they_are(how: str, first: int) -> None:
    for earlier, later in itertools.product(("during", "after", "unanswered"), repeat=2):
        for second in range(len(JOURNEYS[how])):
            world = opened(how)
            database = Database(world)
            run_until_death(world, Death(first, earlier))
            database.write()
            if second % 2:
                reboot(world, database)
            stop_database(world, how)
            run_until_death(world, Death(second, later))
            database.write()
            settle(world, database, how)


def test_a_disk_that_has_no_room_for_the_header_too_is_refused_before_it_is_claimed() -> None:
    world = opened(target=record("target", size=SIZE))
    error = run(world)
    assert error is not None
    assert error.problem is Problem.WRONG_DEVICE
    assert "too few" in error.detail
    assert world.broker.records[TARGET.volume].stage == "new"


def test_a_move_that_is_cancelled_leaves_the_plain_disk_in_use() -> None:
    world = opened()
    database = Database(world)
    run_until_death(world, Death(JOURNEYS["live"].index(Verify), "before"))
    database.write()
    world.broker.cancel(PLAIN.volume)
    assert run(world) is None
    database.check()
    assert holder(world).volume == PLAIN.volume
    assert world.legs[PLAIN.name] == (PLAIN.volume,)
    reboot(world, database)
