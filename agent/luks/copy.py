"""A header copy, ``KBH1``: the checked bytes of a LUKS2 header, to open a volume from or to restore it with.

A copy holds both copies of the metadata, without what fills their JSON areas, and the areas of the keyslots
in use: about 300 KiB of a header of 4 or 16 MiB. All else up to the data offset is zeros, and never stored.

    "KBH1" | total u64 | count u32 | count x (offset u64, length u32) | the extents' bytes | SHA-256 of it

Integers are big-endian, offsets and lengths in bytes and multiples of 4096, extents in ascending order and
apart. There is one way to write a header down, and nothing else is read.

The bytes of the metadata are those that were parsed, never read again: a device that shows one header to us
and another to cryptsetup gains nothing (DESIGN section 5).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from collections.abc import Iterable
from typing import Final

from agent.luks.header import Header, Read, read_header
from keybroker.wire.messages import LARGEST_HEADER_COPY
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass, field

MAGIC: Final = b"KBH1"
UNIT: Final = 4096
LARGEST_TOTAL: Final = 1 << 30
"""In bytes; no profile lets data begin that late."""

MOST_EXTENTS: Final = 64

SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

_HEAD: Final = struct.Struct(">4sQI")
_EXTENT: Final = struct.Struct(">QI")
_SUM_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class HeaderImage:
    """The bytes of a device up to its data offset.

    Attributes:
        extents: offset and bytes of what is not zero, in ascending order.
        total: the data offset, in bytes.
    """

    extents: tuple[tuple[int, bytes], ...] = field(repr=False)
    total: int

    def read(self, offset: int, length: int) -> bytes:
        """Read as from a device: zeros where no extent is, nothing beyond the end."""
        found = bytearray(max(0, min(length, self.total - offset)))
        for start, held in self.extents:
            low, high = max(offset, start), min(offset + len(found), start + len(held))
            if low < high:
                found[low - offset : high - offset] = held[low - start : high - start]
        return bytes(found)


@dataclass(frozen=True, slots=True)
class Held:
    """A header as it was parsed, with the very bytes that it was parsed from: a copy that was never packed.

    With eight volumes, packing and unpacking what this process itself had just read was a fifth of its time.
    """

    header: Header
    image: HeaderImage

    def packed(self) -> Secret:
        """Return it in ``KBH1``."""
        return _written(self.image)


def hold(header: Header, read: Read) -> Held:
    """Keep a header of a device for opening from it (Args, Raises: as ``pack``).

    Where one of its copies was made anew from the other, it is parsed once more, as it is written now.
    """
    image = image_of(header, read)
    return Held(read_header(image.read, image.total) if header.degraded else header, image)


def unpacked(copy: Secret) -> Held:
    """Read a header copy, and the header in it (Raises: as ``unpack`` and ``read_header``)."""
    image = unpack(copy)
    return Held(read_header(image.read, image.total), image)


def pack(header: Header, read: Read) -> Secret:
    """Make a header copy of a device.

    Args:
        header: as read from the device.
        read: of the same device; only the areas of the keyslots are read.

    Returns:
        The copy in ``KBH1``. It is as good as the header to someone who learns a passphrase that was retired.

    Raises:
        KeybrokerError: HEADER_REFUSED, the header is in mid re-encryption (which a copy would roll back), too
            large for a copy, or cannot be read.
    """
    return _written(image_of(header, read))


def packed(image: HeaderImage) -> Secret:
    """Return an image in ``KBH1``."""
    return _written(image)


def image_of(header: Header, read: Read, *, is_beginning: bool = False) -> HeaderImage:
    """Return what ``unpack(pack(header, read))`` returns (Raises: as ``pack``).

    Args:
        is_beginning: nothing was encrypted yet by what the header says is under way.
    """
    is_under_way = header.requirements or any(each.kdf is None for each in header.keyslots.values())
    if is_under_way and not is_beginning:
        raise _refused("a re-encryption is in progress, and a copy would undo part of it")
    extents = [(0, _filled(header.first)), (header.header_bytes, _filled(header.second))]
    areas = sorted((keyslot.area.offset, keyslot.area.size) for keyslot in header.keyslots.values())
    if sum(size for _, size in areas) + sum(len(held) for _, held in extents) > LARGEST_HEADER_COPY - UNIT:
        raise _refused(f"it would have more than {LARGEST_HEADER_COPY} bytes")
    extents += ((offset, _area(read, offset, size)) for offset, size in areas)
    return HeaderImage(tuple(extents), header.data_offset)


def _area(read: Read, offset: int, size: int) -> bytes:
    try:
        held = read(offset, size)
    except OSError as error:
        raise _refused(f"the keyslot's area at {offset} cannot be read: {error.strerror}") from None
    if len(held) != size:
        raise _refused(f"the keyslot's area at {offset} ends beyond the device")
    return held


def _filled(held: bytes) -> bytes:
    return held.ljust(-(-len(held) // UNIT) * UNIT, b"\0")


def _written(image: HeaderImage) -> Secret:
    copy = bytearray(_HEAD.pack(MAGIC, image.total, len(image.extents)))
    for offset, held in image.extents:
        copy += _EXTENT.pack(offset, len(held))
    for _, held in image.extents:
        copy += held
    copy += hashlib.sha256(copy).digest()
    return Secret(copy)


def unpack(copy: Secret) -> HeaderImage:
    """Read a header copy; ``agent.luks.header.read_header`` then reads the header of the image.

    Raises:
        KeybrokerError: CORRUPT, anything but what ``pack`` writes.
    """
    held = copy.reveal()
    body, checksum = held[:-_SUM_BYTES], held[-_SUM_BYTES:]
    if len(body) < _HEAD.size or hashlib.sha256(body).digest() != checksum:
        raise _corrupt("its checksum is wrong")
    magic, total, count = _HEAD.unpack_from(body)
    start = _HEAD.size + count * _EXTENT.size
    if magic != MAGIC or not 0 < total <= LARGEST_TOTAL or total % 512:
        raise _corrupt("it is of another kind")
    if not 0 < count <= MOST_EXTENTS or len(body) < start:
        raise _corrupt(f"it says that it has {count} extents")
    table = list(_EXTENT.iter_unpack(body[_HEAD.size : start]))
    _check_extents(table, total, len(body) - start)
    extents = []
    for offset, length in table:
        extents.append((offset, body[start : start + length]))
        start += length
    return HeaderImage(tuple(extents), total)


def _check_extents(table: Iterable[tuple[int, int]], total: int, present: int) -> None:
    end = 0
    for offset, length in table:
        if offset < end or length == 0 or (offset | length) % UNIT or offset + length > total:
            raise _corrupt(f"the extent of {length} bytes at {offset} cannot be")
        end = offset + length
        present -= length
    if present != 0:
        raise _corrupt("its extents have other lengths than it says")


def memfd(image: HeaderImage) -> int:
    """Put an image into a file in memory that nobody can change any more, this process included.

    Sparse, so that only what is in the extents takes memory, but as long as the data offset:
    cryptsetup refuses a shorter header file. For ``--header /proc/self/fd/N``.

    Returns:
        A file descriptor that the caller closes; it is not inherited unless asked for.
    """
    fd = os.memfd_create("keybroker-header", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, image.total)
        for offset, held in image.extents:
            os.pwrite(fd, held, offset)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def draft(header: Header, read: Read) -> int:
    """Put a header in mid re-encryption into a file in memory, for cryptsetup to write to in its place.

    Args:
        header: as read from the device.
        read: of the same device; only the areas of the keyslots are read.

    Returns:
        A file descriptor that the caller closes, as of ``memfd``.

    Raises:
        KeybrokerError: HEADER_REFUSED, the area of the re-encryption's own keyslot cannot be read.
    """
    fd = os.memfd_create("keybroker-draft", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, header.data_offset)
        for offset, held in ((0, header.first), (header.header_bytes, header.second)):
            os.pwrite(fd, held, offset)
        for keyslot in header.keyslots.values():
            try:
                held = _area(read, keyslot.area.offset, keyslot.area.size)
            except KeybrokerError:
                if keyslot.kdf is None:
                    raise  # by what is in there a stretch is brought to an end: it must not be read as zeros
                continue  # it opens nothing then; another keyslot may
            os.pwrite(fd, held, keyslot.area.offset)
    except (OSError, KeybrokerError):
        os.close(fd)
        raise
    return fd


def _refused(what: str) -> KeybrokerError:
    return KeybrokerError(Problem.HEADER_REFUSED, f"header copy: {what}")


def _corrupt(what: str) -> KeybrokerError:
    return KeybrokerError(Problem.CORRUPT, f"header copy: {what}")
