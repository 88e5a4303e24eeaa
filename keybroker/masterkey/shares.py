"""Shares of a master key, as text and as a URI; docs/decisions/0018 has the reasons.

    shares:K/N/IDENTITY      the master key of that identity, of which K of N shares are needed
    KBS1-AAAA-BBBB-…         one share: 72 characters of base32 (RFC 4648 section 6) in groups of four

The 45 bytes of a share: K, N and its number, a byte each; the first 3 bytes of the identity, to know which
key it is of, and 3 that are random for each splitting, so that shares of two sets never mix, be they of one
key; 32 bytes, a half of 16 after the other; the first 4 of SHA-256 over ``KBS1`` and those.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from dataclasses import dataclass
from typing import Final

from keybroker.envelope import KEY_BYTES
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

SCHEME: Final = "shares:"
MOST_SHARES: Final = 16
FORM: Final = re.compile(r"shares:(?P<k>[1-9][0-9]?)/(?P<n>[1-9][0-9]?)(/(?P<identity>[0-9a-f]{32}))?")
_PREFIX: Final = b"KBS1"
_NAME_BYTES: Final = 3
SPLIT_BYTES: Final = 3
_SHARE: Final = struct.Struct(f">BBB{_NAME_BYTES + SPLIT_BYTES}s{KEY_BYTES}s4s")
_CHARACTERS: Final = _SHARE.size * 8 // 5
_LOOKALIKES: Final = bytes.maketrans(b"018", b"OIB")
"""Digits that base32 does not have, and the letters that they are taken for."""


@dataclass(frozen=True, slots=True)
class ShareSet:
    """A master key that was split.

    Attributes:
        threshold: so many shares are needed.
        count: so many were made.
        identity: of the master key, 32 hex digits.
    """

    threshold: int
    count: int
    identity: str

    @property
    def uri(self) -> str:
        """Return what the configuration calls it."""
        return f"{SCHEME}{self.threshold}/{self.count}/{self.identity}"

    @property
    def id(self) -> bytes:
        """Return what all shares of this key call it, whenever it was split."""
        return bytes.fromhex(self.identity)[:_NAME_BYTES]

    @classmethod
    def parse(cls, uri: str) -> ShareSet:
        """Read a URI.

        Raises:
            KeybrokerError: CONFIGURATION.
        """
        threshold, count, identity = numbers(uri)
        if identity is None:
            raise KeybrokerError(
                Problem.CONFIGURATION,
                "master key shares: does not say which one: shares:K/N/IDENTITY",
                hint="keybroker master split",
            )
        return cls(threshold, count, identity)


def numbers(uri: str) -> tuple[int, int, str | None]:
    """Read ``shares:K/N`` or ``shares:K/N/IDENTITY``.

    Raises:
        KeybrokerError: CONFIGURATION.
    """
    match = FORM.fullmatch(uri)
    found = (int(match["k"]), int(match["n"])) if match else (0, 0)
    if match is None or not 2 <= found[0] <= found[1] <= MOST_SHARES:
        raise KeybrokerError(
            Problem.CONFIGURATION,
            f"master key shares: must be shares:K/N with 2 <= K <= N <= {MOST_SHARES}",
            hint="shares:2/3: any two of three holders start the broker",
        )
    return (*found, match["identity"])


@dataclass(frozen=True, slots=True)
class Share:
    """One share.

    Attributes:
        number: from 1 to ``count``.
        set_id: of the set that it is of: ``ShareSet.id``, and ``SPLIT_BYTES`` that no other splitting has.
        value: 32 bytes.
    """

    threshold: int
    count: int
    number: int
    set_id: bytes
    value: Secret

    @property
    def of(self) -> bytes:
        """Return ``ShareSet.id`` of the key that it is of."""
        return self.set_id[:_NAME_BYTES]

    def text(self) -> Secret:
        """Return what its holder keeps."""
        body = (
            struct.pack(">BBB", self.threshold, self.count, self.number) + self.set_id + self.value.reveal()
        )
        letters = base64.b32encode(body + _checksum(body))
        groups = [letters[i : i + 4] for i in range(0, len(letters), 4)]
        return Secret(b"-".join([_PREFIX, *groups]))

    @classmethod
    def parse(cls, text: Secret) -> Share:
        """Read what a holder typed: any case, spaces and hyphens anywhere, 0, 1 and 8 for O, I and B.

        Raises:
            KeybrokerError: MALFORMED; the message repeats nothing of it.
        """
        letters = re.sub(rb"[-\s]", b"", text.reveal()).upper()
        if not letters.startswith((_PREFIX, b"KBSI")):
            raise _wrong("does not begin with KBS1")
        letters = letters[len(_PREFIX) :].translate(_LOOKALIKES)
        if len(letters) != _CHARACTERS:
            raise _wrong(f"has {len(letters)} characters after KBS1, and not {_CHARACTERS}")
        try:
            body = base64.b32decode(letters)
        except ValueError:
            raise _wrong("has a character that no share has") from None
        threshold, count, number, set_id, value, checksum = _SHARE.unpack(body)
        if checksum != _checksum(body[: -len(checksum)]):
            raise _wrong("has a typing error: its checksum does not match")
        if not (2 <= threshold <= count <= MOST_SHARES and 1 <= number <= count):
            raise _wrong("is of no form that is known here")
        return cls(threshold, count, number, set_id, Secret(value))


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(_PREFIX + body).digest()[:4]


def _wrong(what: str) -> KeybrokerError:
    return KeybrokerError(Problem.MALFORMED, f"share: {what}", hint="KBS1-… with 18 groups of 4 characters")
