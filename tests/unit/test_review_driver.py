"""What one volume's trouble costs the others: nothing, whatever the trouble is."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import devices
from agent.driver import Boot, Driver, Report
from agent.places import Places
from agent.world import World
from keybroker.wire.problems import Problem
from keybroker.wire.records import Record
from tests.crash.memory_world import MemoryWorld
from tests.crash.volumes import record

BOOT = Boot("1b4e28ba-2fa1-41d2-883f-0016d3cca427", "0" * 32, "0.1.0")
DATA, LOGS, SWAP = record(), record("logs", mount="/srv/logs"), record("swap", filesystem="swap")
LIMIT_SECONDS = 5.0


@pytest.fixture
def settled() -> MemoryWorld:
    """All three volumes are ready, and the machine was switched off."""
    world = MemoryWorld([DATA, LOGS, SWAP])
    assert refusals(run(world)) == {}
    world.power_cut()
    return world


def run(memory: MemoryWorld, world: World | None = None) -> Report:
    return Driver(world or memory.world(), BOOT, keep=memory.keep).unlock(memory.layout)


def refusals(report: Report) -> dict[str, Problem]:
    return {each.record.name: each.error.problem for each in report.outcomes if each.error is not None}


class Wrapped:
    """A part of the world of which a test replaces one method."""

    def __init__(self, part: Any) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


class Until(Wrapped):
    """Disks that are waited for until something else has happened."""

    def __init__(self, part: Any, happened: Callable[[], bool]) -> None:
        super().__init__(part)
        self._happened = happened
        self.in_vain = False

    def wait(self, records: Sequence[Record]) -> None:
        over = threading.Event()
        for _ in range(int(LIMIT_SECONDS / 0.01)):
            if self._happened():
                return
            over.wait(0.01)
        self.in_vain = True


def test_a_swap_disk_that_never_comes_does_not_keep_the_data_waiting(settled: MemoryWorld) -> None:
    del settled.disks[SWAP.serial]
    world = settled.world()
    disks = Until(world.disks, lambda: {DATA.volume, LOGS.volume} <= settled.mounted)
    report = run(settled, replace(world, disks=disks))
    assert not disks.in_vain, "the data volumes were opened only after the wait for swap was over"
    assert refusals(report) == {"swap": Problem.NO_DEVICE}


def test_of_two_late_disks_the_one_that_comes_is_opened_while_the_other_is_waited_for(
    settled: MemoryWorld,
) -> None:
    del settled.disks[LOGS.serial]
    held = settled.disks.pop(DATA.serial)
    world = settled.world()

    waits: list[tuple[set[str], bool]] = []

    class OneComes(Wrapped):
        def wait(self, records: Sequence[Record]) -> None:
            waits.append(({each.name for each in records}, DATA.volume in settled.mounted))
            settled.disks[DATA.serial] = held  # the first to come

    report = run(settled, replace(world, disks=OneComes(world.disks)))
    assert refusals(report) == {"logs": Problem.NO_DEVICE}
    assert DATA.volume in settled.mounted
    assert waits == [({"data", "logs"}, False), ({"logs"}, True)]


class Broken(Wrapped):
    """A part of the world one method of which fails for one volume as a dying disk does."""

    def __init__(self, part: Any, method: str) -> None:
        super().__init__(part)
        self._method = method

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._part, name)
        if name != self._method:
            return real

        def fails(known: Record, *more: Any) -> Any:
            if known.name == "data":
                raise OSError(errno.EIO, "Input/output error")
            return real(known, *more)

        return fails


@pytest.mark.parametrize(
    ("part", "method"),
    [
        ("disks", "look"), ("disks", "inscribe"), ("disks", "compose"), ("mappings", "look"),
        ("mappings", "open"), ("mappings", "link"), ("filesystems", "look"), ("filesystems", "make"),
        ("filesystems", "mount"),
    ],
)  # fmt: skip
def test_a_disk_that_cannot_be_read_or_written_is_its_own_volumes_trouble(part: str, method: str) -> None:
    memory = MemoryWorld([DATA, LOGS, SWAP])
    world = memory.world()
    report = run(memory, replace(world, **{part: Broken(getattr(world, part), method)}))
    assert refusals(report) == {"data": Problem.NO_DEVICE}
    assert LOGS.volume in memory.mounted
    assert memory.reach[SWAP.volume].reach == "open"


def test_a_disk_is_waited_for_until_it_can_be_opened(tmp_path: Path) -> None:
    """The kernel shows a disk in sysfs before its node is in /dev."""
    node = tmp_path / "vdb"
    places = Places(find=lambda serial: node)
    timer = threading.Timer(0.3, node.touch)
    timer.start()
    places.wait([DATA], deadline=time.monotonic() + 20)
    timer.join()
    assert node.exists()


def test_a_lost_event_does_not_cost_the_whole_deadline(tmp_path: Path) -> None:
    looks = 0

    def find(serial: str) -> Path | None:
        nonlocal looks
        looks += 1
        return tmp_path if looks > 2 else None

    asked: list[float] = []

    @contextmanager
    def deaf() -> Iterator[Callable[[float], object]]:
        yield asked.append

    assert devices.wait({"disk"}, deadline=time.monotonic() + 600, find=find, listen=deaf) == {
        "disk": tmp_path
    }
    assert asked == [devices.LONGEST_SILENCE_SECONDS]
