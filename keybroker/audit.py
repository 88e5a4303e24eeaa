"""The audit trail: a chain of hashes over everything that was asked and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One record of the chain.

    Attributes:
        sequence: 1, 2, 3 … without a gap.
        at: UTC.
        actor: the identity's URI, or ``token:<first 8 hex digits of its hash>``, or ``local``.
        fingerprint: of the actor's certificate, hex; empty where there was none.
        address: the peer's IP address, or ``local``.
        verb: what was asked: ``unlock``, ``claim``, ``addon.add`` …
        outcome: ``done``, ``released``, ``refused`` or ``denied``.
        addon, volume, host: what it was about, where that is known.
        detail: more facts, by name; never a key.
        previous, hash: SHA-256 in hex, of the record before and of this one.
    """

    sequence: int
    at: datetime
    actor: str
    fingerprint: str
    address: str
    verb: str
    outcome: str
    addon: str | None
    volume: str | None
    host: str | None
    detail: dict[str, Any]
    previous: str
    hash: str

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        raise NotImplementedError
