"""A run over all volumes: who is asked what, who waits for whom, and what one volume costs the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.driver import Boot, Driver, Report, VolumeOutcome
from agent.parallel import at_once
from agent.passage import LIMIT, NotConverging
from agent.plan import steps
from agent.plan.situation import Content, Mapping
from agent.world import World
from keybroker.wire.names import VolumeName
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from tests.crash.memory_world import Disk, MemoryWorld
from tests.crash.moved_site import Forgetful
from tests.crash.volumes import record

BOOT = Boot("1b4e28ba-2fa1-41d2-883f-0016d3cca427", "0" * 32, "0.1.0")
DATA, LOGS, SWAP = record(), record("logs", mount="/srv/logs"), record("swap", filesystem="swap")


@pytest.fixture
def settled() -> MemoryWorld:
    """All three volumes are ready, and the machine was switched off."""
    world = MemoryWorld([DATA, LOGS, SWAP])
    assert refusals(run(world)) == {}
    world.power_cut()
    world.broker.requests.clear()
    return world


def run(memory: MemoryWorld, world: World | None = None, known: tuple[Record, ...] | None = None) -> Report:
    driver = Driver(world or memory.world(), BOOT, keep=memory.keep)
    return driver.unlock(memory.layout if known is None else known)


def outcome(report: Report, name: str) -> VolumeOutcome:
    return next(each for each in report.outcomes if each.record.name == name)


def refusals(report: Report) -> dict[str, Problem]:
    return {each.record.name: each.error.problem for each in report.outcomes if each.error is not None}


def named(memory: MemoryWorld) -> list[list[str]]:
    names = {each.volume: each.name for each in memory.broker.records.values()}
    return [[names[seen.volume] for seen in request.observations] for request in memory.broker.requests]


def test_a_usual_boot_is_one_request_that_names_the_data_volumes(settled: MemoryWorld) -> None:
    report = run(settled)
    assert refusals(report) == {}
    assert named(settled) == [["data", "logs"]]
    assert {each.result for each in report.outcomes} == {"opened"}
    assert settled.waited == []


def test_a_second_run_finds_all_open_and_names_nothing(settled: MemoryWorld) -> None:
    run(settled)
    report = run(settled)
    assert {each.result for each in report.outcomes} == {"already"}
    assert named(settled) == [["data", "logs"], []]


def test_a_lost_layout_costs_one_more_request(settled: MemoryWorld) -> None:
    report = run(settled, known=())
    assert refusals(report) == {}
    assert named(settled) == [[], ["data", "logs", "swap"]]
    assert {each.name for each in settled.layout} == {"data", "logs", "swap"}


def test_a_volume_that_is_new_to_the_layout_is_looked_at_and_asked_for_once_more(
    settled: MemoryWorld,
) -> None:
    report = run(settled, known=tuple(each for each in settled.layout if each.name != "logs"))
    assert refusals(report) == {}
    assert named(settled) == [["data"], ["logs"]]


def test_a_refused_volume_does_not_stop_the_others(settled: MemoryWorld) -> None:
    settled.disks[DATA.serial].header.clear()
    report = run(settled)
    assert refusals(report) == {"data": Problem.HEADER_REFUSED}
    assert outcome(report, "logs").result == outcome(report, "swap").result == "opened"


def test_a_late_disk_is_waited_for_after_the_others_are_open(settled: MemoryWorld) -> None:
    settled.arriving[DATA.serial] = settled.disks.pop(DATA.serial)
    report = run(settled)
    assert refusals(report) == {}
    assert settled.waited == ["data"]
    assert named(settled) == [["logs"], ["data"]]


def test_a_disk_that_never_comes_is_reported_to_the_broker_and_refused(settled: MemoryWorld) -> None:
    del settled.disks[DATA.serial]
    report = run(settled)
    assert refusals(report) == {"data": Problem.NO_DEVICE}
    assert settled.broker.requests[-1].observations[0].sight == "absent"
    assert outcome(report, "logs").result == "opened"


def test_while_all_disks_are_still_to_come_the_broker_is_asked_whether_they_are_wanted() -> None:
    world = MemoryWorld([DATA])
    world.arriving[DATA.serial] = world.disks.pop(DATA.serial)
    assert refusals(run(world)) == {}
    assert named(world)[:2] == [[], ["data"]]
    assert world.waited == ["data"]


@pytest.mark.parametrize("name", ["data", "logs"])
def test_the_only_disk_is_gone_for_good_and_the_new_one_is_opened_without_waiting_for_it(name: str) -> None:
    world = MemoryWorld([DATA])
    assert refusals(run(world)) == {}
    world.power_cut()
    made_anew(world, name)
    erase(world)
    report = run(world)
    assert outcome(report, name).result == "opened"
    assert world.waited == []


def test_where_the_only_disk_is_missing_the_new_one_is_opened_first(settled: MemoryWorld) -> None:
    settled.layout = tuple(each for each in settled.layout if each.name == "data")
    del settled.disks[DATA.serial]
    world = settled.world()
    opened = []

    class Waited(Unreadable):
        def wait(self, records: Any) -> None:
            opened.append(LOGS.volume in settled.mounted)

        def look(self, known: Record) -> Any:
            return self._disks.look(known)

    report = run(settled, replace(world, disks=Waited(world.disks)))
    assert refusals(report) == {"data": Problem.NO_DEVICE}
    assert opened == [True]


def test_late_swap_is_waited_for_without_a_broker(settled: MemoryWorld) -> None:
    settled.broker.reachable = False
    settled.arriving[SWAP.serial] = settled.disks.pop(SWAP.serial)
    report = run(settled)
    assert outcome(report, "swap").result == "opened"
    assert refusals(report) == {"data": Problem.UNREACHABLE, "logs": Problem.UNREACHABLE}


def test_without_a_broker_what_is_open_stays_in_use_and_is_mounted(settled: MemoryWorld) -> None:
    run(settled)
    settled.mounted.clear()
    settled.reach[LOGS.volume] = Mapping()
    settled.broker.reachable = False
    report = run(settled)
    assert report.error is not None
    assert report.error.problem is Problem.UNREACHABLE
    assert refusals(report) == {"logs": Problem.UNREACHABLE}
    assert [type(step) for step in outcome(report, "data").steps] == [steps.Mount]
    assert outcome(report, "swap").result == "already"


def test_a_broker_that_fails_only_for_the_late_disks_leaves_the_others_open(settled: MemoryWorld) -> None:
    settled.arriving[DATA.serial] = settled.disks.pop(DATA.serial)
    world = settled.world()
    report = run(settled, replace(world, disks=GoesDown(world.disks, settled)))
    assert report.error is not None
    assert refusals(report) == {"data": Problem.UNREACHABLE}
    assert outcome(report, "logs").result == "opened"


class GoesDown:
    """Disks whose waiting outlasts the broker."""

    def __init__(self, disks: Any, memory: MemoryWorld) -> None:
        self._disks, self._memory = disks, memory

    def wait(self, records: Any) -> None:
        self._disks.wait(records)
        self._memory.broker.reachable = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disks, name)


def test_a_volume_that_the_broker_no_longer_names_leaves_the_layout_but_is_not_touched(
    settled: MemoryWorld,
) -> None:
    run(settled)
    del settled.broker.records[LOGS.volume]
    report = run(settled)
    assert refusals(report) == {"logs": Problem.UNKNOWN}
    assert {each.name for each in settled.layout} == {"data", "swap"}
    assert settled.reach[LOGS.volume].reach == "open"


def test_the_records_are_kept_before_the_first_step_and_after_the_last() -> None:
    world = MemoryWorld([DATA])
    kept: list[str] = []
    Driver(world.world(), BOOT, keep=lambda records: kept.extend(each.stage for each in records)).unlock(())
    assert kept == ["new", "ready"]


def test_a_revision_that_went_on_meanwhile_costs_one_question(settled: MemoryWorld) -> None:
    world = MemoryWorld([DATA])
    real = world.world()
    report = run(world, replace(real, broker=Faster(world)))
    assert refusals(report) == {}
    assert [type(step) for step in report.outcomes[0].steps][:3] == [steps.Ask, steps.Claim, steps.Deposit]


class Faster:
    """Somebody else changes the record right before the first claim."""

    def __init__(self, memory: MemoryWorld) -> None:
        self._memory, self._done = memory, False

    def claim(self, volume: Any, request: Any) -> Any:
        if not self._done:
            self._done = True
            now = self._memory.broker.records[volume]
            self._memory.broker.records[volume] = replace(now, revision=now.revision + 1)
        return self._memory.broker.claim(volume, request)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory.broker, name)


def test_a_conflict_that_stays_is_an_error_after_one_question() -> None:
    world = MemoryWorld([DATA])
    real = world.world()
    report = run(world, replace(real, broker=Always(world)))
    assert refusals(report) == {"data": Problem.CONFLICT}
    assert len(world.broker.requests) == 2


class Always(Faster):
    def claim(self, volume: Any, request: Any) -> Any:
        raise KeybrokerError(Problem.CONFLICT, "somebody else's")


def test_trouble_with_looking_is_the_volumes_own(settled: MemoryWorld) -> None:
    world = settled.world()
    report = run(settled, replace(world, disks=CannotLook(world.disks)))
    assert refusals(report) == {"data": Problem.WRONG_DEVICE}


class CannotLook:
    def __init__(self, disks: Any) -> None:
        self._disks = disks

    def look(self, known: Record) -> Any:
        if known.name == "data":
            raise KeybrokerError(Problem.WRONG_DEVICE, "two disks have its serial")
        return self._disks.look(known)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disks, name)


def test_steps_that_lead_nowhere_end() -> None:
    world = MemoryWorld([DATA])
    run(world)
    world.power_cut()
    real = world.world()
    report = run(world, replace(real, mappings=NeverOpen(real.mappings)))
    (only,) = report.outcomes
    assert isinstance(only.error, NotConverging)
    assert len(only.steps) == LIMIT


class NeverOpen:
    def __init__(self, mappings: Any) -> None:
        self._mappings = mappings

    def look(self, known: Record) -> Mapping:
        return Mapping()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mappings, name)


def test_what_is_in_the_way_of_one_volume_is_not_of_the_others(settled: MemoryWorld) -> None:
    settled.reach[DATA.volume] = Mapping(obstacle="somebody's")
    report = run(settled)
    assert refusals(report) == {"data": Problem.WRONG_DEVICE}
    assert named(settled) == [["logs"]]


def test_a_filesystem_is_not_looked_into_once_the_volume_is_ready(settled: MemoryWorld) -> None:
    world = settled.world()
    report = run(settled, replace(world, filesystems=Blind(world.filesystems)))
    assert refusals(report) == {}


class Blind:
    def __init__(self, filesystems: Any) -> None:
        self._filesystems = filesystems

    def look(self, known: Record) -> Content:
        raise AssertionError("it was looked into")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filesystems, name)


def test_where_systemd_mounts_there_is_no_mount_step(settled: MemoryWorld) -> None:
    world = settled.world()
    report = run(settled, replace(world, filesystems=Elsewhere(world.filesystems)))
    assert steps.Mount not in [type(step) for step in outcome(report, "data").steps]


class Elsewhere(Blind):
    def mounted(self, known: Record) -> None:
        return None


def test_a_mistake_in_one_thread_is_raised_when_all_have_ended() -> None:
    ended = []

    def act(number: int) -> None:
        if number == 0:
            raise ZeroDivisionError
        ended.append(number)

    with pytest.raises(ZeroDivisionError):
        at_once(act, range(4))
    assert sorted(ended) == [1, 2, 3]


def made_anew(settled: MemoryWorld, name: str = "data") -> Record:
    """The data volume's disk is gone, and another volume is declared, with its name; return that."""
    memory, anew = settled, replace(record("another"), name=VolumeName(name))
    settled_broker, memory.broker = memory.broker, Forgetful(())
    vars(memory.broker).update(vars(settled_broker))
    memory.broker.records[anew.volume] = anew
    memory.disks[anew.serial] = Disk(replace(memory.disk(DATA).device, serial=anew.serial))
    del memory.disks[DATA.serial]
    memory.broker.requests.clear()
    return anew


def test_a_volume_that_was_erased_and_made_anew_is_asked_about_alone_and_its_name_is_free(
    settled: MemoryWorld,
) -> None:
    anew = made_anew(settled)
    erased = replace(settled.broker.records[DATA.volume], stage="erased")
    settled.broker.records[DATA.volume] = erased
    report = run(settled)
    assert refusals(report) == {}
    assert outcome(report, "data").record.volume == anew.volume
    logs, data = named(settled)[:2]
    assert logs == ["logs"]
    assert data == ["data"], "the keys of the others are not handed out a second time"


def test_a_volume_that_the_broker_forgot_keeps_its_name(settled: MemoryWorld) -> None:
    made_anew(settled)
    del settled.broker.records[DATA.volume]
    assert refusals(run(settled)) == {"data": Problem.CONFLICT}


class Unreadable:
    """Disks of which the first data volume's cannot be looked at."""

    def __init__(self, disks: Any) -> None:
        self._disks = disks

    def look(self, known: Record) -> Any:
        if known.volume == DATA.volume:
            raise OSError(5, "Input/output error")
        return self._disks.look(known)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disks, name)


def erase(memory: MemoryWorld) -> None:
    """Have the broker know that the data volume is erased."""
    memory.broker.records[DATA.volume] = replace(memory.broker.records[DATA.volume], stage="erased")


@pytest.mark.parametrize("why", ["open", "in the way", "unreadable"])
def test_a_volume_whose_disk_nobody_looked_at_is_asked_about_all_the_same(
    settled: MemoryWorld, why: str
) -> None:
    if why == "open":
        run(settled)
    elif why == "in the way":
        settled.reach[DATA.volume] = Mapping(obstacle="kb-data: is somebody else's")
    anew = made_anew(settled)
    erase(settled)
    world = settled.world()
    if why == "unreadable":
        world = replace(world, disks=Unreadable(world.disks))
    report = run(settled, world)
    assert outcome(report, "data").record.volume == anew.volume
    assert refusals(report).get("data") is not Problem.CONFLICT
    told = [seen for request in settled.broker.requests for seen in request.observations]
    assert [(seen.sight, seen.device) for seen in told if seen.volume == DATA.volume] == [("absent", None)]


@pytest.mark.parametrize("is_open", [False, True])
def test_a_broker_that_forgot_a_volume_frees_its_name_by_no_way_of_asking(
    settled: MemoryWorld, is_open: bool
) -> None:
    if is_open:
        run(settled)
    made_anew(settled)
    del settled.broker.records[DATA.volume]
    before = settled.layout
    assert refusals(run(settled)) == {"data": Problem.CONFLICT}
    assert [each for each in settled.layout if each.name == "data"] == [
        each for each in before if each.name == "data"
    ], "and the next boot knows it too"


def test_what_the_broker_said_was_erased_stays_so_when_a_late_disk_is_asked_about(
    settled: MemoryWorld,
) -> None:
    anew = made_anew(settled)
    erase(settled)
    settled.arriving[anew.serial] = settled.disks.pop(anew.serial)
    report = run(settled)
    assert refusals(report) == {}
    assert outcome(report, "data").record.volume == anew.volume
