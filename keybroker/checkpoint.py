"""A checkpoint: where the chains of the audit trail stood at one moment, signed with Ed25519.

It is a signed note (https://c2sp.org/signed-note), which tools that are not ours read and check:

    keybroker.internal/audit
    keybroker checkpoint 1
    number 3
    at 2026-01-31T12:00:00.000000Z
    previous 5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9
    head main 1200 d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35

    — keybroker.internal/audit Kp3hTmRz...

``previous`` is the SHA-256 of the text before it, so that no checkpoint can be left out of the middle. There
is a head for each writer, by name; a database that only one broker writes to has one, ``main``. Whichever
broker signs takes in the chains of all, with the one key that is in the database. It is no tlog-checkpoint:
that has the root of a Merkle tree, and this trail is of chains (docs/decisions has why).

Source: RFC 8032 (Ed25519); C2SP signed-note for the signature line and the key's id.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from keybroker.audit import START, Head, rfc3339
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import WRITER

_KIND: Final = "keybroker checkpoint 1"
_ED25519: Final = b"\x01"
_ID_BYTES: Final = 4
_TEXT: Final = re.compile(
    r"(?P<origin>[a-z0-9.-]{1,64}/audit)\n"
    rf"{_KIND}\n"
    r"number (?P<number>[1-9][0-9]{0,17})\n"
    r"at (?P<at>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)\n"
    r"previous (?P<previous>[0-9a-f]{64})\n"
    rf"(?P<heads>(?:head {WRITER.pattern} [1-9][0-9]{{0,17}} [0-9a-f]{{64}}\n)+)"
)
_SIGNATURE: Final = re.compile(r"— (?P<name>[^ +\n]+) (?P<signature>[A-Za-z0-9+/=]+)\n")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says.

    Attributes:
        origin: the trust domain and ``/audit``; also the name of the key that signs.
        number: 1, 2, 3 … without a gap.
        at: UTC, as ``rfc3339`` writes it.
        previous: SHA-256 of the text of the checkpoint before, hex; zeros where there is none.
        heads: one for each writer that has written, by name.
    """

    origin: str
    number: int
    at: str
    previous: str
    heads: tuple[Head, ...]

    @property
    def text(self) -> str:
        """The text that is signed; ends with a newline."""
        heads = "".join(f"head {head.writer} {head.sequence} {head.hash}\n" for head in self.heads)
        return (
            f"{self.origin}\n{_KIND}\nnumber {self.number}\nat {self.at}\nprevious {self.previous}\n{heads}"
        )

    @property
    def hash(self) -> str:
        """SHA-256 of the text, hex: what the next checkpoint calls ``previous``."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def place(self) -> dict[str, int]:
        """The sequence number that each writer's chain had reached."""
        return {head.writer: head.sequence for head in self.heads}

    @property
    def ends(self) -> str:
        """The last record of each chain, in words."""
        return ", ".join(head.name for head in self.heads)

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read the text of a checkpoint.

        Raises:
            KeybrokerError: MALFORMED.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise KeybrokerError(Problem.MALFORMED, "checkpoint: it is none of ours")
        heads = tuple(
            Head(writer, int(sequence), hash_)
            for _, writer, sequence, hash_ in (line.split(" ") for line in match["heads"].splitlines())
        )
        if [head.writer for head in heads] != sorted({head.writer for head in heads}):
            raise KeybrokerError(Problem.MALFORMED, "checkpoint: its heads are not in order")
        return cls(match["origin"], int(match["number"]), match["at"], match["previous"], heads)


def after(last: Checkpoint | None, trust_domain: str, now: datetime, heads: tuple[Head, ...]) -> Checkpoint:
    """Return the checkpoint that follows ``last``."""
    return Checkpoint(
        origin=f"{trust_domain}/audit",
        number=1 if last is None else last.number + 1,
        at=rfc3339(now),
        previous=START if last is None else last.hash,
        heads=tuple(sorted(heads, key=lambda head: head.writer)),
    )


def is_due(
    last: Checkpoint | None, heads: Iterable[Head], now: datetime, records: int, interval: timedelta
) -> bool:
    """Say whether it is time for a checkpoint.

    Args:
        heads: that the chains have reached.
        records, interval: so many new records, or any new record after so long, make one due.
    """
    covered = {} if last is None else last.place
    fresh = sum(max(0, head.sequence - covered.get(head.writer, 0)) for head in heads)
    if last is None or fresh >= records:
        return fresh > 0
    since = now - datetime.fromisoformat(last.at[:26]).replace(tzinfo=UTC)
    # below zero the clock was set back: then one says so at once, and the next ones follow it
    return fresh > 0 and not timedelta(0) <= since < interval


def seal(text: str, name: str, signature: bytes, public: bytes) -> str:
    """Return the signed note of a text and its signature.

    Args:
        name: of the key, the checkpoint's origin.
        signature: 64 bytes, over the text.
        public: 32 bytes.
    """
    return f"{text}\n— {name} {base64.b64encode(_key_id(name, public) + signature).decode()}\n"


def unseal(note: str, public: bytes) -> Checkpoint:
    """Check a signed note; return what it says.

    Raises:
        KeybrokerError: CORRUPT where the signature is not one of this text by this key; MALFORMED where it is
            none of ours.
    """
    text, _, line = note.rpartition("\n\n")
    checkpoint = Checkpoint.parse(f"{text}\n")
    match = _SIGNATURE.fullmatch(line)
    try:
        if match is None or match["name"] != checkpoint.origin:
            raise ValueError("no signature of ours")
        signature = base64.b64decode(match["signature"], validate=True)
        if signature[:_ID_BYTES] != _key_id(checkpoint.origin, public):
            raise ValueError("another key's")
        Ed25519PublicKey.from_public_bytes(public).verify(signature[_ID_BYTES:], checkpoint.text.encode())
    except (InvalidSignature, ValueError, binascii.Error):
        raise KeybrokerError(
            Problem.CORRUPT, f"checkpoint {checkpoint.number}: its signature does not fit"
        ) from None
    return checkpoint


def verifier_key(name: str, public: bytes) -> str:
    """Return a public key as tools for signed notes take it (signed-note, "Verifier keys")."""
    encoded = base64.b64encode(_ED25519 + public).decode()
    return f"{name}+{_key_id(name, public).hex()}+{encoded}"


def _key_id(name: str, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:_ID_BYTES]
