"""What the JSON area of a LUKS2 header is made of, as frozen values; nothing here judges them.

Source: LUKS2 On-Disk Format Specification 1.1.4, sections 3.2 to 3.6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from keybroker.wire.values import dataclass

QUICK_ITERATIONS: Final = 100_000
"""Of PBKDF2; ours have 1,000 (``agent.luks.cryptsetup``), and took 0.03 s where 100,000 take 0.1 s."""

MOVED: Final = "backup-moved-segment"
FINAL: Final = "backup-final"
"""Flags of segments that say where the beginning of a plain filesystem is kept, and what all ends as."""

HOT: Final = "in-reencryption"
"""The flag of a segment that is being rewritten; it belongs to the digests of both volume keys."""


@dataclass(frozen=True, slots=True)
class Area:
    """Where a keyslot's binary data lies, in bytes from the start of the device, and its encryption.

    Attributes:
        hash: of the checksums that a re-encryption keeps there.
        block_bytes: what each of them is of.
        shift_bytes: how far a re-encryption moves the data.
    """

    kind: str
    offset: int
    size: int
    cipher: str = ""
    key_bytes: int = 0
    hash: str = ""
    block_bytes: int = 0
    shift_bytes: int = 0

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Kdf:
    """How a passphrase becomes a keyslot's key; ``iterations`` is argon2's ``time``."""

    kind: str
    hash: str
    iterations: int
    memory_kib: int = 0
    cpus: int = 0


@dataclass(frozen=True, slots=True)
class Keyslot:
    """A keyslot; ``reencrypt`` ones hold no key: no ``kdf`` and no splitter, but mode and direction."""

    number: int
    kind: str
    key_bytes: int
    area: Area
    kdf: Kdf | None = None
    splitter: str = ""
    splitter_hash: str = ""
    stripes: int = 0
    mode: str = ""
    direction: str = ""

    @property
    def is_quick(self) -> bool:
        """Say whether a key may be tried on it at no great cost, as on every keyslot that we ever fill.

        One of others may ask for 1 GiB of memory, or for seconds: no key of ours is tried on it for nothing.
        """
        return self.kdf is not None and self.kdf.kind == "pbkdf2" and self.kdf.iterations <= QUICK_ITERATIONS


@dataclass(frozen=True, slots=True)
class Digest:
    """What a volume key is recognised by, and which keyslots and segments it belongs to."""

    number: int
    kind: str
    hash: str
    iterations: int
    salt: bytes
    digest: bytes
    keyslots: tuple[int, ...]
    segments: tuple[int, ...]

    @property
    def fingerprint(self) -> str:
        """The digest as ``keybroker.wire.profile.Pin`` has it."""
        return "sha256:" + hashlib.sha256(self.salt + self.digest).hexdigest()


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the device, in bytes; ``size`` is None for ``dynamic``, up to the device's end."""

    number: int
    kind: str
    offset: int
    size: int | None
    flags: tuple[str, ...]
    iv_tweak: int = 0
    cipher: str = ""
    sector_size: int = 0
    integrity: str | None = None

    @property
    def is_encrypted(self) -> bool:
        """Say whether dm-crypt is to stand over it."""
        return self.kind in ("crypt", "hw-opal-crypt")

    @property
    def is_backup(self) -> bool:
        """Say whether it only remembers how a re-encryption begins or ends."""
        return any(flag.startswith("backup-") for flag in self.flags)

    @property
    def is_hot(self) -> bool:
        """Say whether it was being rewritten: each part of it is under either key, as recovery finds out."""
        return HOT in self.flags


@dataclass(frozen=True, slots=True)
class Token:
    """A token of any tool; ``volume``, ``versions`` and ``recovery`` are of ours only.

    Attributes:
        keyslots: that it is assigned to; cryptsetup takes a keyslot out of here when it is killed.
        versions: which keyslot was filled with which key version. It may name keyslots that are gone, so
            ask ``version``.
        recovery: a passphrase, encrypted to the offline recovery key (``keybroker.wire.recovery``).
    """

    number: int
    kind: str
    keyslots: tuple[int, ...]
    volume: str | None = None
    versions: Mapping[int, int] = MappingProxyType({})
    recovery: str | None = None

    def version(self, keyslot: int) -> int | None:
        """Return the key version that a keyslot was filled with, as far as this token says so."""
        return self.versions.get(keyslot) if keyslot in self.keyslots else None


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the JSON area says.

    Attributes:
        keyslots, digests, segments, tokens: by their number.
        keyslots_bytes: size of the whole keyslots area, which starts after the second copy.
        flags: persistent activation flags.
        requirements: what a reader must know to touch the volume at all.
    """

    keyslots: Mapping[int, Keyslot]
    digests: Mapping[int, Digest]
    segments: Mapping[int, Segment]
    tokens: Mapping[int, Token]
    keyslots_bytes: int
    flags: tuple[str, ...]
    requirements: tuple[str, ...]

    @property
    def final(self) -> Segment | None:
        """What a disk that is being encrypted in place is to be in the end; None for any other."""
        if not any(MOVED in segment.flags for segment in self.segments.values()):
            return None
        return next((s for s in self.segments.values() if FINAL in s.flags and s.is_encrypted), None)

    @property
    def data_offset(self) -> int:
        """Where the data begins, in bytes, or will begin once all of it is encrypted."""
        if (final := self.final) is not None:
            return final.offset
        return min(segment.offset for segment in self.segments.values() if not segment.is_backup)

    @property
    def data_segment(self) -> Segment:
        """The first encrypted segment in use, or else the one that there will be; there is one."""
        used = (s for s in self.segments.values() if s.is_encrypted and not s.is_backup)
        segment = self.final or next(used, None)
        assert segment is not None  # noqa: S101  # agent.luks.metadata reads no other
        return segment

    @property
    def data_digest(self) -> Digest:
        """The digest of the volume key of ``data_segment``; there is one, or two while that one is hot."""
        return next(d for d in self.digests.values() if self.data_segment.number in d.segments)

    @property
    def used_digests(self) -> tuple[Digest, ...]:
        """The digests of volume keys that a segment belongs to, be it a backup one."""
        return tuple(digest for digest in self.digests.values() if digest.segments)
