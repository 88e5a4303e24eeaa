"""The end of a re-encryption that was cut between cryptsetup's last writes, brought to the disk by us.

1. What nobody may read any more is overwritten with random bytes, then flushed.
2. One of the header's copies is written, then flushed; then the other one, then flushed. Where only one of
   them is whole, that is the other one.
3. Both are read again, past the cache, and compared.

Before 1 nothing needs any more what is overwritten, and after a cut anywhere the header still says that it is
complete, or is completed: the same call finishes it. What there is to write, ``agent.luks.completion`` says.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.devices import OpenDevice
from agent.inscription import forget_cache
from agent.luks.acceptance import judge
from agent.luks.completion import SALT_BYTES, Completion, completed, is_complete
from agent.luks.header import Header, read_header
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record

LOCKS: Final = Path("/run/cryptsetup")
"""Where cryptsetup locks a volume for as long as it re-encrypts it (lib/utils_device_locking.c)."""

PIECE: Final = 1 << 20


def complete(record: Record, disk: OpenDevice) -> bool:
    """Complete a re-encryption of which nothing but the last writes is missing.

    Args:
        record: whose re-encryption was announced, and the digest of its volume key, too.
        disk: may be in use: the data is not touched.

    Returns:
        Whether there was anything to complete.

    Raises:
        KeybrokerError: HEADER_REFUSED; IN_USE, a cryptsetup is at it; CORRUPT, the disk does not hold what
            was written to it.
        OSError: it cannot be written.
    """
    if record.order is None or record.order.digest is None:
        return False
    size = disk.device.size_bytes
    with _alone(record.luks_uuid):
        header = read_header(disk.read, size)
        if judge(header, record, size) != "midway" or not is_complete(header):
            return False
        made = completed(header, salts=(os.urandom(SALT_BYTES), os.urandom(SALT_BYTES)))
        fd = os.open(disk.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            write(fd, made, header)
        finally:
            os.close(fd)
    return True


def write(fd: int, made: Completion, header: Header) -> None:
    """Write what completes a re-encryption.

    Args:
        header: as it is on the disk.

    Raises:
        KeybrokerError: CORRUPT, the disk does not hold what was written to it.
        OSError: it cannot be written.
    """
    for start, length in made.erased:
        for at in range(start, start + length, PIECE):
            _put(fd, at, os.urandom(min(PIECE, start + length - at)))
    os.fsync(fd)
    copies = order(made, header, os.pread(fd, len(header.first), 0))
    for offset, held in copies:
        _put(fd, offset, held)
        os.fsync(fd)
    forget_cache(fd)
    if any(os.pread(fd, len(held), offset) != held for offset, held in copies):
        raise KeybrokerError(Problem.CORRUPT, "header: not what was written is on the disk")


def order(made: Completion, header: Header, there: bytes) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
    """Return offset and bytes of the copies in the order in which a cut between them costs nothing.

    Args:
        there: what the disk has where the first copy is: another one is not whole, or older, and counts for
            nothing.
    """
    first, second = (0, made.first), (header.header_bytes, made.second)
    return (second, first) if there == header.first else (first, second)


def _put(fd: int, offset: int, held: bytes) -> None:
    while held:
        done = os.pwrite(fd, held, offset)
        offset, held = offset + done, held[done:]


@contextlib.contextmanager
def _alone(luks_uuid: str) -> Iterator[None]:
    """Hold cryptsetup's own lock: one whose parent was killed may still be at the volume."""
    LOCKS.mkdir(mode=0o700, exist_ok=True)
    path = LOCKS / f"LN_LUKS2-reencryption-{luks_uuid}"
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if not _is_ours(fd, path):
            raise KeybrokerError(
                Problem.IN_USE,
                "a re-encryption of the volume is running",
                hint="wait until `ps -C cryptsetup` shows none",
            )
        yield
    finally:
        os.close(fd)


def _is_ours(fd: int, path: Path) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(fd).st_ino == path.stat().st_ino  # cryptsetup unlinks it when it lets go
    except (BlockingIOError, FileNotFoundError):
        return False
