"""A passphrase, encrypted to the offline recovery key: what opens a disk when there is no broker any more.

It is an age file (age-encryption.org/v1) in base64, and holds the passphrase and nothing else, so that

    base64 -d | age -d -i recovery.key | cryptsetup open --key-file - …

opens the disk with nothing of ours. The broker makes one with each key version and keeps it; the agent puts
it into our token in the LUKS2 header. It is no secret: only who has the offline key reads it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from typing import Any, Final

from keybroker.wire.fields import Fields
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass

LONGEST: Final = 2048
"""In characters. One recipient takes about 550, eight take 1,470; the header's JSON area has 12,288 bytes."""

MOST_RECIPIENTS: Final = 8

CIPHERTEXT: Final = re.compile(r"YWdlLWVuY3J5cHRpb24ub3JnL3Yx[A-Za-z0-9+/]{200,2018}={0,2}")
"""Base64 of a file that begins with ``age-encryption.org/v1``."""

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")

_DOMAIN: Final = b"keybroker recovery proof 1"


def digest(ciphertext: str) -> str:
    """Return what a ciphertext is called by: ``sha256:`` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(ciphertext.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Recovery:
    """What our token is to carry.

    Attributes:
        version: the key version whose passphrase is inside.
        ciphertext: of the form ``CIPHERTEXT``.
    """

    version: KeyVersion
    ciphertext: str

    @property
    def digest(self) -> str:
        """What it is called by."""
        return digest(self.ciphertext)

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"version": self.version, "ciphertext": self.ciphertext}

    @classmethod
    def read(cls, fields: Fields) -> Recovery:
        """Read the wire form (MALFORMED otherwise); a newer broker's extra fields are let go."""
        recovery = cls(
            KeyVersion(fields.number("version", least=1)),
            fields.text("ciphertext", match=CIPHERTEXT, most=LONGEST),
        )
        fields.ignore_rest()
        return recovery


def prove(key: Secret, *, volume: VolumeId, version: KeyVersion, ciphertext: str) -> str:
    """Return the proof that a ciphertext holds a volume's key: HMAC-SHA256 under that key, in hex (RFC 2104).

    Args:
        key: what was found in it.
    """
    named = [_DOMAIN, volume.encode(), digest(ciphertext).encode()]
    told = b"".join(struct.pack(">H", len(part)) + part for part in named) + struct.pack(">Q", version)
    return hmac.new(key.reveal(), told, hashlib.sha256).hexdigest()
