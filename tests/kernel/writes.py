"""What was written to a disk, in which order and with which flushes, and what a power cut leaves of it."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
"""Of dm-log-writes (Linux, drivers/md/dm-log-writes.c)."""

_MAGIC = 0x6A736677736872


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of dm-log-writes (Linux, Documentation/admin-guide/device-mapper/log-writes.rst).

    Attributes:
        data: of a mark, its name.
    """

    offset: int
    flags: int
    data: bytes

    @property
    def is_data(self) -> bool:
        """Say whether it changed what is on the disk."""
        return not self.flags & (DISCARD | MARK) and bool(self.data)


def entries(log: Path) -> Iterator[Entry]:
    with log.open("rb") as file:
        magic, _version, count, size = struct.unpack("<QQQI", file.read(28))
        assert (magic, size) == (_MAGIC, SECTOR)
        at = size
        for _ in range(count):
            file.seek(at)
            sector, sectors, flags, said = struct.unpack("<QQQQ", file.read(32))
            if flags & MARK:
                yield Entry(0, flags, file.read(said))
                at += size
                continue
            file.seek(at + size)
            length = 0 if flags & DISCARD else sectors * SECTOR
            yield Entry(sector * SECTOR, flags, file.read(length))
            at += size + length


def survivors(log: Sequence[Entry], end: int, chance: random.Random) -> Iterator[tuple[int, bytes]]:
    """Yield what is on the medium when the power goes before entry ``end``, offset and bytes, in order.

    All that was flushed is there. Of what was written since, any write may be there, or not, or its first
    sectors alone.
    """
    flushed = max((number for number in range(end) if log[number].flags & FLUSH), default=-1)
    share = chance.choice((0.0, 0.5, 0.5, 1.0))
    for number, entry in enumerate(log[:end]):
        if not entry.is_data:
            continue
        if number <= flushed or entry.flags & FUA:
            yield entry.offset, entry.data
        elif chance.random() < share:
            whole = chance.random() < 0.6
            sectors = len(entry.data) // SECTOR
            yield entry.offset, entry.data[: (sectors if whole else chance.randrange(sectors)) * SECTOR]
