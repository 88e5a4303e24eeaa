"""The filesystem inside an opened volume: what is there, and how one is made so that a cut shows as a cut.

``mkfs`` is no single write: cut short, it leaves a disk on which nothing is recognised, or a filesystem that
looks whole. So the last MiB of the volume is left out of the filesystem and first gets a mark, then ``mkfs``
runs, and then the mark is taken away, each flushed before the next:

| mark | recognised | on the disk below | means |
|---|---|---|---|
| yes | anything | – | our own making was cut short: make it again |
| no | the declared filesystem | – | it is made, or somebody's: keep it |
| no | nothing | zeros at both ends | nothing was ever written: make it |
| no | nothing | anything else | somebody's data that nobody recognises: refuse |

Only at the stage ``deposited`` does anyone ask. The mark is encrypted with the volume: who can write it has
the key.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Final

from agent import inscription
from agent.devices import OpenDevice
from agent.plan.situation import Content
from agent.process import run
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record

MARK_BYTES: Final = 4096
RESERVED_BYTES: Final = 1 << 20
"""At the volume's end; the mark is at its beginning."""

MKFS_SECONDS: Final = 600.0
_FOUND, _NOTHING, _AMBIVALENT = 0, 2, 8

LABEL_CHARACTERS: Final = {"ext4": 16, "xfs": 12}
"""mkfs.ext4(8) and mkfs.xfs(8), ``-L``; the first cuts a longer one with a warning, the second fails."""


def look(record: Record, disk: OpenDevice, path: Path) -> Content:
    """Say what is inside an opened volume; nothing is written.

    Args:
        disk: the volume's own disk, below the encryption.
        path: of the opened volume.

    Raises:
        KeybrokerError: TOOL_FAILED where blkid cannot be asked; NO_DEVICE where the volume cannot be read.
    """
    if record.pin is None:
        raise KeybrokerError(Problem.INTERNAL, f"{record.name}: it is not open, so nobody can look inside")
    inscription.forget_cache(disk.fd)
    untouched = inscription.is_untouched(disk.fd, disk.device.size_bytes, record.pin.data_offset)
    try:
        with closing(Opened(path)) as volume:
            return Content(
                kind=recognised(volume), untouched=untouched, unfinished=volume.bears(record.volume)
            )
    except OSError as error:
        raise KeybrokerError(Problem.NO_DEVICE, f"{path}: {error.strerror}") from error


def make(record: Record, disk: OpenDevice, path: Path) -> None:
    """Make the declared filesystem, if what ``look`` says now allows it; one that is made stays.

    Raises:
        KeybrokerError: NOT_BLANK, and nothing was written; TOOL_FAILED; NO_DEVICE.
    """
    content = look(record, disk, path)
    if content.kind == record.filesystem and not content.unfinished:
        return
    if not content.unfinished and (content.kind or not content.untouched):
        raise KeybrokerError(
            Problem.NOT_BLANK, f"{record.name}: {content.kind or 'something unknown'} is inside it"
        )
    try:
        with closing(Opened(path, writable=True)) as volume:
            volume.put(mark(record.volume))
            size = volume.size_bytes - RESERVED_BYTES
        run(*command(record, path, size), timeout_seconds=MKFS_SECONDS)
        with closing(Opened(path, writable=True)) as volume:
            os.fsync(volume.fd)  # mkfs flushes what it wrote; a filesystem is not worth relying on that
            volume.put(bytes(MARK_BYTES))
    except OSError as error:
        raise KeybrokerError(Problem.NO_DEVICE, f"{path}: {error.strerror}") from error


def command(record: Record, path: Path, size_bytes: int) -> tuple[str, ...]:
    """Return the command that makes a filesystem of that size in bytes.

    No discard: it would tell the storage which blocks are in use, and is what a cut takes longest to repeat.
    The force is right: that nothing but our own remains is overwritten was decided before.
    """
    label = record.name[: LABEL_CHARACTERS.get(record.filesystem, 0)]
    match record.filesystem:
        case "ext4":
            return (
                "mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
                "-L", label, str(path), f"{size_bytes // 1024}k",
            )  # fmt: skip
        case "xfs":
            return (
                "mkfs.xfs", "-q", "-f", "-K", "-L", label,
                "-d", f"size={size_bytes // 4096 * 4096}", str(path),
            )  # fmt: skip
        case other:
            raise KeybrokerError(Problem.INTERNAL, f"{record.name}: nothing makes the filesystem {other}")


def mark(volume: VolumeId) -> bytes:
    """Return the mark of a filesystem that is being made; it counts only as a whole, within one sector."""
    return f"KEYBROKER-UNFINISHED1 {volume}\n".encode().ljust(MARK_BYTES, b"\0")


class Opened:
    """An opened volume's device, or a file that stands for one.

    Raises:
        OSError: from each of its methods.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        self.size_bytes = os.lseek(self.fd, 0, os.SEEK_END)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)

    def bears(self, volume: VolumeId) -> bool:
        """Say whether our mark is in it, past the cache."""
        inscription.forget_cache(self.fd)
        sector = inscription.SECTOR
        return os.pread(self.fd, sector, self._mark_offset) == mark(volume)[:sector]

    def put(self, held: bytes) -> None:
        """Write to the mark's place, durably."""
        if os.pwrite(self.fd, held, self._mark_offset) != len(held):
            raise OSError(0, "the mark was not written whole")
        os.fsync(self.fd)

    @property
    def _mark_offset(self) -> int:
        return self.size_bytes - RESERVED_BYTES


def recognised(volume: Opened) -> str:
    """Return what ``blkid`` calls the content; empty where it knows nothing.

    The descriptor, and not a path, is what it looks at: its status for *nothing found* is also its status for
    *cannot be opened* (blkid(8), "EXIT STATUS").

    Raises:
        KeybrokerError: TOOL_FAILED.
    """
    done = run(
        "blkid", "--probe", "--output", "export", f"/proc/self/fd/{volume.fd}",
        pass_fds=[volume.fd], expect=(_FOUND, _NOTHING, _AMBIVALENT),
    )  # fmt: skip
    if done.status == _NOTHING:
        return ""
    if done.status == _AMBIVALENT:
        return "several things at once"
    lines = done.output.decode(errors="replace").splitlines()
    said = dict(line.split("=", 1) for line in lines if "=" in line)
    return said.get("TYPE") or said.get("PTTYPE") or "something"
