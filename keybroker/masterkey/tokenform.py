"""KBP1: how a key is wrapped by a key that never leaves its token; docs/decisions/0015 has the reasons.

    "KBP1" | suite u8 = 1 | flags u8 = 0 | key id 16 | nonce 12 | ciphertext of 64 bytes | tag 16
    nonce = HMAC-SHA512(key, "KBP1 nonce" ‖ entropy ‖ ctx), its first 12 bytes
    ciphertext ‖ tag = AES-256-GCM(master key, nonce, 32 zero bytes ‖ key, aad = the 34 bytes before it ‖ ctx)

``ctx`` is KBE1's. The token encrypts under the master key itself, so the nonce has to be another one each
time: derived like this, it repeats by accident as rarely as 96 random bits (NIST SP 800-38D, 8.3: fewer than
2**32 messages; here there is one a generation of an add-on's key), and should entropy repeat, as after a
restored snapshot, another key or another place still means another nonce. The zero bytes commit to the
master key: 256 bits of key stream under the same nonce do not agree for two keys (Albertini et al., "How to
Abuse and Fix Authenticated Encryption Without Key Commitment", USENIX Security 2022, "padding fix").
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Final

from keybroker.envelope import (
    ENTROPY_BYTES,
    KEY_BYTES,
    NONCE_BYTES,
    TAG_BYTES,
    Context,
    EnvelopeError,
    Failure,
)
from keybroker.wire.secret import Secret

MAGIC: Final = b"KBP1"
SUITE: Final = 1
_HEADER: Final = struct.Struct(">4sBB16s12s")
COMMITTED: Final = bytes(32)
SEALED_BYTES: Final = len(COMMITTED) + KEY_BYTES + TAG_BYTES

NAMING: Final = (bytes(NONCE_BYTES), b"KBP1 master key identity")
"""Nonce and associated data of the one message that names a key: 32 zero bytes. The nonce is for that alone;
what is wrapped has it by accident with a chance of 2**-96. (A zero block by itself, as check values of tokens
are made, would be GCM's own hash key.)"""


@dataclass(frozen=True, slots=True)
class Sealing:
    """What a token is to encrypt, or to decrypt.

    Attributes:
        header: what stands before the ciphertext.
        associated: the associated data.
        data: plaintext, or ciphertext with its tag.
    """

    header: bytes
    nonce: bytes
    associated: bytes
    data: bytes


def name_of(named: bytes) -> bytes:
    """Return a key's name, 16 bytes, from what it makes of the message that ``NAMING`` is about."""
    return hashlib.sha512(NAMING[1] + named).digest()[:16]


def to_seal(name: bytes, key: Secret, context: Context, entropy: bytes) -> Sealing:
    """Return what the token encrypts in order to wrap ``key``.

    Args:
        name: 16 bytes, the master key's.
        entropy: ``ENTROPY_BYTES`` fresh random bytes.

    Raises:
        ValueError: a key, name or entropy of the wrong length.
    """
    if (len(name), len(key), len(entropy)) != (16, KEY_BYTES, ENTROPY_BYTES):
        raise ValueError("a wrapped key has 32 bytes, a name 16, and the entropy 44")
    ctx = context.encode()
    nonce = hmac.digest(key.reveal(), b"KBP1 nonce" + entropy + ctx, "sha512")[:NONCE_BYTES]
    header = _HEADER.pack(MAGIC, SUITE, 0, name, nonce)
    return Sealing(header, nonce, header + ctx, COMMITTED + key.reveal())


def to_open(name: bytes, context: Context, wrapped: bytes) -> Sealing:
    """Return what the token decrypts in order to unwrap a blob.

    Raises:
        EnvelopeError: HEADER for a blob of another form, NO_KEY for one that another key wrapped.
    """
    if len(wrapped) != _HEADER.size + SEALED_BYTES:
        raise EnvelopeError(Failure.HEADER, f"{len(wrapped)} bytes are not the length of the form KBP1")
    magic, suite, flags, key_id, nonce = _HEADER.unpack_from(wrapped)
    if (magic, suite, flags) != (MAGIC, SUITE, 0):
        raise EnvelopeError(Failure.HEADER, "it is not of the form KBP1, suite 1")
    if key_id != name:
        raise EnvelopeError(Failure.NO_KEY, f"no key {key_id.hex()}")
    header = wrapped[: _HEADER.size]
    return Sealing(header, nonce, header + context.encode(), wrapped[_HEADER.size :])


def opened(plaintext: bytes) -> Secret:
    """Return the key in what the token decrypted.

    Raises:
        EnvelopeError: COMMITMENT, FORM.
    """
    if not hmac.compare_digest(plaintext[: len(COMMITTED)], COMMITTED):
        raise EnvelopeError(Failure.COMMITMENT, "it is not under this key")
    if len(plaintext) != len(COMMITTED) + KEY_BYTES:
        raise EnvelopeError(Failure.FORM, "what is inside is no key")
    return Secret(plaintext[len(COMMITTED) :])
