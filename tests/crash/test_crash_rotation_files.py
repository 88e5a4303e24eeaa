"""The cuts of a rotation on real LUKS2 headers and the real broker's database.

cryptsetup's own keyslots, tokens and kills; ``keybroker.service`` on SQLite.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.change.course import Course, CourseOutcome
from agent.driver import Driver
from agent.luks import copy, cryptsetup
from agent.plan.rotation import live
from agent.plan.steps import Ask, Clear
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import Problem
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret
from tests.crash.file_world import FileWorld
from tests.crash.mortal import MOMENTS, Death, Mortal
from tests.crash.service_broker import ServiceBroker, Wanted
from tests.crash.test_crash_memory import BOOT
from tests.crash.test_crash_rotation import ROTATION
from tests.crash.volumes import SIZE


class Rotated:
    """A volume in use, on a real header and at a real broker."""

    def __init__(self, directory: Path) -> None:
        self.broker = ServiceBroker(directory / "broker", Wanted("data", SIZE, "ext4", "/srv/data"))
        self.world = FileWorld(directory, self.broker, self.broker.records)
        self.boot()

    @property
    def record(self) -> Record:
        return self.broker.record("data")

    def key(self, version: int) -> Secret:
        return self.broker.keys(self.record.volume)[KeyVersion(version)]

    def boot(self) -> None:
        self.world.power_cut()
        report = Driver(self.world.world(), BOOT, keep=self.world.keep).unlock(self.world.layout)
        (outcome,) = report.outcomes
        assert outcome.error is None, outcome.error

    def run(self, mortal: Mortal | None = None) -> CourseOutcome:
        workshop = mortal.workshop if mortal else self.world.workshop(self.broker)
        return Course(workshop, BOOT, self.record).settle()

    def run_until_death(self, death: Death) -> Mortal:
        return Mortal(self.world.workshop(self.broker), self.world, death).until_death(self.run)

    def header(self) -> bytes:
        with self.world.disk(self.record).open("rb") as disk:
            return disk.read(4 << 20)

    def opens(self, version: int) -> bool:
        key, keyslots = self.key(version), self.world.luks(self.record).keyslots
        with self.world.open(self.record) as disk:
            return any(cryptsetup.opens(disk.fd, keyslot=keyslot, key=key) for keyslot in keyslots)

    def check_rotated(self, version: int) -> None:
        kept, luks = self.record, self.world.luks(self.record)
        assert (kept.current, kept.wanted, kept.staged, kept.retiring) == (version, version, None, None)
        assert len(luks.keyslots) == 1
        assert self.opens(version)
        assert not self.opens(version - 1)
        assert luks.token is not None
        assert [luks.token.version(keyslot) for keyslot in luks.keyslots] == [version]
        assert len(luks.tokens) == 1
        assert not luks.degraded
        assert kept.sequence == luks.sequence
        whole = copy.unpack(self.broker.header_copy(kept.volume).copy)
        header = self.header()
        assert all(header[offset : offset + len(held)] == held for offset, held in whole.extents)
        self.boot()

    def settle(self, version: int = 2) -> None:
        outcome = self.run()
        assert outcome.error is None, outcome.error
        self.check_rotated(version)
        assert [type(step) for step in self.run().steps] == [Ask]


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Rotated]:
    rotated = Rotated(tmp_path)
    yield rotated
    rotated.broker.close()


def test_a_rotation_takes_each_step_once(volume: Rotated) -> None:
    volume.broker.rotate()
    outcome = volume.run()
    assert outcome.error is None
    assert tuple(type(step) for step in outcome.steps) == ROTATION
    volume.check_rotated(2)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("effect", range(len(ROTATION)))
def test_a_rotation_that_is_cut_anywhere_is_finished_by_the_next_run(
    volume: Rotated, effect: int, moment: str
) -> None:
    volume.broker.rotate()
    assert not volume.run_until_death(Death(effect, moment)).survived
    assert any(volume.opens(version) for version in live(volume.record))
    volume.boot()
    volume.settle()


@pytest.mark.parametrize("moments", [("after", "during"), ("during", "after")], ids="-".join)
@pytest.mark.parametrize("first", range(len(ROTATION)))
def test_two_cuts_in_a_row_are_survived(volume: Rotated, first: int, moments: tuple[str, str]) -> None:
    """The second one at the first effect that the next run has beyond its Ask; the model has every pair."""
    volume.broker.rotate()
    earlier, later = moments
    volume.run_until_death(Death(first, earlier))
    again = volume.run_until_death(Death(1, later))
    assert again.survived == (first == len(ROTATION) - 1 and earlier == "after")
    assert any(volume.opens(version) for version in live(volume.record))
    volume.boot()
    volume.settle()


def test_forty_rotations_leave_one_keyslot_and_one_token(volume: Rotated) -> None:
    for version in range(2, 42):
        volume.broker.rotate()
        outcome = volume.run()
        assert outcome.error is None, (version, outcome.error)
    volume.check_rotated(41)


def test_a_current_key_that_opens_nothing_changes_no_byte(volume: Rotated) -> None:
    snapshot = volume.header()
    volume.broker.rotate()
    volume.settle()
    with volume.world.disk(volume.record).open("r+b") as disk:
        disk.write(snapshot)
    volume.broker.rotate()
    before = hashlib.sha256(volume.world.disk(volume.record).read_bytes()).digest()
    outcome = volume.run()
    assert outcome.error is not None
    assert outcome.error.problem is Problem.LOCKED_OUT
    assert "older snapshot" in outcome.error.detail
    assert hashlib.sha256(volume.world.disk(volume.record).read_bytes()).digest() == before
    assert volume.record.staged is None


def test_a_keyslot_of_somebody_else_still_opens_after_a_rotation(volume: Rotated, tmp_path: Path) -> None:
    (tmp_path / "ours").write_bytes(volume.key(1).reveal())
    (tmp_path / "theirs").write_bytes(b"a recovery passphrase")
    subprocess.run(
        ["cryptsetup", "luksAddKey", "--batch-mode", "--key-file", tmp_path / "ours", "--pbkdf", "pbkdf2",
         "--pbkdf-force-iterations", "1000", volume.world.disk(volume.record), tmp_path / "theirs"],
        check=True,
    )  # fmt: skip
    volume.broker.rotate()
    outcome = volume.run()
    assert outcome.error is None
    assert volume.record.current == KeyVersion(2)
    assert sum(isinstance(step, Clear) for step in outcome.steps) == 1
    assert not volume.opens(1)
    theirs = ["--test-passphrase", "--key-file", str(tmp_path / "theirs")]
    subprocess.run(["cryptsetup", "open", *theirs, volume.world.disk(volume.record)], check=True)
