"""What a re-encryption that was cut has left unwritten in the header, brought to the disk by us.

A stretch that was in work is settled first (``agent.luks.hotzone``): what is there is flushed, then 2 and 3.
A re-encryption that is complete but for cryptsetup's last writes is completed (``agent.luks.completion``):

1. What is there is flushed, for a cryptsetup that was killed may not have done so. Then what nobody may read
   any more is overwritten with random bytes, then flushed.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from agent.devices import OpenDevice
from agent.inscription import forget_cache, write_at
from agent.luks.acceptance import judge
from agent.luks.completion import SALT_BYTES, Completion, completed, is_complete, last_digest
from agent.luks.copy import HeaderImage, Held, draft, hold
from agent.luks.header import Header, read_header
from agent.luks.hotzone import before, hot, settled
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.values import replace

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
        _bring(disk, completed(header, salts=_salts()), header)
    return True


def whole(record: Record, disk: OpenDevice) -> tuple[Record, Held] | None:
    """Return what a re-encryption that is complete is opened from; the disk is completed if that can be.

    The data is whole whether or not. So where the broker was not told of the volume key that all is under,
    which nothing may be erased for, or where the disk takes no write, it is opened from memory, and the
    volume's next change completes it or says why not.

    Args:
        disk: nothing stands on it.

    Returns:
        The record, with the digest that the header leads to, and the header; None where it is not complete.

    Raises:
        KeybrokerError: as ``complete``.
        OSError: it cannot be written, and part of what is to be erased would be part of the volume.
    """
    size = disk.device.size_bytes
    header = read_header(disk.read, size)
    if record.order is None or judge(header, record, size) != "midway" or not is_complete(header):
        return None
    last = last_digest(header)
    made = completed(header, salts=_salts())
    image = HeaderImage(((0, made.first), (header.header_bytes, made.second)), header.data_offset)
    try:
        complete(record, disk)
    except OSError:
        if any(at + length > header.data_offset for at, length in made.erased):
            raise  # whoever makes the filesystem larger would have it overwritten by the next completion
    known = replace(record, order=replace(record.order, digest=last.fingerprint if last else None))
    return known, hold(read_header(image.read, size), disk.read)


def settle(record: Record, disk: OpenDevice, recover: Callable[[int], None]) -> bool:
    """Settle the stretch that was in work when a re-encryption was cut.

    Args:
        disk: nothing stands on it: its data may be written.
        recover: has cryptsetup bring the stretch to an end, with the header copy behind a file descriptor.

    Returns:
        Whether there was one.

    Raises:
        KeybrokerError: HEADER_REFUSED; IN_USE; CORRUPT, as of ``complete``; TOOL_FAILED; as ``recover``.
        OSError: it cannot be written.
    """
    size = disk.device.size_bytes
    header = read_header(disk.read, size)
    if judge(header, record, size) != "midway" or hot(header) is None:
        return False
    again = before(header, disk.read, size)
    if again is None and header.metadata.final is None:
        _recover(disk, header, recover)
    made = settled(header, salts=_salts(), again=again)
    image = HeaderImage(((0, made.first), (header.header_bytes, made.second)), header.data_offset)
    said = read_header(image.read, size)
    if judge(said, record, size) != "midway" or hot(said) is not None:
        raise KeybrokerError(Problem.HEADER_REFUSED, "header: its stretch in work cannot be settled")
    with _alone(record.luks_uuid):  # cryptsetup itself held it until here
        if read_header(disk.read, size).first != header.first:
            raise KeybrokerError(Problem.IN_USE, "header: someone else has written to it")
        _bring(disk, made, header)
    return True


def _recover(disk: OpenDevice, header: Header, recover: Callable[[int], None]) -> None:
    fd = draft(header, disk.read)
    try:
        recover(fd)
        after = read_header(lambda at, length: os.pread(fd, length, at), disk.device.size_bytes)
    finally:
        os.close(fd)
    if after.sequence <= header.sequence or hot(after) is not None:
        raise KeybrokerError(
            Problem.TOOL_FAILED, "cryptsetup repair: said that it was through, and a stretch is still in work"
        )


def _salts() -> tuple[bytes, bytes]:
    return os.urandom(SALT_BYTES), os.urandom(SALT_BYTES)


def _bring(disk: OpenDevice, made: Completion, header: Header) -> None:
    fd = os.open(disk.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        write(fd, made, header)
    finally:
        os.close(fd)


def write(fd: int, made: Completion, header: Header) -> None:
    """Write what completes a re-encryption, or settles a stretch of it.

    Args:
        header: as it is on the disk.

    Raises:
        KeybrokerError: CORRUPT, the disk does not hold what was written to it.
        OSError: it cannot be written.
    """
    os.fsync(fd)
    for start, length in made.erased:
        for at in range(start, start + length, PIECE):
            write_at(fd, at, os.urandom(min(PIECE, start + length - at)))
    if made.erased:
        os.fsync(fd)
    copies = order(made, header, found(fd, len(header.first)))
    for offset, held in copies:
        write_at(fd, offset, held)
        os.fsync(fd)
    forget_cache(fd)
    if any(os.pread(fd, len(held), offset) != held for offset, held in copies):
        raise KeybrokerError(Problem.CORRUPT, "header: not what was written is on the disk")


def found(fd: int, length: int) -> bytes:
    """Return what is where the first copy is; a sector that cannot be read makes it no copy."""
    try:
        return os.pread(fd, length, 0)
    except OSError:
        return b""


def order(made: Completion, header: Header, there: bytes) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
    """Return offset and bytes of the copies in the order in which a cut between them costs nothing.

    Args:
        there: what the disk has where the first copy is: another one is not whole, or older, and counts for
            nothing.
    """
    first, second = (0, made.first), (header.header_bytes, made.second)
    return (second, first) if there == header.first else (first, second)


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
