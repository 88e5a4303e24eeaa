"""The cuts of a move on real LUKS2 headers, real openings and wipes, and the real broker's database.

Claim, Deposit, Inscribe, Open, Wipe and the broker's own are real; Mirror, Copy, Verify and Drop need
device-mapper and are noted only, as ``tests.crash.file_legs`` says. tests/kernel cuts those.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.change.disks import undertake
from agent.driver import Driver
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.profile import MIB
from keybroker.wire.records import Record
from tests.crash.file_legs import MovedFiles
from tests.crash.mortal import MOMENTS, Death, Mortal
from tests.crash.service_broker import ServiceBroker, Wanted
from tests.crash.test_crash_memory import BOOT
from tests.crash.test_crash_migration import JOURNEYS
from tests.crash.volumes import SIZE


class Moved:
    """A volume in use on a real header, that is to be moved to another disk."""

    def __init__(self, directory: Path, how: str) -> None:
        self.how, self.count = how, 0
        self.broker = ServiceBroker(directory / "broker", Wanted("data", SIZE, "ext4", "/srv/data"))
        self.world = MovedFiles(directory, self.broker, self.broker.records)
        self.world.attach(self.broker.records[0])
        self.boot()
        ordered = self.broker.order("data", "migrate", offline=how == "offline")
        assert ordered.partner is not None
        self.volumes: tuple[VolumeId, VolumeId] = (ordered.volume, ordered.partner)
        self.world.attach(self.broker.record(ordered.partner))
        self.stop()

    @property
    def records(self) -> list[Record]:
        return [self.broker.record(volume) for volume in self.volumes]

    @property
    def holder(self) -> Record:
        (found,) = [each for each in self.records if each.role == "holder"]
        return found

    def stop(self) -> None:
        if self.how == "offline":
            self.world.mounted.clear()

    def write(self) -> None:
        if self.world.mounted:
            self.count += 1
            self.world.write_rows(self.holder, f"rows {self.count}")

    def boot(self) -> None:
        """Lose power, boot: the holder's disk opens by a key of the broker's, and has every row."""
        self.world.power_cut()
        report = Driver(self.world.world(), BOOT, keep=self.world.keep).unlock(self.world.layout)
        assert report.error is None
        (outcome,) = report.outcomes
        assert outcome.error is None, outcome.error
        if self.count:
            assert outcome.record.volume == self.holder.volume
            assert self.world.rows_of(self.holder).read_text() == f"rows {self.count}"
        self.count += 1
        self.world.write_rows(outcome.record, f"rows {self.count}")

    def run(self, mortal: Mortal | None = None) -> KeybrokerError | None:
        shop = mortal.workshop if mortal else self.world.workshop(self.broker)
        done = undertake(shop, BOOT, self.records, watch=lambda record, doing: None)
        return next((each.error for each in done.values() if each.error is not None), None)

    def run_until_death(self, death: Death) -> Mortal:
        mortal = Mortal(self.world.workshop(self.broker), self.world, death).until_death(self.run)
        self.world.held.clear()
        return mortal

    def check_moved(self) -> None:
        old, new = self.records
        assert (new.role, new.stage, new.order) == ("holder", "ready", None)
        assert (old.role, old.stage) == ("former", "erased")
        with self.world.disk(old).open("rb") as disk:
            assert not any(disk.read(4 * MIB)), "something is left of the old header"
        assert self.world.made == 1, "a filesystem was made where the data went"
        self.boot()


@pytest.fixture
def moved(tmp_path: Path, how: str) -> Iterator[Moved]:
    site = Moved(tmp_path, how)
    yield site
    site.broker.close()


@pytest.mark.parametrize("how", JOURNEYS)
def test_a_move_takes_each_step_once(moved: Moved) -> None:
    mortal = Mortal(moved.world.workshop(moved.broker), moved.world)
    assert moved.run(mortal) is None
    assert tuple(mortal.journey) == JOURNEYS[moved.how]
    moved.check_moved()


@pytest.mark.parametrize("moment", [each for each in MOMENTS if each != "before"])  # after the one before it
@pytest.mark.parametrize(
    ("how", "effect"), [(how, number) for how in JOURNEYS for number in range(len(JOURNEYS[how]))]
)
def test_a_move_that_is_cut_anywhere_is_finished_by_the_next_run(
    moved: Moved, effect: int, moment: str
) -> None:
    assert not moved.run_until_death(Death(effect, moment)).survived
    moved.write()
    moved.boot()
    moved.stop()
    assert moved.run() is None
    moved.check_moved()


@pytest.mark.parametrize(
    ("how", "effect"), [(how, number) for how in JOURNEYS for number in range(len(JOURNEYS[how]))]
)
def test_two_cuts_in_a_row_are_survived(moved: Moved, effect: int) -> None:
    """The second one a step or two on, in the middle of it; the model has every pair."""
    moved.run_until_death(Death(effect, "after"))
    moved.write()
    moved.run_until_death(Death(1 + effect % 2, "during"))
    moved.write()
    moved.boot()
    moved.stop()
    assert moved.run() is None
    moved.check_moved()
