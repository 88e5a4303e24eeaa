"""The one write of a header over what is no blank disk: what was there is saved, and any cut is borne.

1. Everything before the data offset is saved to a file in the state directory (root-only; the last two of a
   volume are kept). What a cut run of this very write left is not saved again: it would push the file out
   that has what was there in the first place.
2. The keyslots' areas, then the second copy of the metadata, then the first one; each is on the medium before
   the next is begun. Nothing else is written, not even zeros over what lies between.
3. The disk is read again, past the cache, and compared.

A cut anywhere leaves the first copy as it was or the second one whole, and the same call finishes it.
``agent.inscription`` is for a new volume, where anything but zeros stops the write.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agent import layout
from agent.inscription import SECTOR, Stretch, forget_cache, write_at
from agent.luks.copy import HeaderImage
from agent.luks.header import read_header
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem

DIRECTORY: Final = "overwritten"
KEPT: Final = 2


def writes(image: HeaderImage) -> tuple[tuple[Stretch, ...], ...]:
    """Return what is written, offset and bytes, in groups; each is on the medium before the next one begins.

    The copies of the metadata are whole, filling included: unlike a new disk, this one has no zeros there.

    Raises:
        KeybrokerError: HEADER_REFUSED, CORRUPT: the image holds no header.
    """
    header = read_header(image.read, image.total)
    areas = [(keyslot.area.offset, keyslot.area.size) for keyslot in header.keyslots.values()]
    size = header.header_bytes
    stretches = (tuple(sorted(areas)), ((size, size),), ((0, size),))
    return tuple(tuple((at, image.read(at, length)) for at, length in group) for group in stretches)


def overwrite(fd: int, image: HeaderImage) -> None:
    """Write a header, and read back that it is there; repeated, and after any cut of itself, it finishes it.

    Args:
        fd: of the disk, readable, writable and exclusive (open(2), O_EXCL).
        image: checked against the volume's profile and pin.

    Raises:
        KeybrokerError: CORRUPT, the disk does not hold what was written to it.
        OSError: it cannot be read or written.
    """
    groups = writes(image)
    for group in groups:
        for offset, held in group:
            write_at(fd, offset, held)
        os.fsync(fd)
    forget_cache(fd)
    for offset, held in (stretch for group in groups for stretch in group):
        if _read(fd, offset, len(held)) != held:
            raise KeybrokerError(
                Problem.CORRUPT,
                f"header: not what was written is on the disk at {offset}",
                hint="dmesg | tail",
            )


def save(state: Path, volume: VolumeId, fd: int, image: HeaderImage, *, now: float) -> Path:
    """Save what ``overwrite`` is about to write over.

    Args:
        state: the agent's state directory.
        fd: of the disk.
        image: that is to be written; everything before its data offset is saved.
        now: seconds since 1970.

    Returns:
        The file that holds what was there before the first of the runs that this one may finish.

    Raises:
        OSError: it cannot be read or saved; then nothing is to be written.
    """
    forget_cache(fd)
    held = _read(fd, 0, image.total)
    directory = state / DIRECTORY
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = saved(state, volume)
    if there and _is_mixed(held, there[-1].read_bytes(), image.read(0, image.total)):
        return there[-1]
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    file = directory / f"{volume}-{stamp}-{_next(there):04d}.header"
    layout.replace(file, held, mode=0o600)
    for old in saved(state, volume)[:-KEPT]:
        old.unlink()
    return file


def saved(state: Path, volume: VolumeId) -> list[Path]:
    """Return the files that hold what was written over on a volume's disk, the newest last."""
    return sorted((state / DIRECTORY).glob(f"{volume}-*.header"), key=_number)


def _number(file: Path) -> int:
    number = file.stem.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _next(there: list[Path]) -> int:
    return _number(there[-1]) + 1 if there else 1


def _is_mixed(held: bytes, before: bytes, meant: bytes) -> bool:
    """Say whether each sector is as it was, or as it is meant to be: then a cut write of ours left it."""
    if len(before) != len(held):
        return False
    sectors = (slice(at, at + SECTOR) for at in range(0, len(held), SECTOR))
    return all(held[sector] in (before[sector], meant[sector]) for sector in sectors)


def _read(fd: int, offset: int, length: int) -> bytes:
    held = bytearray()
    while len(held) < length and (piece := os.pread(fd, length - len(held), offset + len(held))):
        held += piece
    if len(held) < length:
        raise OSError(0, f"the disk ends at {offset + len(held)}")
    return bytes(held)
