"""How much of a disk a filesystem takes, by its own superblock; what is beyond is free. Pure.

Source: Linux, fs/ext4/ext4.h (``struct ext4_super_block``), little-endian, at byte 1024; xfsprogs,
xfs_format.h (``struct xfs_dsb``), big-endian, at byte 0.
"""

from __future__ import annotations

import struct
from typing import Final

SUPERBLOCK_BYTES: Final = 2048
"""From the disk's start; both kinds have theirs in there."""

_EXT4_MAGIC: Final = 0xEF53
_EXT4_64BIT: Final = 0x80
_XFS_MAGIC: Final = b"XFSB"


def taken_bytes(held: bytes) -> int | None:
    """Return how many bytes from the disk's start a filesystem takes; None where no superblock says so.

    Args:
        held: the first ``SUPERBLOCK_BYTES`` of the disk.
    """
    if len(held) < SUPERBLOCK_BYTES:
        return None
    if held[:4] == _XFS_MAGIC:
        block, blocks = struct.unpack_from(">IQ", held, 4)
        return int(blocks * block) if blocks and block in _powers(9, 16) else None
    (low,) = struct.unpack_from("<I", held, 1024 + 4)
    (shift,) = struct.unpack_from("<I", held, 1024 + 24)
    (magic,) = struct.unpack_from("<H", held, 1024 + 56)
    (incompatible,) = struct.unpack_from("<I", held, 1024 + 96)
    (high,) = struct.unpack_from("<I", held, 1024 + 0x150)
    if magic != _EXT4_MAGIC or not low or shift > 6:
        return None
    blocks = low | (high << 32 if incompatible & _EXT4_64BIT else 0)
    return int(blocks * (1024 << shift))


def _powers(least: int, most: int) -> tuple[int, ...]:
    return tuple(1 << each for each in range(least, most + 1))
