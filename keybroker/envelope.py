"""KBE1: how a key or a header copy is wrapped for storage.

One key per record, derived from the add-on's key with a salt; AES-256-GCM under it; and an explicit
commitment, because GCM alone lets one ciphertext open under two keys. The context is never stored: it is
rebuilt from the row that the blob was found in: a blob moved to another row, version or field does not open.

    "KBE1" | suite u8 = 1 | flags u8 = 0 | key id 16 | key generation u32 | salt 32 | commitment 32 | nonce 12
           | length u32 | ciphertext | tag 16
    ctx = LP("KBE1") ‖ suite ‖ LP(add-on) ‖ LP(volume) ‖ LP(LUKS UUID) ‖ u32(version) ‖ LP(purpose)
    PRK = HKDF-Extract-SHA512(salt, key)
    k, commitment = HKDF-Expand(PRK, "KBE1 enc" ‖ ctx, 32), HKDF-Expand(PRK, "KBE1 com" ‖ ctx, 32)
    ciphertext ‖ tag = AES-256-GCM(k, nonce, plaintext, aad = the 106 bytes before it ‖ ctx)

LP is a u16 length and the bytes; numbers are big-endian; ``length`` counts the ciphertext without its tag.
Sources: RFC 5869 (HKDF), NIST SP 800-38D (GCM), AWS Encryption SDK suite 04 78 for the commitment's shape.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import PASSPHRASE_FORM, Secret

MAGIC: Final = b"KBE1"
SUITE: Final = 1
SALT_BYTES: Final = 32
NONCE_BYTES: Final = 12
ENTROPY_BYTES: Final = SALT_BYTES + NONCE_BYTES
"""Fresh random bytes that each ``seal`` needs."""

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
LARGEST_PLAINTEXT: Final = 4 << 20
"""In bytes; a header copy is the largest thing that is ever wrapped."""

_HEADER: Final = struct.Struct(">4sBB16sI32s32s12sI")
HEADER_BYTES: Final = _HEADER.size
_NAMED: Final = slice(6, 22)


class Purpose(Enum):
    """What is wrapped; part of the context, and what the plaintext must look like goes with it."""

    PASSPHRASE = "luks-passphrase"  # noqa: S105  # the purpose's name
    HEADER_COPY = "header-backup"
    ADDON_KEY = "addon-key"
    KEY_CHECK = "key-check"
    STATEMENT_KEY = "statement-key"
    RECOVERY_RECIPIENTS = "recovery-recipients"
    RECOVERY_CIPHERTEXT = "recovery-ct"


class Failure(Enum):
    """Why a blob did not open."""

    HEADER = "header failure"
    NO_KEY = "no such key"
    COMMITMENT = "commitment failure"
    AUTHENTICATION = "authentication failure"
    FORM = "form failure"


class EnvelopeError(KeybrokerError):
    """A blob that does not open: CORRUPT, and which check it failed."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(Problem.CORRUPT, f"wrapped key: {failure.value}: {detail}")
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Context:
    """Where a blob belongs: rebuilt from its row each time, never read from the blob.

    Attributes:
        addon, volume, luks_uuid: empty where the purpose has none.
        version: key version, number of the header copy, or generation of an add-on's key.
    """

    addon: str
    volume: str
    luks_uuid: str
    version: int
    purpose: Purpose

    def encode(self) -> bytes:
        """Return the bytes that the derived key depends on; two contexts never have the same."""
        return b"".join(
            (
                _prefixed(MAGIC),
                bytes((SUITE,)),
                _prefixed(self.addon.encode()),
                _prefixed(self.volume.encode()),
                _prefixed(self.luks_uuid.encode()),
                struct.pack(">I", self.version),
                _prefixed(self.purpose.value.encode()),
            )
        )


def _prefixed(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """A key that wraps, with the name that blobs call it by.

    Attributes:
        id: 16 bytes.
        key: 32 bytes.
    """

    id: bytes
    generation: int
    key: Secret


@dataclass(frozen=True, slots=True)
class Envelope:
    """A blob, taken apart; nothing about it is proven yet."""

    key_id: bytes
    generation: int
    salt: bytes
    commitment: bytes
    nonce: bytes
    header: bytes
    sealed: bytes


def parse(blob: bytes) -> Envelope:
    """Take a blob apart, strictly: exact lengths, no flags, a known suite.

    Raises:
        EnvelopeError: HEADER.
    """
    if len(blob) < HEADER_BYTES:
        raise EnvelopeError(Failure.HEADER, f"{len(blob)} bytes are too few")
    magic, suite, flags, key_id, generation, salt, commitment, nonce, length = _HEADER.unpack_from(blob)
    if magic != MAGIC:
        raise EnvelopeError(Failure.HEADER, "the magic bytes are wrong")
    if suite != SUITE:
        raise EnvelopeError(Failure.HEADER, f"suite {suite} is not known")
    if flags != 0:
        raise EnvelopeError(Failure.HEADER, f"flags {flags:#04x} are not known")
    if length > LARGEST_PLAINTEXT:
        raise EnvelopeError(Failure.HEADER, f"{length} bytes are more than is ever wrapped")
    if len(blob) != HEADER_BYTES + length + TAG_BYTES:
        raise EnvelopeError(Failure.HEADER, f"{len(blob)} bytes are not the length that it names")
    return Envelope(key_id, generation, salt, commitment, nonce, blob[:HEADER_BYTES], blob[HEADER_BYTES:])


def _derive(key: Secret, salt: bytes, context: bytes) -> tuple[bytes, bytes]:
    """Return the record's key and its commitment.

    Both outputs are shorter than SHA-512's, so HKDF-Expand is its first block (RFC 5869 section 2.3).
    """
    extracted = hmac.digest(salt, key.reveal(), "sha512")
    encryption = hmac.digest(extracted, b"KBE1 enc" + context + b"\x01", "sha512")[:KEY_BYTES]
    commitment = hmac.digest(extracted, b"KBE1 com" + context + b"\x01", "sha512")[:KEY_BYTES]
    return encryption, commitment


def seal(key: WrappingKey, context: Context, plaintext: Secret, entropy: bytes) -> bytes:
    """Wrap ``plaintext`` for the place that ``context`` names.

    Args:
        entropy: ``ENTROPY_BYTES`` fresh random bytes: the salt, then the nonce. Should a restored snapshot of
            the broker's machine repeat them, another context still means another key.

    Raises:
        ValueError: a key, identity or entropy of the wrong length, or too large a plaintext.
    """
    if (len(key.id), len(key.key), len(entropy)) != (16, KEY_BYTES, ENTROPY_BYTES):
        raise ValueError("a wrapping key has 32 bytes, its name 16, and the entropy 44")
    if len(plaintext) > LARGEST_PLAINTEXT:
        raise ValueError(f"{len(plaintext)} bytes are too many to wrap")
    salt, nonce = entropy[:SALT_BYTES], entropy[SALT_BYTES:]
    ctx = context.encode()
    encryption, commitment = _derive(key.key, salt, ctx)
    header = _HEADER.pack(MAGIC, SUITE, 0, key.id, key.generation, salt, commitment, nonce, len(plaintext))
    return header + AESGCM(encryption).encrypt(nonce, plaintext.reveal(), header + ctx)


def wrapped_by(blob: bytes) -> bytes:
    """Return the id of the key that a blob names, whatever wrapped it; nothing about it is proven.

    Every form that a master key provider writes begins as KBE1 does: four letters, suite, flags, key id.

    Raises:
        EnvelopeError: it is too short to name one.
    """
    if len(blob) < _NAMED.stop or not blob.startswith(b"KB"):
        raise EnvelopeError(Failure.HEADER, "it names no key")
    return blob[_NAMED]


def unseal(find: Callable[[bytes, int], WrappingKey | None], context: Context, blob: bytes) -> Secret:
    """Unwrap a blob that was found at the place that ``context`` names.

    Args:
        find: the key of an id and a generation, None where there is none; the blob names its key, so that
            none is ever tried.

    Raises:
        EnvelopeError: whatever is wrong, in the order of ``Failure``; its message repeats nothing secret.
    """
    envelope = parse(blob)
    key = find(envelope.key_id, envelope.generation)
    if key is None:
        raise EnvelopeError(Failure.NO_KEY, f"no key {envelope.key_id.hex()}/{envelope.generation}")
    ctx = context.encode()
    encryption, commitment = _derive(key.key, envelope.salt, ctx)
    if not hmac.compare_digest(commitment, envelope.commitment):
        raise EnvelopeError(Failure.COMMITMENT, "it is not of this place, or not under this key")
    try:
        plaintext = AESGCM(encryption).decrypt(envelope.nonce, envelope.sealed, envelope.header + ctx)
    except InvalidTag:
        raise EnvelopeError(Failure.AUTHENTICATION, "it was changed") from None
    if not _well_formed(context.purpose, plaintext):
        raise EnvelopeError(Failure.FORM, f"what is inside is no {context.purpose.value}")
    return Secret(plaintext)


def _well_formed(purpose: Purpose, plaintext: bytes) -> bool:
    if purpose is Purpose.PASSPHRASE:
        return PASSPHRASE_FORM.fullmatch(plaintext) is not None
    if purpose is Purpose.HEADER_COPY:
        return len(plaintext) > 0
    return len(plaintext) == KEY_BYTES
