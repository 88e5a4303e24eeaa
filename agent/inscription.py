"""The careful write of a header: over zeros or over its own remains, and in an order that a cut cannot spoil.

1. Every sector of 512 bytes before the data offset is zero or what the header has there; the first and the
   last MiB of the data area are zero, and 256 samples between. One sector of anything else, and nothing is
   written.
2. The keyslots' areas and the second copy of the metadata are written, then flushed to the medium.
3. The first copy is written, then flushed: a disk whose first copy is whole has all of the header.
4. The disk is read again, past the cache, and compared.

A disk sector is written whole or not at all (DESIGN section 4), so whatever a power cut leaves of this passes
rule 1, and the same call finishes it.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from typing import Final

from agent.luks.copy import HeaderImage
from agent.luks.header import read_header
from keybroker.wire.problems import KeybrokerError, Problem

SECTOR: Final = 512
MIB: Final = 1 << 20
SAMPLES: Final = 256

_BLKFLSBUF: Final = 0x1261
"""linux/fs.h: write back and forget what is cached of a block device."""

Stretch = tuple[int, bytes]


def writes(image: HeaderImage) -> tuple[tuple[Stretch, ...], ...]:
    """Return what is written, offset and bytes, in groups; each is on the medium before the next one begins.

    Raises:
        KeybrokerError: HEADER_REFUSED, CORRUPT: the image holds no header.
    """
    size = read_header(image.read, image.total).header_bytes
    first = (0, image.read(0, size))
    rest = tuple(
        (offset + max(0, size - offset), held[max(0, size - offset) :])
        for offset, held in image.extents
        if offset + len(held) > size
    )
    return rest, (first,)


def inscribe(fd: int, size_bytes: int, image: HeaderImage) -> None:
    """Bring a header to a disk; repeated, and after any cut of itself, it finishes the same header.

    Args:
        fd: of the disk, readable, writable and exclusive (open(2), O_EXCL).
        size_bytes: of the disk.
        image: as the broker keeps it.

    Raises:
        KeybrokerError: NOT_BLANK, there is something else on the disk, and nothing was written; CORRUPT, the
            disk does not hold what was written to it.
        OSError: it cannot be read or written.
    """
    groups = writes(image)
    forget_cache(fd)
    check(fd, size_bytes, image)
    for group in groups:
        for offset, held in group:
            write_at(fd, offset, held)
        os.fsync(fd)
    forget_cache(fd)
    for offset in _foreign(fd, image, zero_is_right=False):
        raise KeybrokerError(Problem.CORRUPT, f"header: not what was written is on the disk at {offset}")


def check(fd: int, size_bytes: int, image: HeaderImage) -> None:
    """Look whether ``inscribe`` may write (Raises: NOT_BLANK)."""
    if size_bytes < image.total + 2 * MIB:
        raise _not_blank(f"it has {size_bytes} bytes, too few for a header of {image.total}")
    for offset in _foreign(fd, image, zero_is_right=True):
        raise _not_blank(f"something that is no part of this volume's header is at {offset}")
    if not is_untouched(fd, size_bytes, image.total):
        raise _not_blank("there is something in the data area, though no header leads to it")


def is_untouched(fd: int, size_bytes: int, data_offset: int) -> bool:
    """Say whether the ends of the data area, and samples between them, are zero on the disk itself.

    Args:
        fd: of the disk; what is cached of it must be fresh (``forget_cache``), because what was written
            through the encryption above it did not pass this cache.
        data_offset: in bytes.
    """
    step = (size_bytes - data_offset) // (SAMPLES + 1) // SECTOR * SECTOR
    stretches = [(data_offset, MIB), (size_bytes - MIB, MIB)]
    stretches += [(data_offset + step * i, SECTOR) for i in range(1, SAMPLES + 1)]
    return not any(any(_read(fd, offset, length)) for offset, length in stretches)


def forget_cache(fd: int) -> None:
    """Have the next read come from the medium."""
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        fcntl.ioctl(fd, _BLKFLSBUF)
    else:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _foreign(fd: int, image: HeaderImage, *, zero_is_right: bool) -> Iterator[int]:
    """Name each sector before the data offset that is not the header's."""
    for start in range(0, image.total, MIB):
        length = min(MIB, image.total - start)
        here, meant = _read(fd, start, length), image.read(start, length)
        if here == meant:
            continue
        for at in range(0, length, SECTOR):
            sector = here[at : at + SECTOR]
            if sector != meant[at : at + SECTOR] and (any(sector) or not zero_is_right):
                yield start + at


def _read(fd: int, offset: int, length: int) -> bytes:
    held = bytearray()
    while len(held) < length:
        piece = os.pread(fd, length - len(held), offset + len(held))
        if not piece:
            raise _not_blank(f"it ends at {offset + len(held)}")
        held += piece
    return bytes(held)


def write_at(fd: int, offset: int, held: bytes) -> None:
    """Write all of it (Raises: OSError): pwrite(2) may write less than it is given."""
    while held:
        done = os.pwrite(fd, held, offset)
        offset, held = offset + done, held[done:]


def _not_blank(what: str) -> KeybrokerError:
    return KeybrokerError(
        Problem.NOT_BLANK,
        f"the disk cannot take the header: {what}; nothing was written",
        hint="a new volume wants a disk whose first and last MiB are zero, and no signature on it",
    )
