"""A LUKS2 header, read once from a device and checked before anything is done on its account.

A header is there twice: a binary header of 4096 bytes and a JSON area, then both again. cryptsetup writes
one after the other, each checksum last, so a cut write leaves one copy whose checksum is wrong. That, and
only that, is a reason to use the other one. A copy with the right checksum that says something we refuse
is a forgery, or the work of a newer cryptsetup, and falling back on its older twin would ignore what it says.

Nothing here asks cryptsetup: even ``luksDump`` writes, it repairs (DESIGN section 5).

Source: LUKS2 On-Disk Format Specification 1.1.4, sections 2.1, 2.2 and 2.4.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agent.luks.metadata import (
    TOKEN_TYPE,
    Area,
    Digest,
    Kdf,
    Keyslot,
    Metadata,
    Segment,
    Token,
    read_metadata,
)
from keybroker.wire.fields import LARGEST_INTEGER
from keybroker.wire.names import UUID
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin
from keybroker.wire.records import SeenHeader

__all__ = ["Area", "Digest", "Header", "Kdf", "Keyslot", "NotLuks", "Read", "Segment", "Token", "read_header"]

Read = Callable[[int, int], bytes]
"""``read(offset, length)``, in bytes; fewer bytes than asked for mean the end of the device."""

BINARY_BYTES: Final = 4096
HEADER_SIZES: Final = tuple(0x4000 << n for n in range(9))
"""In bytes, 16 KiB to 4 MiB: the sizes of a copy, and so the places where the second one may be."""

MAGICS: Final = (b"LUKS\xba\xbe", b"SKUL\xba\xbe")

_BINARY: Final = struct.Struct(">6sHQQ48s32s64s40s48sQ184s64s3584s")
_CHECKSUM_AT: Final = 448
_CHECKSUM_FIELD: Final = 64


class NotLuks(KeybrokerError):
    """There is no LUKS signature, not even at the places of a second copy; also HEADER_REFUSED."""


class _Cut(Exception):
    """A copy that was not written whole, or is not there at all; the other one may stand in for it."""

    def __init__(self, reason: str, *, signed: bool = True, foreign: bool = False) -> None:
        super().__init__(reason)
        self.signed = signed
        self.foreign = foreign


class _Binary(NamedTuple):
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
class _Copy:
    binary: _Binary
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
        return _Copy(twin._replace(checksum=checksum), self.text).written()


@dataclass(frozen=True, slots=True)
class Header:
    """What a LUKS2 header says; nothing of it is to be trusted before ``agent.luks.acceptance`` took it.

    Attributes:
        sequence: grows with each change that cryptsetup makes.
        header_bytes: size of one copy.
        degraded: one copy was not whole, or older than the other.
        metadata: the JSON area.
        first, second: both copies as they are to be used, JSON areas without their filling; where the
            header was degraded, the bad one is made anew from the good one.
    """

    uuid: str
    label: str
    subsystem: str
    sequence: int
    header_bytes: int
    degraded: bool
    metadata: Metadata = field(repr=False)
    first: bytes = field(repr=False)
    second: bytes = field(repr=False)

    @property
    def keyslots(self) -> Mapping[int, Keyslot]:
        """The keyslots, by number."""
        return self.metadata.keyslots

    @property
    def digests(self) -> Mapping[int, Digest]:
        """The digests, by number."""
        return self.metadata.digests

    @property
    def segments(self) -> Mapping[int, Segment]:
        """The segments, by number."""
        return self.metadata.segments

    @property
    def tokens(self) -> Mapping[int, Token]:
        """The tokens, by number; of any tool."""
        return self.metadata.tokens

    @property
    def requirements(self) -> tuple[str, ...]:
        """What a reader must know to touch the volume; a re-encryption in progress is one."""
        return self.metadata.requirements

    @property
    def token(self) -> Token | None:
        """Our token; the first, should there be several (which is never accepted)."""
        return next((token for token in self.tokens.values() if token.kind == TOKEN_TYPE), None)

    @property
    def data_offset(self) -> int:
        """Where the data begins, in bytes."""
        return self.metadata.data_offset

    @property
    def pin(self) -> Pin:
        """What the broker would pin of it."""
        return Pin(
            uuid=self.uuid,
            digest=self.metadata.data_digest.fingerprint,
            data_offset=self.data_offset,
            sector_size=self.metadata.data_segment.sector_size,
        )

    def seen(self) -> SeenHeader:
        """Return what the broker is told of it before it gives out a key."""
        return SeenHeader(self.pin, self.sequence, self.requirements, self.degraded)


def read_header(read: Read, device_bytes: int) -> Header:
    """Read the header of a device, or of a header copy of the data offset's length.

    No byte is read twice, so that nobody can show us one header and cryptsetup's copy another.

    Args:
        read: of the device; an OSError counts as bytes that are not there.
        device_bytes: the size of the device.

    Raises:
        NotLuks: there is no signature at all.
        KeybrokerError: HEADER_REFUSED for everything else that is not as cryptsetup writes it, with the
            place and the reason.
    """
    first, second = _copies(_Once(read, device_bytes))
    chosen, other = _choose(first, second)
    metadata = read_metadata(chosen.text, chosen.binary.header_bytes)
    if metadata.data_offset > device_bytes:
        raise _refused(
            "segments", f"the data begins at {metadata.data_offset}, the device ends at {device_bytes}"
        )
    both = (chosen.written(), other.written() if other else chosen.twin())
    return Header(
        uuid=_text(chosen.binary.uuid, "uuid"),
        label=_text(chosen.binary.label, "label"),
        subsystem=_text(chosen.binary.subsystem, "subsystem"),
        sequence=chosen.binary.sequence,
        header_bytes=chosen.binary.header_bytes,
        degraded=other is None,
        metadata=metadata,
        first=both[0] if chosen is first else both[1],
        second=both[1] if chosen is first else both[0],
    )


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


def _copies(device: _Once) -> tuple[_Copy | None, _Copy | None]:
    """Find both copies, as cryptsetup does: the second one wherever it may be if the first is not whole."""
    first = _attempt(device, 0)
    if isinstance(first, _Copy):
        second = _attempt(device, first.binary.header_bytes)
        return first, second if isinstance(second, _Copy) else None
    cuts: list[_Cut] = []
    for at in HEADER_SIZES:
        second = _attempt(device, at)
        if isinstance(second, _Cut):
            cuts.append(second)
        elif first.foreign:
            # cryptsetup asks blkid here. A cut write leaves the signature, and a dead sector no bytes or
            # zeros: other bytes mean that someone made something else of this disk, beyond the header too.
            raise _refused("first copy", "something else was written over it, though the second one is whole")
        else:
            return None, second
    signed = [cut for cut in cuts if cut.signed]
    if not first.signed and not signed:
        raise NotLuks(Problem.HEADER_REFUSED, "there is no LUKS header")
    raise _refused("both copies", f"the first {first}; the second {signed[0] if signed else 'is not there'}")


def _attempt(device: _Once, at: int) -> _Copy | _Cut:
    try:
        return _read_copy(device, at)
    except _Cut as cut:
        return cut


def _read_copy(device: _Once, at: int) -> _Copy:
    """Read the copy at ``at``.

    Raises:
        _Cut: it was not written whole.
        KeybrokerError: HEADER_REFUSED, it was, and is not as cryptsetup writes it.
    """
    second = at > 0
    head = device.take(at, BINARY_BYTES)
    binary = _Binary(*_BINARY.unpack(head))
    if binary.magic != MAGICS[second]:
        raise _Cut("has no signature", signed=False, foreign=any(head))
    if binary.version == 1:
        raise _refused("version", "is 1, that is LUKS1; must be 2")
    size = binary.header_bytes
    if size not in HEADER_SIZES or (second and size != at):
        raise _Cut(f"says that it has {size} bytes")
    area = device.take(at + BINARY_BYTES, size - BINARY_BYTES)
    if _checksum(head, area) != binary.checksum:
        raise _Cut("has a wrong checksum")
    _check_binary(binary, at)
    text, _, filling = area.partition(b"\0")
    if len(text) == len(area) or any(filling):
        raise _refused("JSON area", "is not filled with NULs to its end")
    return _Copy(binary, text)


def _checksum(head: bytes, area: bytes) -> bytes:
    """Return the checksum field: SHA-256 over both with the field zeroed, then NULs."""
    found = hashlib.sha256(head[:_CHECKSUM_AT])
    found.update(bytes(_CHECKSUM_FIELD))
    found.update(head[_CHECKSUM_AT + _CHECKSUM_FIELD :])
    found.update(area)
    return found.digest().ljust(_CHECKSUM_FIELD, b"\0")


def _check_binary(binary: _Binary, at: int) -> None:
    if binary.version != 2:
        raise _refused("version", f"is {binary.version}, must be 2")
    if binary.offset != at:
        raise _refused("hdr_offset", f"is {binary.offset}, must be {at}")
    if not 0 < binary.sequence <= LARGEST_INTEGER:
        raise _refused("seqid", f"is {binary.sequence}, must be from 1 to {LARGEST_INTEGER}")
    if _text(binary.checksum_kind, "checksum_alg") != "sha256":
        raise _refused("checksum_alg", "must be sha256")
    if UUID.fullmatch(_text(binary.uuid, "uuid")) is None:
        raise _refused("uuid", "is not a UUID as cryptsetup writes it")
    _text(binary.label, "label")
    _text(binary.subsystem, "subsystem")
    if any(binary.padding) or any(binary.more_padding):
        raise _refused("padding", "is not zero")


def _text(value: bytes, name: str) -> str:
    """Read a field of the binary header: text, then at least one NUL, then nothing else."""
    text, _, filling = value.partition(b"\0")
    try:
        found = text.decode()
    except UnicodeDecodeError:
        raise _refused(name, "is not UTF-8") from None
    if len(text) == len(value) or any(filling) or not found.isprintable():
        raise _refused(name, f"is not text that is filled with NULs: {found!a}")
    return found


def _choose(first: _Copy | None, second: _Copy | None) -> tuple[_Copy, _Copy | None]:
    """Return the copy that counts, and its twin unless that is missing or older."""
    if first is None or second is None:
        chosen = first or second
        assert chosen is not None  # noqa: S101  # _copies raises where both are missing
        return chosen, None
    if first.binary.sequence != second.binary.sequence:
        return max(first, second, key=lambda copy: copy.binary.sequence), None
    same = ("header_bytes", "label", "uuid", "subsystem")
    if first.text != second.text or any(
        getattr(first.binary, name) != getattr(second.binary, name) for name in same
    ):
        raise _refused("both copies", "have the same sequence id and say different things")
    return first, second


def _refused(path: str, what: str) -> KeybrokerError:
    return KeybrokerError(Problem.HEADER_REFUSED, f"{path}: {what}")
