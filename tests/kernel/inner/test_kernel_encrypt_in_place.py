"""A plain ext4 that is encrypted in place, on the kernel's own dm-crypt; used again while that goes on.

The last test logs every write of it, from the first to the last, and cuts the power between any two of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent import devicemapper, lock, opened
from agent.change.course import CourseOutcome, Watch
from agent.change.workshop import Workshop
from agent.driver import Driver, VolumeOutcome
from agent.luks.header import Header, read_header
from agent.luks.hotzone import hot
from agent.places import Places
from agent.plan import steps
from keybroker.wire.problems import Problem
from keybroker.wire.profile import MIB
from keybroker.wire.records import Record
from keybroker.wire.reports import Activity
from keybroker.wire.values import replace
from tests.crash.memory_broker import MemoryBroker
from tests.crash.volumes import record
from tests.kernel import voyage
from tests.kernel.disks import image, loop
from tests.kernel.logged import DEVICE, Told, logged, run
from tests.kernel.voyage import BOOT, Writer

pytestmark = [pytest.mark.kernel, pytest.mark.limit(480)]

SIZE, ROOM = 56 * MIB, 8 * MIB
STILL = 20 * MIB
SEED = int(os.environ.get("KEYBROKER_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
LOGGED_SECONDS = float(os.environ.get("KEYBROKER_LOGGED_SECONDS", "30"))
"""How long power cuts are tried for."""

TWICE = 3
"""So many boots are cut that settle the last stretch (``agent.luks.hotzone``)."""

WAY = [
    steps.Unlink, steps.Announce, steps.Shelve, steps.Deposit, steps.Inscribe, steps.Open, steps.Link,
    steps.Reencrypt, steps.Tag, steps.Backup, steps.Finish,
]  # fmt: skip


class Stopped(Exception):
    """The agent ends here."""


@dataclass
class Hulk(voyage.OneVolume):
    """A machine with one plain volume."""

    broker: MemoryBroker
    device: Path
    mounted: Path
    directory: Path
    runtime: Path
    content: str = ""
    shop: Workshop = field(init=False)

    def __post_init__(self) -> None:
        self.shop = self.agent()

    def agent(self) -> Workshop:
        """Return another agent, as a new process would have it."""
        return voyage.workshop(self.broker, Places({self.now.volume: self.device}), self.runtime)

    def unlock(self) -> VolumeOutcome:
        (outcome,) = Driver(self.agent().world, BOOT).unlock((self.now,)).outcomes
        return outcome

    def settle_mounted(self, watch: Watch | None = None) -> CourseOutcome:
        """Settle, and mount it as soon as there is something to mount, as systemd does."""

        def mount(record: Record, activity: Activity | None) -> None:
            if activity is not None and activity.step == "Reencrypt" and activity.progress is None:
                assert self.unlock().error is None
            if watch is not None:
                watch(record, activity)

        return self.settle(mount)

    def header(self) -> Header:
        with self.device.open("rb", buffering=0) as disk:
            return read_header(lambda at, length: os.pread(disk.fileno(), length, at), SIZE)

    def unmount(self) -> None:
        run("umount", self.mounted)

    def close(self) -> None:
        (closed,) = lock.lock((self.now,), runtime=self.runtime)
        assert closed.error is None, closed.error

    def check(self) -> None:
        subprocess.run(["sysctl", "-q", "vm.drop_caches=3"], check=True)
        with (self.mounted / "table").open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == self.content

    def check_done(self) -> None:
        kept, header = self.now, self.header()
        assert (kept.stage, kept.order, kept.current) == ("ready", None, 1)
        assert kept.pin == header.pin
        assert kept.sequence == header.sequence
        assert len(header.keyslots) == len(header.digests) == len(header.segments) == 1
        assert header.token is not None
        assert [header.token.version(keyslot) for keyslot in header.keyslots] == [1]
        assert self.helpers() == []
        self.check()

    def helpers(self) -> list[str]:
        return [name for name in devicemapper.mapped() if name.startswith(f"{self.name}-")]

    def clean(self) -> None:
        with contextlib.suppress(AssertionError):
            self.close()
        for name in sorted(devicemapper.mapped(), key=len):
            if name.startswith("kb-"):
                subprocess.run(["dmsetup", "remove", "--force", name], check=False)


def plain(directory: Path, size: int = SIZE - ROOM) -> tuple[Path, str]:
    """Make a disk with a filesystem on it; return its file and the digest of what is in it."""
    disk, point = image(directory / "disk", SIZE), directory / "before"
    point.mkdir(exist_ok=True)
    held = random.Random(7).randbytes(STILL)
    with loop(disk) as device:
        run("mkfs.ext4", "-q", device, f"{size >> 10}k")
        run("mount", device, point)
        (point / "table").write_bytes(held)
        run("umount", point)
    return disk, hashlib.sha256(held).hexdigest()


@contextlib.contextmanager
def afloat(directory: Path, device: Path, content: str) -> Iterator[Hulk]:
    mounted = directory / "data"
    new = replace(record(size=SIZE, mount=str(mounted)), stage="plain", current=None, wanted=None)
    made = Hulk(MemoryBroker([new]), device, mounted, directory, directory / "run", content)
    try:
        yield made
    finally:
        made.clean()


@pytest.fixture
def hulk(tmp_path: Path) -> Iterator[Hulk]:
    disk, content = plain(tmp_path)
    with loop(disk) as device, afloat(tmp_path, device, content) as made:
        assert made.unlock().error is None
        made.check()
        yield made
    disk.unlink()  # pytest would keep it, and it is memory here


def ordered(hulk: Hulk, rate: int | None = None) -> None:
    hulk.broker.encrypt(hulk.now.volume)
    if rate is not None:
        assert hulk.now.order is not None
        hulk.broker.order(hulk.now.volume, replace(hulk.now.order, rate=rate))


def test_it_is_encrypted_under_a_constant_load_and_told_as_plaintext_until_then(hulk: Hulk) -> None:
    hulk.unmount()
    ordered(hulk)
    said: list[Activity] = []
    writer = Writer(hulk.mounted, hulk.directory)

    def watch(kept: Record, activity: Activity | None) -> None:
        if activity is None:
            return
        if activity.step == "Reencrypt" and activity.progress is None:
            (status,) = opened.status([kept], hulk.shop.world.mappings, runtime=hulk.runtime)
            assert (status.state, status.detail) == ("open", "plaintext until it is encrypted")
            assert status.fact is not None
            hulk.check()
            writer.start()
        said.append(activity)

    outcome = hulk.settle_mounted(watch)
    time.sleep(0.2)
    writer.going = False
    writer.join()
    assert outcome.error is None, outcome.error
    assert [type(step) for step in outcome.steps if not isinstance(step, steps.Ask)] == WAY
    hulk.check_done()
    progress = [each.progress for each in said if each.progress is not None]
    assert (progress[0].done, progress[-1].done) == (0, progress[-1].total)
    print(f"{voyage.acknowledged(hulk.directory)} writes meanwhile, the longest took {writer.longest:.2f} s")
    hulk.close()
    assert hulk.unlock().error is None
    hulk.check_done()
    wrote = {int(line) for line in (hulk.mounted / "journal").read_text().split()}
    assert wrote >= set(range(1, voyage.acknowledged(hulk.directory) + 1))
    hulk.close()


def test_no_plaintext_is_left_on_the_disk(hulk: Hulk) -> None:
    secret = b"a row that nobody is to read" * 20
    (hulk.mounted / "row").write_bytes(secret)
    hulk.unmount()
    assert secret[:28] in hulk.device.read_bytes()
    ordered(hulk)
    assert hulk.settle().error is None
    hulk.unlock()
    hulk.close()
    held = hulk.device.read_bytes()
    assert secret[:28] not in held
    assert random.Random(7).randbytes(4096) not in held


def test_a_boot_in_the_middle_opens_it_and_the_rest_is_done(hulk: Hulk) -> None:
    hulk.unmount()
    ordered(hulk, rate=MIB)

    def stop(kept: Record, activity: Activity | None) -> None:
        if activity is not None and activity.progress is not None and activity.progress.done > 0:
            raise Stopped

    with pytest.raises(Stopped):
        hulk.settle_mounted(stop)
    assert hulk.helpers() == []
    hulk.check()
    assert hulk.agent().world.mappings.look(hulk.now).reach == "open"
    hulk.close()
    outcome = hulk.unlock()
    assert outcome.error is None, outcome.error
    assert [type(step) for step in outcome.steps] == [steps.Open, steps.Link, steps.Mount]
    hulk.check()
    assert hulk.now.order is not None
    hulk.broker.order(hulk.now.volume, replace(hulk.now.order, rate=None))
    assert hulk.settle().error is None
    hulk.check_done()


def test_a_look_at_any_moment_of_the_work_finds_the_volume_open(hulk: Hulk) -> None:
    hulk.unmount()
    ordered(hulk, rate=24 * MIB)
    seen: list[str] = []
    going = threading.Event()

    def look() -> None:
        while not going.is_set():
            found = hulk.agent().world.mappings.look(hulk.now)
            seen.append(found.obstacle or found.reach)

    watcher = threading.Thread(target=look)

    def watch(kept: Record, activity: Activity | None) -> None:
        if activity is not None and activity.step == "Reencrypt" and activity.progress is None:
            watcher.start()

    outcome = hulk.settle_mounted(watch)
    going.set()
    watcher.join()
    assert outcome.error is None, outcome.error
    print(f"looked {len(seen)} times")
    assert set(seen) == {"open"}, set(seen)
    hulk.check_done()


def test_a_mounted_volume_is_left_in_use(hulk: Hulk) -> None:
    ordered(hulk)
    outcome = hulk.settle()
    assert outcome.error is not None
    assert outcome.error.problem is Problem.IN_USE
    hulk.check()
    assert hulk.now.order is not None
    assert hulk.now.order.phase == "ordered"


def test_a_filesystem_that_takes_all_of_the_disk_is_left_alone(tmp_path: Path) -> None:
    disk, content = plain(tmp_path, SIZE)
    with loop(disk) as device, afloat(tmp_path, device, content) as hulk:
        assert hulk.unlock().error is None
        ordered(hulk)
        outcome = hulk.settle()
        assert outcome.error is not None
        assert outcome.error.problem is Problem.CONFLICT
        assert f"resize2fs DISK {(SIZE - ROOM) >> 10}K" in (outcome.error.hint or "")
        hulk.close()
        # as the hint says
        run("e2fsck", "-f", "-p", device)
        run("resize2fs", device, f"{(SIZE - ROOM) >> 10}K")
        assert hulk.settle_mounted().error is None
        hulk.check_done()
    disk.unlink()


def test_a_filesystem_that_is_not_clean_is_left_alone(hulk: Hulk) -> None:
    hulk.close()
    run("debugfs", "-w", "-R", "clri <12>", hulk.device)
    before = hashlib.sha256(hulk.device.read_bytes()).hexdigest()
    ordered(hulk)
    outcome = hulk.settle()
    assert outcome.error is not None
    assert "not clean" in outcome.error.detail
    assert hulk.now.order is not None
    assert hulk.now.order.phase == "ordered"
    assert hashlib.sha256(hulk.device.read_bytes()).hexdigest() == before


def test_no_power_cut_between_any_two_writes_costs_a_byte(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    disk, content = plain(tmp_path)
    with logged(disk, 4 * SIZE) as voyage_of, afloat(tmp_path, DEVICE, content) as hulk:
        ordered(hulk)
        assert hulk.settle(voyage_of.watch(hulk.broker)).error is None
    met: Counter[str] = Counter()
    until = time.monotonic() + LOGGED_SECONDS
    while time.monotonic() < until or len(met) < 3:
        told = voyage_of.cut(chance, tmp_path / "cut")
        met[_boot(tmp_path, content, told, goes_on=chance.random() < 0.5)] += 1
    unfinished = voyage_of.unfinished()
    assert unfinished
    for end in unfinished:
        _boot(tmp_path, content, voyage_of.stop(end, tmp_path / "cut"), goes_on=True)
    for _ in range(TWICE):
        told = voyage_of.stop(voyage_of.in_work(), tmp_path / "cut")
        with logged(tmp_path / "cut", 4 * SIZE) as boot, afloat(tmp_path, DEVICE, content) as hulk:
            told.again(hulk.broker)
            assert hot(hulk.header()) is not None
            assert hulk.unlock().error is None
        boot.tear(chance, tmp_path / "cut")
        _boot(tmp_path, content, told, goes_on=True)
    print(f"{sum(met.values())} cuts between {len(voyage_of.entries)} writes: {dict(met)}")


def _boot(directory: Path, content: str, told: Told, *, goes_on: bool) -> str:
    """Boot after a cut, hold the content, and go on to the end if asked to; say how it was opened."""
    with loop(directory / "cut") as device, afloat(directory, device, content) as hulk:
        told.again(hulk.broker)
        outcome = hulk.unlock()
        assert outcome.error is None, outcome.error
        hulk.check()
        if goes_on:
            if hulk.now.is_bare:
                hulk.unmount()
            settled = hulk.settle_mounted()
            assert settled.error is None, settled.error
            hulk.unlock()
            hulk.check_done()
        hulk.close()
    return " ".join(type(step).__name__ for step in outcome.steps)
