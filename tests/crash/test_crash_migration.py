"""A move to another disk that is cut anywhere: one disk holds the data, it opens, and no write is lost.

A database writes all the time: a row before each cut and one after each boot. At the end, the volume is on
the new disk with the last of them, the old one has no header, and the broker knows.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from agent.change.disks import undertake, undertakings
from agent.change.workshop import Headers
from agent.plan import steps
from agent.plan.situation import Mapping
from agent.plan.steps import (
    Ask,
    Backup,
    Claim,
    Close,
    Copy,
    Deposit,
    Drop,
    Erased,
    Finish,
    Grow,
    Inscribe,
    Mirror,
    Open,
    Raise,
    Ready,
    Switch,
    Unlink,
    Verify,
    Wipe,
)
from agent.world import Disks, Sighting
from keybroker.wire.changes import SwitchRequest
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from tests.crash.memory_world import Disk, MemoryWorld
from tests.crash.mortal import MOMENTS, Crash, Death, Mortal
from tests.crash.test_crash_memory import BOOT
from tests.crash.test_crash_memory import run as boot
from tests.crash.volumes import SIZE, record

READY = (Ask, Claim, Deposit, Inscribe, Ask, Open, Ready)
COMMIT = (Verify, Raise, Backup, Switch)
END = (Close, Wipe, Erased)
LIVE = (*READY, Mirror, Copy, *COMMIT, Drop, *END)
OFFLINE = (*READY, Unlink, Copy, *COMMIT, *END)
JOURNEYS = {"live": LIVE, "offline": OFFLINE}

DATA = record()
TARGET = record("target")


def opened(how: str = "live", *, target: Record = TARGET) -> MemoryWorld:
    """Return a machine whose volume is in use, and is to be moved; offline, nothing has it mounted."""
    world = MemoryWorld([DATA])
    boot(world)
    world.write_rows(DATA, "rows 0")
    world.disks[target.serial] = Disk(replace(world.disks[DATA.serial].device, serial=target.serial))
    world.broker.migrate(DATA.volume, target, offline=how == "offline")
    if how == "offline":
        world.mounted.clear()
    return world


def holder(world: MemoryWorld) -> Record:
    (found,) = [each for each in world.broker.records.values() if each.role == "holder"]
    return found


def run(world: MemoryWorld, mortal: Mortal | None = None) -> KeybrokerError | None:
    """Run one agent with what the broker says now; return what stopped it."""
    workshop = mortal.workshop if mortal else world.workshop()
    outcomes = undertake(
        workshop, BOOT, tuple(world.broker.records.values()), watch=lambda record, doing: None
    )
    return next((each.error for each in outcomes.values() if each.error is not None), None)


def run_until_death(world: MemoryWorld, death: Death) -> Mortal:
    mortal = Mortal(world.workshop(), world, death).until_death(lambda mortal: run(world, mortal))
    world.end_process()
    return mortal


class Database:
    """Writes a row each time it can; what it wrote last must be read ever after."""

    def __init__(self, world: MemoryWorld) -> None:
        self.world = world
        self.last = "rows 0"
        self.count = 0

    def write(self) -> None:
        if self.world.mounted:
            self.check()
            self.count += 1
            self.last = f"rows {self.count}"
            (volume,) = self.world.mounted
            self.world.write_rows(self.world.broker.records[volume], self.last)

    def check(self) -> None:
        (volume,) = self.world.mounted
        assert self.world.rows(self.world.broker.records[volume]) == self.last


def reboot(world: MemoryWorld, database: Database) -> None:
    """Lose power, boot: exactly one disk holds the data, it opens, and has what was written last."""
    world.power_cut()
    report = boot(world)
    assert report.error is None
    (outcome,) = report.outcomes
    assert outcome.error is None, outcome.error
    assert outcome.record.volume == holder(world).volume
    database.check()
    database.write()


def stop_database(world: MemoryWorld, how: str) -> None:
    """Offline, an operator stops the database before the agent gets another try."""
    if how == "offline":
        world.mounted.clear()


def check_moved(world: MemoryWorld, database: Database, target: Record = TARGET) -> None:
    now, old = holder(world), world.broker.records[DATA.volume]
    assert (now.volume, now.stage, now.order, now.partner) == (target.volume, "ready", None, None)
    assert (old.role, old.stage) == ("former", "erased")
    assert world.disk(old).header == {}
    assert set(world.wiping.wiped) == {DATA.volume}
    assert len(world.made) == 1, "a filesystem was made where the data went"
    assert list(undertakings(world.broker.records.values())) == []
    reboot(world, database)


def settle(world: MemoryWorld, database: Database, how: str) -> None:
    stop_database(world, how)
    assert run(world) is None
    check_moved(world, database)


@pytest.mark.parametrize("how", JOURNEYS)
def test_a_move_takes_each_step_once(how: str) -> None:
    world = opened(how)
    database = Database(world)
    mortal = Mortal(world.workshop(), world)
    assert run(world, mortal) is None
    assert tuple(mortal.journey) == JOURNEYS[how]
    if how == "live":
        database.check()
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
    cut_twice = 0
    # to be cut before an effect is to be cut after the one before it
    for earlier, later in itertools.product(("during", "after", "unanswered"), repeat=2):
        for second in range(len(JOURNEYS[how])):
            world = opened(how)
            database = Database(world)
            run_until_death(world, Death(first, earlier))
            database.write()
            if second % 2:
                reboot(world, database)
            stop_database(world, how)
            cut_twice += not run_until_death(world, Death(second, later)).survived
            database.write()
            settle(world, database, how)
    print(f"{how}: cut at effect {first} and once more: {cut_twice} times")
    assert cut_twice >= 3


class Snapshots(Mortal):
    """Takes a snapshot of all disks before each effect, and where a copy is half-done."""

    def __init__(self, world: MemoryWorld) -> None:
        super().__init__(world.workshop(), world)
        self._world = world
        self.taken: list[tuple[type, dict[str, Disk]]] = []

    def begin(self, step: type, act: Callable[[], Any], arguments: tuple[Any, ...]) -> Any:
        self.taken.append((step, copy.deepcopy(self._world.disks)))
        return super().begin(step, act, arguments)


@pytest.mark.parametrize("cut", [False, True], ids=["in one run", "after a power cut"])
@pytest.mark.parametrize("how", JOURNEYS)
def test_a_snapshot_from_the_middle_of_a_move_is_refused_once_the_volume_has_moved(
    how: str, cut: bool
) -> None:
    world = opened(how)
    database = Database(world)
    if cut:  # its header was raised once before, and the copy began anew
        run_until_death(world, Death(JOURNEYS[how].index(Switch), "before"))
        reboot(world, database)
        stop_database(world, how)
    snapshots = Snapshots(world)
    assert run(world, snapshots) is None
    switched, refused = False, 0
    for step, disks in snapshots.taken:
        switched |= step is Switch
        world.power_cut()
        world.disks = copy.deepcopy(disks)
        (outcome,) = boot(world).outcomes
        if outcome.error is None:
            assert world.disks[TARGET.serial].inside == disks[DATA.serial].inside, "it lacks some of the data"
            continue
        assert not switched, outcome.error
        assert outcome.error.problem is Problem.HEADER_REFUSED
        assert world.reach == {}
        refused += "from the middle of the move" in outcome.error.detail
        run(world)
        assert world.disks[DATA.serial].header, "the disk that has everything was wiped"
    assert refused >= 4


@pytest.mark.parametrize("how", JOURNEYS)
def test_a_new_disk_that_takes_no_header_sends_the_volume_back(how: str) -> None:
    world = opened(how)
    database = Database(world)
    run_until_death(world, Death(JOURNEYS[how].index(Raise), "before"))
    stop_database(world, how)
    shop = world.workshop()
    deaf = replace(shop, headers=cast(Headers, Deaf()))
    outcomes = undertake(deaf, BOOT, tuple(world.broker.records.values()), watch=lambda record, doing: None)
    (error,) = [each.error for each in outcomes.values()]
    assert error is not None
    assert "cannot be written" in error.detail
    assert world.legs.get(DATA.name, ()) in ((), (DATA.volume,))
    world.end_process()
    settle(world, database, how)


class Deaf:
    """Headers that take no write."""

    def raise_sequence(self, record: Record) -> int:
        raise OSError(5, "Input/output error")


def test_a_larger_disk_is_filled_before_the_old_one_is_wiped() -> None:
    target = record("target", size=2 * SIZE)
    world = opened(target=target)
    world.disks[target.serial].device = replace(world.disks[target.serial].device, size_bytes=2 * SIZE)
    world.disks[DATA.serial].inside.linear = world.disks[DATA.serial].inside.size = world.size(DATA.volume)
    database = Database(world)
    mortal = Mortal(world.workshop(), world)
    assert run(world, mortal) is None
    assert tuple(mortal.journey) == (*LIVE[: -len(END)], Grow, Grow, *END)
    check_moved(world, database, target)
    inside = world.disks[target.serial].inside
    assert inside.linear == inside.size == world.size(target.volume)


def test_a_volume_that_is_in_use_is_not_moved_offline() -> None:
    world = opened("offline")
    world.mounted.add(DATA.volume)
    error = run(world)
    assert error is not None
    assert error.problem is Problem.IN_USE
    assert world.legs[DATA.name] == (DATA.volume,)


@pytest.mark.parametrize("left", range(1, len(END) + 1))
def test_a_broker_that_is_set_back_to_before_the_switch_has_neither_disk_opened_nor_written_to(
    left: int,
) -> None:
    world = opened()
    database = Database(world)
    run_until_death(world, Death(LIVE.index(Switch), "before"))
    backup = dict(world.broker.records)
    rest = (Ask, Verify, Raise, Ask, Backup, Switch, Drop, *END)
    run_until_death(world, Death(len(rest) - left, "before"))
    reboot(world, database)  # the broker says here who holds the data now
    now = dict(world.broker.records)
    world.broker.records = dict(backup)
    for _ in range(2):  # what the set back broker says must not be what is remembered
        world.power_cut()
        (outcome,) = boot(world).outcomes
        assert outcome.error is not None
        assert outcome.error.problem is Problem.CONFLICT
        assert world.reach == {}
    world.broker.records = now
    reboot(world, database)
    settle(world, database, "live")


def test_a_broker_that_is_set_back_is_known_even_if_the_agent_died_as_soon_as_the_disk_was_left() -> None:
    world = opened()
    database = Database(world)
    backup = dict(world.broker.records)
    mortal = Mortal(world.workshop(), world, Death(LIVE.index(Close), "before"))

    def keep(records: tuple[Record, ...]) -> None:
        kept = {each.volume: each for each in (*world.layout, *records)}
        world.keep(tuple(kept.values()))

    with pytest.raises(Crash):
        undertake(mortal.workshop, BOOT, backup.values(), watch=lambda record, doing: None, keep=keep)
    database.write()  # to the new disk alone
    world.broker.records = backup
    world.power_cut()
    (outcome,) = boot(world).outcomes
    assert outcome.error is not None, "the disk that was left is opened, and lacks a row"
    assert outcome.error.problem is Problem.CONFLICT


class Sick:
    """Disks of which one cannot be looked at."""

    def __init__(self, disks: Disks, sick: Record) -> None:
        self._disks, self._sick = disks, sick

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disks, name)

    def look(self, record: Record) -> Sighting:
        if record.volume == self._sick.volume:
            raise OSError(5, "Input/output error")
        return self._disks.look(record)


@pytest.mark.parametrize("after", [Copy, Drop], ids=["before the switch", "after the switch"])
def test_a_disk_that_fails_under_a_mirror_is_dropped_by_an_agent_that_comes_new_to_it(after: type) -> None:
    world = opened()
    database = Database(world)
    run_until_death(world, Death(LIVE.index(after), "before"))
    left = TARGET if after is Copy else DATA
    world.failing = "the disk: a write failed"
    world.reach[left.volume] = Mapping(obstacle="its disk cannot be opened")
    shop = world.workshop()
    broken = replace(shop, world=replace(shop.world, disks=cast(Disks, Sick(shop.world.disks, left))))
    undertake(broken, BOOT, tuple(world.broker.records.values()), watch=lambda record, doing: None)
    assert world.legs[DATA.name] == (holder(world).volume,)
    database.write()


@pytest.mark.parametrize("how", JOURNEYS)
def test_a_switch_that_arrives_after_the_old_disk_was_opened_anew_comes_too_late(how: str) -> None:
    world = opened(how)
    database = Database(world)
    run_until_death(world, Death(JOURNEYS[how].index(Switch), "before"))
    sent = switch_request(world)
    reboot(world, database)  # and it writes, to the old disk alone
    with pytest.raises(KeybrokerError) as caught:
        world.broker.switch(TARGET.volume, sent)
    assert caught.value.problem is Problem.CONFLICT
    reboot(world, database)
    settle(world, database, how)


def test_a_switch_that_arrives_after_the_volume_went_back_to_its_old_disk_comes_too_late() -> None:
    world = opened()
    database = Database(world)
    run_until_death(world, Death(LIVE.index(Switch), "before"))
    sent = switch_request(world)
    world.failing = "the target: a write failed"
    error = run(world)
    assert error is not None
    assert "given up" in error.detail
    assert world.legs[DATA.name] == (DATA.volume,)
    database.write()
    with pytest.raises(KeybrokerError) as caught:
        world.broker.switch(TARGET.volume, sent)
    assert caught.value.problem is Problem.CONFLICT
    world.failing = ""
    settle(world, database, "live")


def switch_request(world: MemoryWorld) -> SwitchRequest:
    """Return what an agent asks for that was killed as it did: it may be on its way for long."""
    old, new = world.broker.records[DATA.volume], world.broker.records[TARGET.volume]
    return SwitchRequest(new.revision, old.revision, world.size(DATA.volume), new.sequence or 0)


@pytest.mark.parametrize("effect", range(LIVE.index(Switch) + 1))
def test_a_move_that_is_cancelled_leaves_the_volume_where_it_was_and_erases_the_other_disk(
    effect: int,
) -> None:
    world = opened()
    database = Database(world)
    run_until_death(world, Death(effect, "before"))
    database.write()
    world.broker.cancel(DATA.volume)
    written = "header" if world.disks[TARGET.serial].header else ""
    assert run(world) is None
    database.check()
    assert holder(world).volume == DATA.volume
    assert world.legs[DATA.name] == (DATA.volume,)
    assert world.broker.records[TARGET.volume].stage == "erased"
    assert world.disks[TARGET.serial].header == {}, written
    reboot(world, database)


def test_the_old_disk_is_not_wiped_while_the_new_one_is_not_open() -> None:
    world = opened()
    database = Database(world)
    run_until_death(world, Death(LIVE.index(Wipe), "before"))
    database.write()
    world.power_cut()
    error = run(world)
    assert error is not None
    assert "is not erased before" in error.detail
    assert world.disks[DATA.serial].header
    reboot(world, database)
    settle(world, database, "live")


def test_an_old_disk_that_is_gone_is_trouble_and_holds_nothing_else_up() -> None:
    world = opened()
    database = Database(world)
    run_until_death(world, Death(LIVE.index(Wipe), "before"))
    gone = world.disks.pop(DATA.serial)
    error = run(world)
    assert error is not None
    assert error.problem is Problem.NO_DEVICE
    reboot(world, database)
    world.disks[DATA.serial] = gone
    settle(world, database, "live")


def test_a_disk_that_has_something_on_it_is_never_a_target() -> None:
    world = opened()
    world.disks[TARGET.serial].foreign = "ext4"
    error = run(world)
    assert error is not None
    assert error.problem is Problem.NOT_BLANK
    assert world.broker.records[TARGET.volume].stage == "new"


def test_a_disk_that_is_too_small_is_refused_before_it_is_claimed() -> None:
    world = opened(target=record("target", size=SIZE // 2))
    disk = world.disks[TARGET.serial]
    disk.device = replace(disk.device, size_bytes=SIZE // 2)
    error = run(world)
    assert error is not None
    assert error.problem is Problem.WRONG_DEVICE
    assert "too few" in error.detail
    assert world.broker.records[TARGET.volume].stage == "new"


ERASURE = (Unlink, Close, Wipe, Erased)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("effect", range(len(ERASURE)))
def test_an_erasure_that_is_cut_anywhere_is_done_again(effect: int, moment: str) -> None:
    world = MemoryWorld([DATA])
    boot(world)
    world.broker.order(DATA.volume, Order(1, "erase"))
    error = run(world)
    assert error is not None
    assert error.problem is Problem.IN_USE
    assert world.disks[DATA.serial].header
    world.mounted.clear()
    mortal = run_until_death(world, Death(effect, moment))
    assert tuple(mortal.journey) == ERASURE[: len(mortal.journey)]
    assert run(world) is None
    kept = world.broker.records[DATA.volume]
    assert (kept.stage, kept.order) == ("erased", None)
    assert world.disks[DATA.serial].header == {}
    assert run(world) is None


@pytest.mark.parametrize("first", range(len(ERASURE)))
def test_an_erasure_that_is_cut_twice_is_done_again(first: int) -> None:
    cut_twice = 0
    for earlier, later in itertools.product(MOMENTS, MOMENTS):
        for second in range(len(ERASURE)):
            world = MemoryWorld([DATA])
            boot(world)
            world.broker.order(DATA.volume, Order(1, "erase"))
            world.mounted.clear()
            run_until_death(world, Death(first, earlier))
            if second % 2:
                world.power_cut()
            cut_twice += not run_until_death(world, Death(second, later)).survived
            assert run(world) is None
            kept = world.broker.records[DATA.volume]
            assert (kept.stage, kept.order) == ("erased", None)
            assert world.disks[DATA.serial].header == {}
    print(f"an erasure: cut at effect {first} and once more: {cut_twice} times")
    assert cut_twice >= 3


GROWTH = (Grow, Grow, Finish)


def grown() -> MemoryWorld:
    """Return a machine whose volume's disk has grown, and is to be filled."""
    world = MemoryWorld([DATA])
    boot(world)
    world.write_rows(DATA, "rows 0")
    inside = world.disks[DATA.serial].inside
    inside.linear = inside.size = world.size(DATA.volume) - 8 * 2**20
    world.broker.order(DATA.volume, Order(1, "resize"))
    return world


def check_grown(world: MemoryWorld, database: Database) -> None:
    inside = world.disks[DATA.serial].inside
    assert (inside.linear, inside.size) == (world.size(DATA.volume), world.size(DATA.volume))
    assert holder(world).order is None
    reboot(world, database)


def test_a_disk_that_has_grown_is_filled_and_the_order_is_done() -> None:
    world = grown()
    mortal = Mortal(world.workshop(), world)
    assert run(world, mortal) is None
    assert tuple(mortal.journey) == GROWTH
    assert set(steps.CHANGE_STEPS) >= set(mortal.journey)
    check_grown(world, Database(world))


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("effect", range(len(GROWTH)))
def test_growing_that_is_cut_anywhere_is_finished_by_the_next_run(
    effect: int, moment: str, power: bool
) -> None:
    world = grown()
    database = Database(world)
    assert not run_until_death(world, Death(effect, moment)).survived
    database.write()
    if power:
        reboot(world, database)
    assert run(world) is None
    check_grown(world, database)


@pytest.mark.parametrize("first", range(len(GROWTH)))
def test_growing_that_is_cut_twice_is_finished_by_the_next_run(first: int) -> None:
    for earlier, later in itertools.product(MOMENTS, MOMENTS):
        for second in range(len(GROWTH)):
            world = grown()
            database = Database(world)
            run_until_death(world, Death(first, earlier))
            database.write()
            if second % 2:
                reboot(world, database)
            run_until_death(world, Death(second, later))
            database.write()
            assert run(world) is None
            check_grown(world, database)
