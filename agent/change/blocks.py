"""A block device read and written past every cache, in chunks.

What a page cache holds of a device is what somebody wrote or read there some time ago. To compare two disks,
to copy one, or to see that something is gone, only the medium's own answer counts (open(2), ``O_DIRECT``).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
from pathlib import Path
from typing import Final

from keybroker.wire.problems import KeybrokerError, Problem

CHUNK: Final = 4 << 20
"""Bytes that are read or written at once: enough for a disk to be busy, little enough to be let go of."""

_BLKSSZGET: Final = 0x1268
_BLKGETSIZE64: Final = 0x80081272


class Blocks:
    """One device, or a file that stands for one.

    Args:
        exclusive: refuse where anybody has it mounted or mapped, and keep them from it meanwhile.

    Attributes:
        size_bytes: of the device.
        block: bytes; every offset and length is a multiple of it.

    Raises:
        KeybrokerError: IN_USE where it is to be exclusive and is not; NO_DEVICE where it cannot be opened.
            OSError: from reading and writing.
    """

    def __init__(self, path: Path, *, writable: bool = False, exclusive: bool = False) -> None:
        flags = (os.O_RDWR if writable else os.O_RDONLY) | (os.O_EXCL if exclusive else 0)
        try:
            self.fd = os.open(path, flags | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise KeybrokerError(
                    Problem.IN_USE, f"{path}: is in use", hint=f"lsblk {path}; fuser --verbose {path}"
                ) from error
            raise KeybrokerError(Problem.NO_DEVICE, f"{path}: {error.strerror}") from error
        self.path = path
        status = os.fstat(self.fd)
        self.size_bytes, self.block = status.st_size, 512
        if stat.S_ISBLK(status.st_mode):
            fcntl.fcntl(self.fd, fcntl.F_SETFL, fcntl.fcntl(self.fd, fcntl.F_GETFL) | os.O_DIRECT)
            self.size_bytes = _ask(self.fd, _BLKGETSIZE64, "Q")
            self.block = _ask(self.fd, _BLKSSZGET, "i")
        # mmap(2) gives whole pages, and O_DIRECT wants memory that is aligned like the device's blocks
        self._buffer = memoryview(mmap.mmap(-1, CHUNK))

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)

    def look(self, offset: int, length: int) -> memoryview:
        """Return ``length`` bytes (a chunk at most) from ``offset``, in memory that the next call reuses.

        New memory for each chunk would be a fault for each of its pages: as dear as to decrypt it.
        """
        done = 0
        while done < length:
            got = os.preadv(self.fd, [self._buffer[done:length]], offset + done)
            if got == 0:
                raise OSError(errno.EIO, f"{self.path} ends at {offset + done}")
            done += got
        return self._buffer[:length].toreadonly()

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes (a chunk at most) from ``offset``."""
        return bytes(self.look(offset, length))

    def write(self, offset: int, held: bytes) -> None:
        """Write a chunk at most; it is on the medium after ``flush``."""
        self._buffer[: len(held)] = held
        self._put(offset, self._buffer[: len(held)])

    def take(self, offset: int, source: Blocks, length: int) -> None:
        """Write what ``source.look`` has just returned there, from the very memory that it is in."""
        self._put(offset, source._buffer[:length])

    def _put(self, offset: int, held: memoryview) -> None:
        done = 0
        while done < len(held):
            done += os.pwritev(self.fd, [held[done:]], offset + done)

    def flush(self) -> None:
        """Return when all that was written is on the medium."""
        os.fsync(self.fd)


def alike(here: memoryview, there: memoryview) -> bool:
    """Say whether two of the same length, a multiple of eight bytes, hold the same."""
    return here.cast("Q") == there.cast("Q")  # byte by byte takes Python eight times as long


def _ask(fd: int, request: int, form: str) -> int:
    answer = fcntl.ioctl(fd, request, bytes(struct.calcsize(form)))
    return int(struct.unpack(form, answer)[0])
