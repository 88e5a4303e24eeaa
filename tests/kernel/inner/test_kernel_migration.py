"""A live move between two LUKS2 volumes, on a real kernel: dm-mirror under a filesystem that is in use."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import devicemapper
from agent.change.wipe import MachineWiping
from agent.change.workshop import Wiped
from keybroker.wire.problems import KeybrokerError, Problem
from tests.kernel.disks import MIB
from tests.kernel.pair import Pair, pair, run

pytestmark = pytest.mark.kernel


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Pair]:
    with pair(tmp_path) as made:
        yield made


class Writer(threading.Thread):
    """Appends a line and has it on the medium, over and over.

    Attributes:
        lines: that were acknowledged.
        longest: seconds that one took.
        error: what a write or an fsync raised.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.lines = 0
        self.longest = 0.0
        self.error: OSError | None = None
        self._end = threading.Event()

    def run(self) -> None:
        with self.path.open("wb", buffering=0) as file:
            while not self._end.is_set():
                begun = time.monotonic()
                try:
                    file.write(b"%d\n" % self.lines)
                    os.fsync(file.fileno())
                except OSError as error:
                    self.error = error
                    return
                self.lines += 1
                self.longest = max(self.longest, time.monotonic() - begun)

    def stop(self) -> None:
        self._end.set()
        self.join()

    def check(self) -> None:
        assert self.error is None
        assert self.path.read_bytes() == b"".join(b"%d\n" % line for line in range(self.lines))


@pytest.fixture
def mounted(two: Pair, tmp_path: Path) -> Iterator[Path]:
    run("mkfs.ext4", "-q", two.top)
    point = tmp_path / "srv"
    point.mkdir()
    run("mount", two.top, point)
    (point / "big").write_bytes(os.urandom(24 * MIB))
    os.sync()
    yield point
    two.let_go()
    subprocess.run(["umount", point], check=False)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_mounted_filesystem_under_constant_writes_moves_and_its_old_disk_is_closed(
    two: Pair, mounted: Path
) -> None:
    before = digest(mounted / "big")
    writer = Writer(mounted / "log")
    writer.start()
    time.sleep(0.5)
    assert two.legs.look(two.holder, two.successor).legs == (two.holder.volume,)
    two.legs.mirror(two.holder, two.successor)
    assert len(two.legs.look(two.holder, two.successor).legs) == 2
    two.legs.wait(two.holder, two.watch)
    compared, differs = two.legs.verify(two.holder, two.successor, two.watch)
    assert (compared, differs) == (44 * MIB, "")
    two.legs.drop(two.successor, two.holder)
    assert two.legs.look(two.successor, two.holder).legs == (two.successor.volume,)
    two.legs.close(two.holder)
    assert two.crypt(two.holder).name not in devicemapper.mapped()
    run("dmsetup", "load", "below-old", "--table", f"0 {48 * MIB // 512} error")
    run("dmsetup", "resume", "below-old")
    time.sleep(0.5)
    writer.stop()
    print(f"\n{writer.lines} lines, the longest took {writer.longest:.3f} s")
    writer.check()
    run("umount", mounted)
    run("e2fsck", "-fn", two.top)
    run("mount", two.top, mounted)
    writer.check()
    assert digest(mounted / "big") == before
    run("umount", mounted)


def slowly(done: int, total: int) -> None:
    time.sleep(0.02)


def settle(two: Pair) -> None:
    """Bring both legs in sync and have them compared."""
    two.legs.mirror(two.holder, two.successor)
    two.legs.wait(two.holder, two.watch)
    assert two.legs.look(two.holder, two.successor).in_sync


@pytest.mark.parametrize("moment", ["copying", "alike"])
def test_a_target_that_fails_is_left_without_an_error_for_whoever_writes(
    two: Pair, mounted: Path, moment: str
) -> None:
    before = digest(mounted / "big")
    writer = Writer(mounted / "log")
    writer.start()
    two.legs.mirror(two.holder, two.successor)
    if moment == "alike":
        two.legs.wait(two.holder, two.watch)
    two.put_below("new", f"0 {48 * MIB // 512} error")
    two.legs.wait(two.holder, two.watch)
    while not (failure := two.legs.look(two.holder, two.successor).failure):
        time.sleep(0.05)
    assert failure.startswith("the target: ")
    two.legs.drop(two.holder, two.successor)
    assert two.legs.look(two.holder, two.successor).legs == (two.holder.volume,)
    held = writer.lines
    time.sleep(1)
    writer.stop()
    assert writer.lines > held
    print(f"\n{failure}; the longest write took {writer.longest:.3f} s")
    writer.check()
    run("umount", mounted)
    run("e2fsck", "-fn", two.top)
    run("mount", two.top, mounted)
    writer.check()
    assert digest(mounted / "big") == before


def test_a_leg_that_failed_ends_the_comparison_at_once(two: Pair, mounted: Path) -> None:
    settle(two)
    flushing = threading.Thread(target=run, args=["sync", "-f", mounted])

    def fail(done: int, total: int) -> None:
        if done == 8 * MIB:
            two.put_below("new", f"0 {48 * MIB // 512} error")
            (mounted / "more").write_bytes(b"rows")
            flushing.start()
            while not two.legs.look(two.holder, two.successor).failure:
                time.sleep(0.05)

    compared, differs = two.legs.verify(two.holder, two.successor, fail)
    assert compared == 0
    assert not differs or "cannot be read" in differs
    two.legs.drop(two.holder, two.successor)
    flushing.join(30)
    assert not flushing.is_alive()
    assert (mounted / "more").read_bytes() == b"rows"


def test_a_sector_that_one_disk_lost_is_found_though_the_volume_is_written_to(
    two: Pair, mounted: Path
) -> None:
    writer = Writer(mounted / "log")
    writer.start()
    settle(two)
    place = 4 * MIB + 37 * MIB + 1024
    with two.disks["new"].open("r+b", buffering=0) as disk:
        disk.seek(place)
        disk.write(os.urandom(512))
        os.fsync(disk.fileno())
    compared, differs = two.legs.verify(two.holder, two.successor, two.watch)
    assert compared == 0
    assert str(37 * MIB) in differs
    two.legs.drop(two.holder, two.successor)
    writer.stop()
    writer.check()


def test_the_new_holders_leg_is_not_left_alone_before_it_has_everything(two: Pair, mounted: Path) -> None:
    two.put_below("new", f"0 {48 * MIB // 512} error")
    two.legs.mirror(two.holder, two.successor)
    with pytest.raises(KeybrokerError) as caught:
        two.legs.drop(two.successor, two.holder)
    assert caught.value.problem is Problem.MISMATCH
    assert len(two.legs.look(two.holder, two.successor).legs) == 2
    two.legs.drop(two.holder, two.successor)


def test_an_agent_that_was_killed_while_everybody_waited_for_it_is_followed_by_one_that_lets_them_go_on(
    two: Pair, mounted: Path
) -> None:
    settle(two)
    run("dmsetup", "load", "kb-data", "--table", f"0 {44 * MIB // 512} zero")
    run("dmsetup", "suspend", "--noflush", "--nolockfs", "kb-data")
    writer = Writer(mounted / "log")
    writer.start()
    time.sleep(0.3)
    assert writer.lines == 0
    assert len(two.agent().look(two.holder, two.successor).legs) == 2
    time.sleep(0.3)
    writer.stop()
    assert writer.lines > 0
    writer.check()
    two.legs.drop(two.holder, two.successor)


def test_each_effect_may_be_repeated(two: Pair, mounted: Path) -> None:
    for _ in range(2):
        settle(two)
    for _ in range(2):
        two.legs.drop(two.successor, two.holder)
    for _ in range(2):
        two.legs.close(two.holder)
    run("umount", mounted)
    for _ in range(2):
        two.legs.unlink(two.successor)


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_larger_target_is_taken_and_a_smaller_one_is_not(tmp_path: Path, sector: int) -> None:
    with pair(tmp_path, sizes=(32 * MIB, 48 * MIB), sector=sector) as two:
        settle(two)
        two.legs.drop(two.successor, two.holder)
        assert two.legs.look(two.successor, two.holder).size_bytes == 28 * MIB


def test_a_smaller_target_is_refused(tmp_path: Path) -> None:
    with pair(tmp_path, sizes=(48 * MIB, 32 * MIB)) as two:
        with pytest.raises(KeybrokerError, match="cannot take"):
            two.legs.mirror(two.holder, two.successor)
        assert two.legs.look(two.holder, two.successor).legs == (two.holder.volume,)


def test_a_target_that_is_mounted_is_refused(two: Pair, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", two.crypt(two.successor))
    (tmp_path / "point").mkdir()
    run("mount", two.crypt(two.successor), tmp_path / "point")
    try:
        with pytest.raises(KeybrokerError) as caught:
            two.legs.mirror(two.holder, two.successor)
        assert caught.value.problem is Problem.IN_USE
        assert "the mount on" in caught.value.detail
    finally:
        run("umount", two.crypt(two.successor))


def test_a_volume_that_is_used_is_not_copied_offline_nor_taken_away(two: Pair, mounted: Path) -> None:
    with pytest.raises(KeybrokerError) as caught:
        two.legs.unlink(two.holder)
    assert caught.value.problem is Problem.IN_USE
    with pytest.raises(KeybrokerError) as caught:
        two.legs.copy(two.holder, two.successor, two.watch)
    assert caught.value.problem is Problem.IN_USE
    assert two.legs.look(two.holder, two.successor).used_by == f"the mount on {mounted}"


def test_an_offline_copy_that_is_killed_at_random_moments_goes_on_and_is_held_exclusively(
    tmp_path: Path,
) -> None:
    seed = random.randrange(1 << 32)
    print(f"\nseed {seed}")
    chance = random.Random(seed)
    with pair(tmp_path, sizes=(64 * MIB, 72 * MIB), link=False) as two:
        with two.crypt(two.holder).open("r+b", buffering=0) as source:
            for _ in range(60):
                source.write(os.urandom(MIB))
            os.fsync(source.fileno())
        for _ in range(6):
            child = os.fork()
            if child == 0:
                two.agent().copy(two.holder, two.successor, slowly)
                os._exit(0)
            time.sleep(chance.uniform(0.02, 0.5))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        with pytest.raises(KeybrokerError) as caught:
            two.legs.verify(two.holder, two.successor, two.watch)
        assert caught.value.problem is Problem.IN_USE
        two.legs.copy(two.holder, two.successor, two.watch)
        assert two.progress[-1] == (60 * MIB, 60 * MIB)
        with pytest.raises(KeybrokerError) as caught:
            two.agent().copy(two.holder, two.successor, two.watch)
        assert caught.value.problem is Problem.IN_USE
        assert two.legs.verify(two.holder, two.successor, two.watch) == (60 * MIB, "")
        two.legs.release()
        assert two.crypt(two.holder).read_bytes() == two.crypt(two.successor).read_bytes()[: 60 * MIB]


def until_free(wipe: Callable[[], Wiped]) -> Wiped:
    """Wipe a disk that a program which the killed one had started may still hold for a moment."""
    until = time.monotonic() + 20
    while True:
        try:
            return wipe()
        except KeybrokerError as error:
            if "is in use" not in error.detail or time.monotonic() > until:
                raise
        time.sleep(0.1)


@pytest.mark.parametrize("cut", [0.0, 0.01, 0.03, 0.1])
def test_a_header_that_is_half_gone_is_wiped_again_and_no_signature_is_left(
    two: Pair, tmp_path: Path, cut: float
) -> None:
    run("dmsetup", "remove", "kb-data")
    two.legs.close(two.holder)
    wiping = MachineWiping(two.legs.places)
    child = os.fork()
    if child == 0:
        wiping.wipe(two.holder, slowly)
        os._exit(0)
    time.sleep(cut)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wiped = until_free(lambda: wiping.wipe(two.holder, two.watch))
    assert wiped.length == 4 * MIB
    assert wiped.method.startswith("overwritten")
    with two.disks["old"].open("rb") as disk:
        assert not any(disk.read(4 * MIB))
        assert disk.read(MIB) is not None
    assert subprocess.run(["blkid", "--probe", two.disks["old"]], check=False).returncode == 2
    assert two.progress[-1][0] == two.progress[-1][1]


def test_a_disk_that_is_open_or_has_become_anothers_is_not_wiped(two: Pair) -> None:
    wiping = MachineWiping(two.legs.places)
    with pytest.raises(KeybrokerError, match="is in use"):
        wiping.wipe(two.holder, two.watch)
    run("dmsetup", "remove", "kb-data")
    two.legs.close(two.holder)
    other = dataclasses.replace(two.holder, luks_uuid=two.successor.luks_uuid)
    with pytest.raises(KeybrokerError, match="nothing was written"):
        wiping.wipe(other, two.watch)
    run("mkfs.ext4", "-q", "-F", two.disks["old"])
    with pytest.raises(KeybrokerError, match="ext4 is on the disk"):
        wiping.wipe(two.holder, two.watch)
