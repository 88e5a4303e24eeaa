"""The two copies of a LUKS2 header as they stand on a device, binary headers and checksums checked.

cryptsetup writes one copy after the other, each checksum last, so a cut write leaves one copy whose checksum
is wrong. That, and only that, is a reason to use the other one. A copy with the right checksum that says
something we refuse is a forgery, or the work of a newer cryptsetup, and falling back on its older twin would
ignore what it says.

Source: LUKS2 On-Disk Format Specification 1.1.4, sections 2.1, 2.2 and 2.4.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from agent.luks.jsontext import refused
from keybroker.wire.fields import LARGEST_INTEGER
from keybroker.wire.names import UUID
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.values import dataclass

Read = Callable[[int, int], bytes]
"""``read(offset, length)``, in bytes; fewer bytes than asked for mean the end of the device."""

BINARY_BYTES: Final = 4096
HEADER_SIZES: Final = tuple(0x4000 << n for n in range(9))
"""In bytes, 16 KiB to 4 MiB: the sizes of a copy, and so the places where the second one may be."""

MAGICS: Final = (b"LUKS\xba\xbe", b"SKUL\xba\xbe")

_BINARY: Final = struct.Struct(">6sHQQ48s32s64s40s48sQ184s64s3584s")
_CHECKSUM_AT: Final = 448
_CHECKSUM_FIELD: Final = 64


LUKS1: Final = MAGICS[0] + b"\0\1"
"""The first bytes of a LUKS1 header (LUKS On-Disk Format Specification 1.2.3, figure 1)."""


class NotLuks(KeybrokerError):
    """There is no LUKS signature, not even at the places of a second copy; also HEADER_REFUSED."""


class _Cut(Exception):
    """A copy that was not written whole, or is not there at all; the other one may stand in for it."""

    def __init__(self, reason: str, *, signed: bool = True, foreign: bool = False) -> None:
        super().__init__(reason)
        self.signed = signed
        self.foreign = foreign


class Binary(NamedTuple):
    """The fields of a binary header, in their order (specification, section 2.1)."""

    magic: bytes
    version: int
    header_bytes: int
    sequence: int
    label: bytes
    checksum_kind: bytes
    salt: bytes
    uuid: bytes
    subsystem: bytes
    offset: int
    padding: bytes
    checksum: bytes
    more_padding: bytes


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy: its binary header, and its JSON area without the NULs that fill it."""

    binary: Binary
    text: bytes

    def written(self) -> bytes:
        """Return what it has on the device, without the NULs that fill its JSON area."""
        return _BINARY.pack(*self.binary) + self.text

    def twin(self) -> bytes:
        """Return what the other copy has if it says the same; the salt only makes checksums differ."""
        size = self.binary.header_bytes
        second = self.binary.offset == 0
        twin = self.binary._replace(magic=MAGICS[second], offset=size * second)
        checksum = _checksum(_BINARY.pack(*twin), self.text.ljust(size - BINARY_BYTES, b"\0"))
        return Copy(twin._replace(checksum=checksum), self.text).written()


def renewed(held: bytes, text: bytes, header_bytes: int, salt: bytes) -> bytes:
    """Return a copy, of its whole length, that says something else and counts before what it was made of.

    Args:
        held: as ``Copy.written``.
        text: of the JSON area.
        header_bytes: size of one copy.
        salt: 64 bytes.
    """
    binary = Binary(*_BINARY.unpack(held[:BINARY_BYTES]))
    binary = binary._replace(sequence=binary.sequence + 1, salt=salt)
    area = text.ljust(header_bytes - BINARY_BYTES, b"\0")
    checksum = _checksum(_BINARY.pack(*binary), area)
    return _BINARY.pack(*binary._replace(checksum=checksum)) + area


def read_copies(read: Read, device_bytes: int) -> tuple[Copy | None, Copy | None]:
    """Find both copies, as cryptsetup does: the second one wherever it may be if the first is not whole.

    Args:
        read: of the device; an OSError counts as bytes that are not there. No byte is read twice.
        device_bytes: the size of the device.

    Returns:
        The first and the second copy, at least one of them; None for one that was not written whole.

    Raises:
        NotLuks: there is no signature at all.
        KeybrokerError: HEADER_REFUSED, neither is whole, or one that is has a binary header that is refused.
    """
    device = _Once(read, device_bytes)
    first = _attempt(device, 0)
    if isinstance(first, Copy):
        second = _attempt(device, first.binary.header_bytes)
        return first, second if isinstance(second, Copy) else None
    cuts: list[_Cut] = []
    for at in HEADER_SIZES:
        second = _attempt(device, at)
        if isinstance(second, _Cut):
            cuts.append(second)
        elif first.foreign:
            # cryptsetup asks blkid here. A cut write leaves the signature, and a dead sector no bytes or
            # zeros: other bytes mean that someone made something else of this disk, beyond the header too.
            raise refused("first copy", "something else was written over it, though the second one is whole")
        else:
            return None, second
    signed = [cut for cut in cuts if cut.signed]
    if not first.signed and not signed:
        raise NotLuks(Problem.HEADER_REFUSED, "there is no LUKS header")
    raise refused("both copies", f"the first {first}; the second {signed[0] if signed else 'is not there'}")


class _Once:
    """A device of which no byte is read twice."""

    def __init__(self, read: Read, device_bytes: int) -> None:
        self._read = read
        self._end = device_bytes
        self._pieces: list[tuple[int, bytes]] = []

    def take(self, offset: int, length: int) -> bytes:
        """Return a stretch of the device, from what was read before wherever it was.

        Raises:
            _Cut: it ends beyond the device, or cannot be read.
        """
        end = offset + length
        if end > self._end:
            raise _Cut(f"ends at {end}, the device at {self._end}", signed=False)
        found = bytearray()
        while (at := offset + len(found)) < end:
            piece = next((p for p in self._pieces if p[0] <= at < p[0] + len(p[1])), None)
            if piece is None:
                stop = min((start for start, _ in self._pieces if at < start < end), default=end)
                piece = (at, self._fetch(at, stop - at))
                self._pieces.append(piece)
            start, held = piece
            found += held[at - start : end - start]
        return bytes(found)

    def _fetch(self, offset: int, length: int) -> bytes:
        try:
            got = self._read(offset, length)
        except OSError as error:
            raise _Cut(f"cannot be read: {error.strerror}") from None
        if len(got) != length:
            raise _Cut(f"has only {len(got)} of {length} bytes at {offset}")
        return got


def _attempt(device: _Once, at: int) -> Copy | _Cut:
    try:
        return _read_copy(device, at)
    except _Cut as cut:
        return cut


def _read_copy(device: _Once, at: int) -> Copy:
    """Read the copy at ``at``.

    Raises:
        _Cut: it was not written whole.
        KeybrokerError: HEADER_REFUSED, it was, and is not as cryptsetup writes it.
    """
    second = at > 0
    head = device.take(at, BINARY_BYTES)
    binary = Binary(*_BINARY.unpack(head))
    if binary.magic != MAGICS[second]:
        raise _Cut("has no signature", signed=False, foreign=any(head))
    if binary.version == 1:
        raise refused("version", "is 1, that is LUKS1; must be 2")
    size = binary.header_bytes
    if size not in HEADER_SIZES or (second and size != at):
        raise _Cut(f"says that it has {size} bytes")
    area = device.take(at + BINARY_BYTES, size - BINARY_BYTES)
    if _checksum(head, area) != binary.checksum:
        raise _Cut("has a wrong checksum")
    _check_binary(binary, at)
    text, _, filling = area.partition(b"\0")
    if len(text) == len(area) or any(filling):
        raise refused("JSON area", "is not filled with NULs to its end")
    return Copy(binary, text)


def _checksum(head: bytes, area: bytes) -> bytes:
    """Return the checksum field: SHA-256 over both with the field zeroed, then NULs."""
    found = hashlib.sha256(head[:_CHECKSUM_AT])
    found.update(bytes(_CHECKSUM_FIELD))
    found.update(head[_CHECKSUM_AT + _CHECKSUM_FIELD :])
    found.update(area)
    return found.digest().ljust(_CHECKSUM_FIELD, b"\0")


def _check_binary(binary: Binary, at: int) -> None:
    if binary.version != 2:
        raise refused("version", f"is {binary.version}, must be 2")
    if binary.offset != at:
        raise refused("hdr_offset", f"is {binary.offset}, must be {at}")
    if not 0 < binary.sequence <= LARGEST_INTEGER:
        raise refused("seqid", f"is {binary.sequence}, must be from 1 to {LARGEST_INTEGER}")
    if text_of(binary.checksum_kind, "checksum_alg") != "sha256":
        raise refused("checksum_alg", "must be sha256")
    if UUID.fullmatch(text_of(binary.uuid, "uuid")) is None:
        raise refused("uuid", "is not a UUID as cryptsetup writes it")
    text_of(binary.label, "label")
    text_of(binary.subsystem, "subsystem")
    if any(binary.padding) or any(binary.more_padding):
        raise refused("padding", "is not zero")


def text_of(value: bytes, name: str) -> str:
    """Read a field of the binary header: text, then at least one NUL, then nothing else.

    Raises:
        KeybrokerError: HEADER_REFUSED.
    """
    text, _, filling = value.partition(b"\0")
    try:
        found = text.decode()
    except UnicodeDecodeError:
        raise refused(name, "is not UTF-8") from None
    if len(text) == len(value) or any(filling) or not found.isprintable():
        raise refused(name, f"is not text that is filled with NULs: {found!a}")
    return found
