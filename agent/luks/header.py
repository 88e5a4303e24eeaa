"""A LUKS2 header, read once from a device and checked before anything is done on its account.

Nothing here asks cryptsetup: even ``luksDump`` writes, it repairs (DESIGN section 5).
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.luks.copies import Copy, NotLuks, Read, read_copies, text_of
from agent.luks.jsontext import refused
from agent.luks.metadata import TOKEN_TYPE, read_metadata
from agent.luks.objects import Area, Digest, Kdf, Keyslot, Metadata, Segment, Token
from keybroker.wire.profile import Pin
from keybroker.wire.records import SeenHeader
from keybroker.wire.recovery import digest
from keybroker.wire.values import dataclass, field

__all__ = ["Area", "Digest", "Header", "Kdf", "Keyslot", "NotLuks", "Read", "Segment", "Token", "read_header"]


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
        data = self.metadata.data_digest
        others = tuple(each.fingerprint for each in self.metadata.used_digests if each is not data)
        enclosed = None if self.token is None else self.token.recovery
        return SeenHeader(
            self.pin, self.sequence, self.requirements, self.degraded, others, enclosed and digest(enclosed)
        )


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
    first, second = read_copies(read, device_bytes)
    chosen, other = _choose(first, second)
    metadata = read_metadata(chosen.text, chosen.binary.header_bytes)
    if metadata.data_offset > device_bytes:
        raise refused(
            "segments", f"the data begins at {metadata.data_offset}, the device ends at {device_bytes}"
        )
    both = (chosen.written(), other.written() if other else chosen.twin())
    return Header(
        uuid=text_of(chosen.binary.uuid, "uuid"),
        label=text_of(chosen.binary.label, "label"),
        subsystem=text_of(chosen.binary.subsystem, "subsystem"),
        sequence=chosen.binary.sequence,
        header_bytes=chosen.binary.header_bytes,
        degraded=other is None,
        metadata=metadata,
        first=both[0] if chosen is first else both[1],
        second=both[1] if chosen is first else both[0],
    )


def _choose(first: Copy | None, second: Copy | None) -> tuple[Copy, Copy | None]:
    """Return the copy that counts, and its twin unless that is missing or older."""
    if first is None or second is None:
        chosen = first or second
        assert chosen is not None  # noqa: S101  # read_copies raises where both are missing
        return chosen, None
    if first.binary.sequence != second.binary.sequence:
        return max(first, second, key=lambda copy: copy.binary.sequence), None
    same = ("header_bytes", "label", "uuid", "subsystem")
    if first.text != second.text or any(
        getattr(first.binary, name) != getattr(second.binary, name) for name in same
    ):
        raise refused("both copies", "have the same sequence id and say different things")
    return first, second
