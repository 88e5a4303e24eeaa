"""The agent's proof that a key opens its volume: only who holds that very key can make it.

The agent makes it right after the key opened a keyslot of the header on the disk; the broker, which has the
key too, makes it again and compares. So a key that was garbled on either side is never promoted, and a proof
of one volume, version or header is none of any other.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from typing import Any, Final

from keybroker.wire.fields import Fields
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.profile import DIGEST
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass

PROOF: Final = re.compile(r"[0-9a-f]{64}")

_DOMAIN: Final = b"keybroker proof 1"


def prove(key: Secret, *, volume: VolumeId, version: KeyVersion, digest: str, sequence: int) -> str:
    """Return the proof: HMAC-SHA256 under the key, 64 lower-case hex digits (RFC 2104).

    Args:
        key: the passphrase of that version.
        digest: of the volume key in the header that was opened (``Pin.digest``).
        sequence: of that header.
    """
    named = [_DOMAIN, volume.encode(), digest.encode()]
    told = b"".join(struct.pack(">H", len(part)) + part for part in named)
    told += struct.pack(">QQ", version, sequence)
    return hmac.new(key.reveal(), told, hashlib.sha256).hexdigest()


def proves(
    proof: str, key: Secret, *, volume: VolumeId, version: KeyVersion, digest: str, sequence: int
) -> bool:
    """Say whether a proof is the one that ``prove`` makes of the same values, in constant time."""
    made = prove(key, volume=volume, version=version, digest=digest, sequence=sequence)
    return hmac.compare_digest(made, proof)


@dataclass(frozen=True, slots=True)
class GivenProof:
    """A proof, and what it is of: key ``version`` opened the header with that digest and sequence."""

    version: KeyVersion
    digest: str
    sequence: int
    proof: str

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "version": self.version,
            "digest": self.digest,
            "sequence": self.sequence,
            "proof": self.proof,
        }

    @classmethod
    def read(cls, fields: Fields) -> GivenProof:
        """Read the wire form (MALFORMED otherwise)."""
        given = cls(
            version=KeyVersion(fields.number("version", least=1)),
            digest=fields.text("digest", match=DIGEST),
            sequence=fields.number("sequence"),
            proof=fields.text("proof", match=PROOF),
        )
        fields.end()
        return given
