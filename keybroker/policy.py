"""May this peer do this, to that, now; and may the keys of this volume leave. Pure: all facts come in as values.

| sees at the volume's place | new | claimed | deposited | ready |
|---|---|---|---|---|
| nothing (not in the request) | – | – | – | – |
| absent | no device | no device | no device | no device |
| blank | – | key | – | refused: header lost |
| luks2, the pinned one | not blank | not blank | keys | keys |
| luks2, another one | not blank | not blank | refused | refused |
| other | not blank | not blank | – | refused |

``–``: neither keys nor a refusal; the agent has a step to do first. A swap volume never has keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from keybroker.wire.names import Identity


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, as its TLS layer proved it.

    Attributes:
        identity: from the certificate's one URI SAN.
        fingerprint: SHA-256 of the certificate's DER, 64 lower-case hex digits.
        address: IP address, or ``local``; for the record, never for a decision.
    """

    identity: Identity
    fingerprint: str
    address: str
