"""The cuts of the model, on real LUKS2 headers, real filesystems and the real broker's database."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.driver import Driver, Report
from agent.luks import copy
from agent.plan import steps
from tests.crash.file_world import FileWorld
from tests.crash.mortal import MOMENTS, Death, Mortal
from tests.crash.service_broker import ServiceBroker, Wanted
from tests.crash.test_crash_memory import BOOT, DATA, REBOOT
from tests.crash.volumes import SIZE

ROWS = "rows that must outlive everything"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FileWorld]:
    broker = ServiceBroker(tmp_path / "broker", Wanted("data", SIZE, "ext4", "/srv/data"))
    yield FileWorld(tmp_path, broker, broker.records)
    broker.close()


def run(world: FileWorld, mortal: Mortal | None = None) -> Report:
    return Driver(mortal.world if mortal else world.world(), BOOT, keep=world.keep).unlock(world.layout)


def run_until_death(world: FileWorld, death: Death) -> None:
    mortal = Mortal(world.world(), world, death).until_death(lambda mortal: run(world, mortal))
    assert not mortal.survived
    world.power_cut()


def settle(world: FileWorld) -> None:
    report = run(world)
    assert report.error is None
    (outcome,) = report.outcomes
    assert outcome.error is None, outcome.error
    assert outcome.record.stage == "ready"
    assert outcome.record.volume in world.mounted


def write_rows(world: FileWorld) -> None:
    rows = world.directory / "rows"
    rows.write_text(ROWS)
    subprocess.run(
        ["debugfs", "-w", "-R", f"write {rows} rows", world.inside(world.layout[0])],
        check=True,
        capture_output=True,
    )


def rows(world: FileWorld) -> str:
    return subprocess.run(
        ["debugfs", "-R", "cat rows", world.inside(world.layout[0])],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("effect", range(len(DATA)))
def test_a_first_boot_that_is_cut_anywhere_is_finished_by_the_next(
    world: FileWorld, effect: int, moment: str
) -> None:
    run_until_death(world, Death(effect, moment))
    settle(world)
    record = world.layout[0]
    whole = copy.unpack(world.broker.header_copy(record.volume).copy)
    with world.disk(record).open("rb") as disk:
        assert disk.read(whole.total) == whole.read(0, whole.total)
    write_rows(world)
    world.power_cut()
    made = world.made
    settle(world)
    assert rows(world) == ROWS
    assert world.made == made


@pytest.mark.parametrize("moment", ["before", "during", "after"])
@pytest.mark.parametrize("effect", range(len(REBOOT)))
def test_rows_outlive_a_boot_that_is_cut_anywhere(world: FileWorld, effect: int, moment: str) -> None:
    settle(world)
    write_rows(world)
    world.power_cut()
    run_until_death(world, Death(effect, moment))
    settle(world)
    assert rows(world) == ROWS
    assert world.made == 1


def test_a_filesystem_of_somebody_else_in_the_volume_is_kept(world: FileWorld) -> None:
    run_until_death(world, Death(DATA.index(steps.MakeFilesystem), "before"))
    inside = world.inside(world.layout[0])
    subprocess.run(["mkswap", inside], check=True, capture_output=True)
    before = inside.read_bytes()
    (outcome,) = run(world).outcomes
    assert outcome.error is not None
    assert "swap is inside" in outcome.error.detail
    assert inside.read_bytes() == before
