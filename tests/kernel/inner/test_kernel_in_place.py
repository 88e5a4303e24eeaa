"""Why cryptsetup does not begin an encryption in place: what 2.6.1 writes then, and in which order.

If one of these fails, cryptsetup may have become safe there: read ``agent/shelf.py`` again.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.volumes import key_of
from tests.kernel.disks import MIB, image, loop
from tests.kernel.writes import FLUSH, FUA, SECTOR, Entry, entries

pytestmark = pytest.mark.kernel

SIZE, FILESYSTEM, MOVED = 64 * MIB, 32 * MIB, 16 * MIB
UNUSABLE = 12
"""Of e2fsck(8)'s exit status: errors are left, or it could not work at all."""


def run(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True, slots=True)
class Beginning:
    """A disk with a shrunk ext4, its key, and every write that cryptsetup began with."""

    plain: bytes
    key: Path
    writes: Sequence[Entry]

    def after_a_cut(self, path: Path, survives: Callable[[Entry], int]) -> AbstractContextManager[Path]:
        """Attach the disk as it is after a power cut.

        Args:
            survives: how many bytes of a write got to the medium.
        """
        path.write_bytes(self.plain)
        with path.open("r+b") as file:
            for write in self.writes:
                file.seek(write.offset)
                file.write(write.data[: survives(write)])
        return loop(path)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Beginning:
    directory = tmp_path_factory.mktemp("begun")
    disk, log, key = image(directory / "disk", SIZE), image(directory / "log", 3 * SIZE), directory / "key"
    run("mkfs.ext4", "-q", "-F", disk, f"{FILESYSTEM >> 10}k")
    plain = disk.read_bytes()
    key.write_bytes(key_of("data").reveal())
    with loop(disk) as device, loop(log) as logged:
        run("dmsetup", "create", "logged", "--table", f"0 {SIZE // SECTOR} log-writes {device} {logged}")
        run("dmsetup", "mknodes")  # there is no udev
        try:
            run(
                "cryptsetup", "reencrypt", "--encrypt", "--init-only", "--batch-mode", "--type", "luks2",
                "--reduce-device-size", str(2 * MOVED), "--key-file", key, "--pbkdf", "pbkdf2",
                "--pbkdf-force-iterations", "1000", "--resilience", "checksum", "/dev/mapper/logged",
                cwd=directory,
            )  # fmt: skip
        finally:
            run("dmsetup", "remove", "--retry", "logged")
        writes = tuple(entries(logged))
    for large in (disk, log):
        large.unlink()  # it is memory here
    return Beginning(plain, key, writes)


def is_moved(write: Entry) -> bool:
    return write.offset >= SIZE - MOVED


def test_nothing_is_flushed_between_the_filesystems_beginning_and_the_header_that_goes_over_it(
    begun: Beginning,
) -> None:
    copied = [number for number, write in enumerate(begun.writes) if write.data and is_moved(write)]
    over = [number for number, write in enumerate(begun.writes) if write.data and write.offset < MOVED]
    flushed = [number for number, write in enumerate(begun.writes) if write.flags & (FLUSH | FUA)]
    assert sum(len(begun.writes[number].data) for number in copied) == MOVED
    assert flushed, "the log would say of a flush"
    assert not [number for number in flushed if copied[0] <= number <= over[0]]


@pytest.mark.parametrize("copied", [True, False])
def test_a_header_that_got_to_the_medium_without_the_copy_opens_to_no_filesystem(
    begun: Beginning, tmp_path: Path, copied: bool
) -> None:
    def survives(write: Entry) -> int:
        return len(write.data) if copied or not is_moved(write) else 0

    with begun.after_a_cut(tmp_path / "cut", survives) as device:
        run("cryptsetup", "open", "--key-file", begun.key, device, "lost")
        run("dmsetup", "mknodes")
        try:
            told = subprocess.run(["e2fsck", "-n", "/dev/mapper/lost"], capture_output=True, check=False)
        finally:
            run("cryptsetup", "close", "lost")
    (tmp_path / "cut").unlink()
    assert bool(told.returncode & UNUSABLE) is not copied, told.stdout


def test_half_a_header_is_neither_opened_nor_mended_nor_a_filesystem(
    begun: Beginning, tmp_path: Path
) -> None:
    def survives(write: Entry) -> int:
        return len(write.data) if is_moved(write) else 8192 if write.offset == 0 else 0

    with begun.after_a_cut(tmp_path / "cut", survives) as device:
        for verb in ("luksDump", "repair"):
            command = ["cryptsetup", verb, "--batch-mode", "--key-file", begun.key, device]
            assert subprocess.run(command, capture_output=True, check=False).returncode != 0
        kind = subprocess.run(["blkid", "-p", device], capture_output=True, check=False).stdout
    (tmp_path / "cut").unlink()
    assert b"ext4" not in kind
