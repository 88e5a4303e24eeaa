"""The audit trail: chains of hashes over everything that was asked and what came of it, one for each writer.

    hash(n) = SHA-256("KBA1" ‖ hash(n-1) ‖ LP of each field of record n, in the order of ``AuditEntry``)

LP is a u32 length and the UTF-8 bytes; a field that is not there is a lone 0xffffffff. That is the chain of
the writer ``main``; in any other it is "KBA2", and LP of the writer's name comes before the fields, so that
no record fits into another chain. An edit, a gap, a swap or an insertion anywhere changes every hash after
it. What a chain alone does not show is a tail cut off, or all of it made anew: that takes a hash that
somebody else has kept, and every VM keeps one (``wire.receipt``).

A broker writes to one chain, its own, so that brokers on one database never wait for each other's records.
Between two chains there is no order but their times, which are by different clocks.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Final, Literal

from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import MAIN, WRITER, name_of

START: Final = "0" * 64
"""The hash before the first record."""

Outcome = Literal["done", "released", "refused", "denied"]

_ABSENT: Final = struct.pack(">I", 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something that happened and is to be recorded; fields as in ``AuditEntry``."""

    at: datetime
    actor: str
    fingerprint: str
    address: str
    verb: str
    outcome: Outcome
    addon: str | None = None
    volume: str | None = None
    host: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One record of the chain.

    Attributes:
        sequence: 1, 2, 3 … without a gap in its chain.
        at: UTC, as ``rfc3339`` writes it.
        actor: the identity's URI, ``token:`` and the first 8 hex digits of its hash, or ``local``.
        fingerprint: of the actor's certificate, hex; empty where there was none.
        address: the peer's IP address, or ``local``.
        verb: what was asked: ``unlock``, ``claim``, ``addon.add`` …
        outcome: ``done``; ``released``, a key left; ``refused``, a volume's key did not; ``denied``, the peer
            was turned away.
        addon, volume, host: what it was about, where that is known.
        detail: more facts, canonical JSON; never a key.
        previous, hash: SHA-256 in hex, of the record before and of this one.
        writer: whose chain it is in.
    """

    sequence: int
    at: str
    actor: str
    fingerprint: str
    address: str
    verb: str
    outcome: str
    addon: str | None
    volume: str | None
    host: str | None
    detail: str
    previous: str
    hash: str
    writer: str = MAIN

    @property
    def name(self) -> str:
        """What it is called: ``1200``, or ``b2/33`` in the chain of another writer than ``main``."""
        return name_of(self.writer, self.sequence)

    def as_json(self) -> dict[str, Any]:
        """Return the wire form, with ``detail`` as an object; as the text it is where that loses something.

        A record that somebody has changed must get to whoever verifies it as it is.
        """
        return {
            "writer": self.writer,
            "sequence": self.sequence,
            "at": self.at,
            "actor": self.actor,
            "fingerprint": self.fingerprint,
            "address": self.address,
            "verb": self.verb,
            "outcome": self.outcome,
            "addon": self.addon,
            "volume": self.volume,
            "host": self.host,
            "detail": _object(self.detail),
            "previous": self.previous,
            "hash": self.hash,
        }

    @classmethod
    def read(cls, document: object) -> AuditEntry:
        """Read what ``as_json`` wrote, exactly; fields that are not known here are let be.

        Raises:
            KeybrokerError: MALFORMED.
        """
        if not isinstance(document, dict):
            raise KeybrokerError(Problem.MALFORMED, "audit record: must be an object")
        given = {"writer": MAIN, **document}  # before there were several, none was named
        if isinstance(given.get("detail"), dict):
            given["detail"] = _canonical(given["detail"])
        for name, (kind, missing) in _FIELDS.items():
            value = given.get(name)
            if not (isinstance(value, kind) and not isinstance(value, bool)) and not (
                value is None and missing
            ):
                raise KeybrokerError(
                    Problem.MALFORMED,
                    f"audit record {document.get('sequence')}: {name} is not what it must be",
                )
        if WRITER.fullmatch(given["writer"]) is None:
            raise KeybrokerError(Problem.MALFORMED, "audit record: writer is not what it must be")
        values: dict[str, Any] = {name: given.get(name) for name in _FIELDS}
        return cls(**values)

    @property
    def recomputed(self) -> str:
        """The hash that these fields ought to have."""
        own = (self.writer,) if self.writer != MAIN else ()
        fields = (
            *own, str(self.sequence), self.at, self.actor, self.fingerprint, self.address, self.verb,
            self.outcome, self.addon, self.volume, self.host, self.detail,
        )  # fmt: skip
        parts = [b"KBA2" if own else b"KBA1", self.previous.encode()]
        for value in fields:
            if value is None:
                parts.append(_ABSENT)
            else:
                encoded = value.encode()
                parts += (struct.pack(">I", len(encoded)), encoded)
        return hashlib.sha256(b"".join(parts)).hexdigest()


_FIELDS: Final[dict[str, tuple[type, bool]]] = {
    one.name: (int if one.name == "sequence" else str, one.name in ("addon", "volume", "host"))
    for one in fields(AuditEntry)
}
"""Of a record: the type of each field, and whether it may be absent."""


def _canonical(detail: dict[str, Any]) -> str:
    return json.dumps(detail, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _object(detail: str) -> dict[str, Any] | str:
    try:
        found = json.loads(detail)
    except ValueError:
        return detail
    return found if isinstance(found, dict) and _canonical(found) == detail else detail


@dataclass(frozen=True, slots=True)
class Writer:
    """Who appends to the trail.

    Attributes:
        name: whose chain that is.
        holder: a number that a process makes up, which serves in that name; None for whoever only writes a
            record now and then beside it, as the verbs at the broker's own machine do.
    """

    name: str = MAIN
    holder: str | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """The last record of one writer's chain, by its sequence number and hash."""

    writer: str
    sequence: int
    hash: str

    @property
    def name(self) -> str:
        """What the record is called (``AuditEntry.name``)."""
        return name_of(self.writer, self.sequence)

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"writer": self.writer, "sequence": self.sequence, "hash": self.hash}


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which records somebody wants to see; None is any.

    Attributes:
        writer, actor, verb, outcome, addon, volume, host: exactly these.
        since, until: UTC; records of ``until`` itself are not in it.
    """

    writer: str | None = None
    actor: str | None = None
    verb: str | None = None
    outcome: str | None = None
    addon: str | None = None
    volume: str | None = None
    host: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def equal(self) -> dict[str, str]:
        """The fields that must have one value."""
        named = {name: getattr(self, name) for name in FILTERED}
        return {name: value for name, value in named.items() if value is not None}


FILTERED: Final[tuple[str, ...]] = ("writer", "actor", "verb", "outcome", "addon", "volume", "host")
EVERYTHING: Final = AuditFilter()


def rfc3339(time: datetime) -> str:
    """Return a UTC time as ``2026-01-31T12:00:00.000000Z`` (RFC 3339 section 5.6)."""
    return time.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def link(event: AuditEvent, sequence: int, previous: str, writer: str = MAIN) -> AuditEntry:
    """Return the record of ``event`` that follows the writer's record with the hash ``previous``."""
    unhashed = AuditEntry(
        sequence=sequence,
        at=rfc3339(event.at),
        actor=event.actor,
        fingerprint=event.fingerprint,
        address=event.address,
        verb=event.verb,
        outcome=event.outcome,
        addon=event.addon,
        volume=event.volume,
        host=event.host,
        detail=_canonical(event.detail),
        previous=previous,
        hash="",
        writer=writer,
    )
    return _hashed(unhashed)


def _hashed(entry: AuditEntry) -> AuditEntry:
    # the class is frozen, and dataclasses.replace costs more than the hash
    object.__setattr__(entry, "hash", entry.recomputed)
    return entry


def verify(entries: Iterable[AuditEntry], sequence: int = 0, head: str = START) -> tuple[int, str]:
    """Check that ``entries``, all of one chain, follow each other and the record before them.

    Args:
        sequence, head: of the record before the first entry.

    Returns:
        The sequence number and hash of the last entry, or what was given where there is none.

    Raises:
        KeybrokerError: CORRUPT, naming the first record that is wrong and how.
    """
    for entry in entries:
        if entry.sequence != sequence + 1:
            raise _broken(name_of(entry.writer, sequence + 1), f"is missing, {entry.name} is next")
        if entry.previous != head:
            raise _broken(entry.name, "does not follow the record before it")
        if entry.hash != entry.recomputed:
            raise _broken(entry.name, "was changed")
        sequence, head = entry.sequence, entry.hash
    return sequence, head


def _broken(name: str, what: str) -> KeybrokerError:
    return KeybrokerError(Problem.CORRUPT, f"audit record {name}: {what}")


def by_time(chains: Iterable[Iterable[AuditEntry]]) -> Iterator[AuditEntry]:
    """Yield the records of several chains, by their times as far as each chain's own order lets them."""
    return heapq.merge(*chains, key=lambda entry: entry.at)
