"""The beginning of a plain filesystem, kept at the disk's end, and the header that is written in its place.

    before   | beginning | the rest of the filesystem          | free | free  |
    shelved  | beginning | the rest of the filesystem          | free | shelf |    still a plain disk
    after    | header    | the rest of the filesystem          | free | shelf |    LUKS2, to be opened as such

1. **Shelve**: only where the superblock says that the filesystem ends before; copied, flushed, read back.
2. The broker gets the header (Deposit); not a byte of it is on the disk.
3. **Inscribe**: the shelf is flushed once more, then the header is written in four groups, each flushed
   before the next one: the keyslots, the zeros around them, the metadata's second copy, its first one.

Every sector of the beginning is then what the shelf has or what the header has there (a sector is written
whole or not at all), so a cut anywhere is recognised, and the same call finishes it. One other sector, and
nothing is written; unless no sector of the header is there yet: then the beginning is what counts (somebody
used the disk since it was shelved), and it is shelved anew.

cryptsetup 2.6.1 does the same by itself with no flush between 1 and 3, in any order
(tests/kernel/inner/test_kernel_in_place.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, Literal

from agent.ground import SUPERBLOCK_BYTES, taken_bytes
from agent.inscription import SECTOR, forget_cache, write_at
from agent.luks.copy import HeaderImage
from agent.luks.header import Area, Header
from agent.luks.inplace import layout_of
from keybroker.wire.problems import KeybrokerError, Problem

FRONT: Final = 4 << 20
"""Bytes of the beginning that are kept: the header's size."""

State = Literal["untouched", "changed", "part", "metadata", "whole"]


def place(size_bytes: int) -> int:
    """Return where on a disk of that size the shelf is."""
    return size_bytes - FRONT


def is_shelved(fd: int, size_bytes: int) -> bool:
    """Say whether the shelf holds the beginning as it is on the medium now."""
    forget_cache(fd)
    return _read(fd, 0, FRONT) == _read(fd, place(size_bytes), FRONT)


def shelve(fd: int, size_bytes: int) -> None:
    """Copy the beginning to the shelf, durably.

    Args:
        fd: of the disk, readable, writable and exclusive (open(2), O_EXCL).

    Raises:
        KeybrokerError: WRONG_DEVICE where the filesystem has no end, or ends too late, and nothing was
            written; CORRUPT, the disk does not hold what was written to it.
        OSError: it cannot be read or written.
    """
    forget_cache(fd)
    taken = taken_bytes(_read(fd, 0, SUPERBLOCK_BYTES))
    if taken is None or taken > place(size_bytes) - FRONT:
        raise KeybrokerError(
            Problem.WRONG_DEVICE,
            f"the disk has {size_bytes} bytes, and its filesystem takes {taken or 'nobody knows how many'} of"
            " them; nothing was written",
        )
    write_at(fd, place(size_bytes), _read(fd, 0, FRONT))
    os.fsync(fd)
    if not is_shelved(fd, size_bytes):
        raise KeybrokerError(Problem.CORRUPT, "the disk's end does not hold what was written to it")


def inscribe(fd: int, size_bytes: int, image: HeaderImage, header: Header, *, is_known: bool) -> None:
    """Write a header over the beginning that is shelved; repeated, and after any cut of itself, it finishes.

    Args:
        fd: of the disk, readable, writable and exclusive (open(2), O_EXCL).
        image, header: as the broker keeps it; accepted (``agent.luks.inplace.accept_in_place``).
        is_known: the declared filesystem is recognised on the disk, so that it may be shelved anew.

    Raises:
        KeybrokerError: NOT_BLANK where the beginning is neither the filesystem's nor the header's, and
            nothing was written; WRONG_DEVICE as ``shelve``; CORRUPT, the disk does not hold what was written.
        OSError: it cannot be read or written.
    """
    shelf = layout_of(header).shelf
    os.fsync(fd)  # whoever shelved it, and whenever: it is on the medium before the first byte is written
    forget_cache(fd)
    state = look(_read(fd, 0, FRONT), _read(fd, shelf, FRONT), image, header)
    if state == "whole":
        return
    if state == "changed":
        if not is_known or shelf != place(size_bytes):
            raise _foreign()
        shelve(fd, size_bytes)
    for stretches in writes(image, header)[2 if state == "metadata" else 0 :]:
        for offset, held in stretches:
            write_at(fd, offset, held)
        os.fsync(fd)
    forget_cache(fd)
    if _read(fd, 0, FRONT) != image.read(0, FRONT):
        raise KeybrokerError(Problem.CORRUPT, "header: not what was written is on the disk")


def look(front: bytes, kept: bytes, image: HeaderImage, header: Header) -> State:
    """Say how far a header has come to a disk.

    Args:
        front: the first ``FRONT`` bytes of the disk.
        kept: its shelf.

    Returns:
        ``metadata`` where all but one of the metadata's copies is there; ``changed`` where nothing of the
        header is there, and the shelf is of another time.

    Raises:
        KeybrokerError: NOT_BLANK.
    """
    meant = image.read(0, FRONT)
    if front == meant:
        return "whole"
    places = [at for area in _areas(header) for at in range(area.offset, area.end, SECTOR)]
    size = header.header_bytes
    if all(_at(front, at) == _at(meant, at) for at in places) and (
        front[:size] == meant[:size] or front[size : 2 * size] == meant[size : 2 * size]
    ):
        # Either copy is whole only once all else is; and while one is the first there was, nothing was moved.
        return "metadata"
    other = [at for at in range(0, FRONT, SECTOR) if _at(front, at) != _at(kept, at)]
    if not other:
        return "untouched"
    if all(_at(front, at) == _at(meant, at) for at in other):
        return "part"
    # The keyslots are written first: as long as none of their (random) sectors is there, nothing is.
    if not any(any(_at(meant, at)) and _at(front, at) == _at(meant, at) for at in places):
        return "changed"
    raise _foreign()


def writes(image: HeaderImage, header: Header) -> tuple[tuple[tuple[int, bytes], ...], ...]:
    """Return what is written, offset and bytes, in groups; each is on the medium before the next begins."""
    size, areas = header.header_bytes, sorted((a.offset, a.end) for a in _areas(header))
    keyslots = tuple((start, image.read(start, end - start)) for start, end in areas)
    gaps = tuple(
        (start, image.read(start, end - start))
        for start, end in _between(2 * size, areas)
        if start < end
    )  # fmt: skip
    return keyslots, gaps, ((size, image.read(size, size)),), ((0, image.read(0, size)),)


def _areas(header: Header) -> Iterator[Area]:
    return (slot.area for slot in header.keyslots.values())


def _between(start: int, areas: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for first, end in areas:
        yield start, first
        start = end
    yield start, FRONT


def _at(held: bytes, offset: int) -> bytes:
    return held[offset : offset + SECTOR]


def _read(fd: int, offset: int, length: int) -> bytes:
    held = bytearray()
    while len(held) < length:
        piece = os.pread(fd, length - len(held), offset + len(held))
        if not piece:
            raise KeybrokerError(Problem.WRONG_DEVICE, f"the disk ends at {offset + len(held)}")
        held += piece
    return bytes(held)


def _foreign() -> KeybrokerError:
    return KeybrokerError(
        Problem.NOT_BLANK,
        "the disk's beginning is neither what was kept of its filesystem nor its header; nothing was written",
        hint="take an image of the disk, and keep it, before anything else is tried",
    )
