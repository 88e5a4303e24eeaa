"""The audit trail: read by whoever may, checked by whoever sits at the broker, and signed now and then."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile
from typing import Any, Final

from keybroker import checkpoint, statement
from keybroker.audit import EVERYTHING, AuditEntry, AuditFilter
from keybroker.checkpoint import MAIN, Checkpoint, Head
from keybroker.policy import Peer
from keybroker.proofreading import Note, Proofreader, Verdict, merged
from keybroker.service.admission import consult
from keybroker.service.broker import Broker
from keybroker.service.statements import signing_key
from keybroker.store import Reading, Store, Writing
from keybroker.store.rows import CheckpointRow
from keybroker.wire.problems import KeybrokerError, Problem

MOST_RECORDS: Final = 1000
"""In one reply."""

SCANNED: Final = 50_000
"""So many records one request looks through; a search asks again from there."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the trail.

    Attributes:
        through: up to this sequence number there is nothing else that was asked for.
        last, hash: of the trail as a whole.
        checkpoint: the newest one's number, as of the same moment.
    """

    records: tuple[AuditEntry, ...]
    through: int
    last: int
    hash: str
    checkpoint: int

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "audit": [entry.as_json() for entry in self.records],
            "through": self.through,
            "last": {"sequence": self.last, "hash": self.hash},
            "checkpoint": self.checkpoint,
        }


def records(
    broker: Broker, peer: Peer, after: int = 0, limit: int = 100, wanted: AuditFilter = EVERYTHING
) -> Page:
    """Return audit records in order, the ones whose sequence number is above ``after``.

    Args:
        after: a sequence number; -1 or lower for the last ``limit`` records, filtered or not.
        limit: from 1 to 1000.
        wanted: which ones, an actor also as ``operator/alice``; where some are left out, at most ``SCANNED``
            records are looked through.

    Raises:
        KeybrokerError: what ``policy.may`` says of the peer; MALFORMED limit.
    """

    if wanted.actor is not None and "/" in wanted.actor and "://" not in wanted.actor:
        wanted = replace(wanted, actor=f"spiffe://{broker.settings.trust_domain}/{wanted.actor}")

    def work(reading: Reading) -> Page:
        _check_limit(limit)
        last, head = reading.audit_head()
        begin = after if after >= 0 else max(0, last - limit)
        through = last if wanted == EVERYTHING else min(last, begin + SCANNED)
        found = tuple(reading.audit(begin, limit, wanted, through))
        # a full page says nothing of what comes after it
        seen = found[-1].sequence if len(found) == limit else max(begin, through)
        return Page(found, seen, last, head, _newest_number(reading))

    return consult(broker, peer, "audit.read", work)


def checkpoints(broker: Broker, peer: Peer, after: int = 0, limit: int = 100) -> tuple[Note, ...]:
    """Return checkpoints in order, the ones whose number is above ``after`` (errors as ``records``)."""

    def work(reading: Reading) -> tuple[Note, ...]:
        _check_limit(limit)
        return tuple(_note(row) for row in reading.checkpoints(after, limit))

    return consult(broker, peer, "audit.read", work)


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MOST_RECORDS:
        raise KeybrokerError(Problem.MALFORMED, f"limit: must be from 1 to {MOST_RECORDS}")


def _note(row: CheckpointRow) -> Note:
    name = row.document.partition("\n")[0]
    return Note(checkpoint.seal(row.document, name, row.signature, row.public), row.public)


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the trail goes, and how far it is looked after, by sequence number.

    Attributes:
        signed: up to which record a checkpoint vouches.
        signed_at: when that was made; None where there is none.
        copied: up to which the journal was told; None where there is none.
    """

    last: int
    signed: int
    signed_at: datetime | None
    copied: int | None


def standing(broker: Broker) -> Standing:
    """Say how the trail stands; there is no peer, for it names nobody."""

    return broker.store.read(lambda reading: standing_in(broker, reading))


def standing_in(broker: Broker, reading: Reading) -> Standing:
    """Say how the trail stands, in a transaction that is under way."""
    last, newest = reading.audit_head()[0], _newest(reading)
    if newest is None:
        return Standing(last, 0, None, broker.progress.copied)
    return Standing(last, newest.sequence, datetime.fromisoformat(newest.at), broker.progress.copied)


def proofread(store: Store) -> Verdict:
    """Check the whole trail, as it is now; for whoever sits at the broker itself, so there is no peer.

    Raises:
        KeybrokerError: CORRUPT, naming the first record or checkpoint that is wrong.
    """
    # Both ends as of one moment: what a running broker adds meanwhile is let be.
    last, number = store.read(lambda reading: (reading.audit_head()[0], _newest_number(reading)))
    entries = takewhile(lambda entry: entry.sequence <= last, store.audit_records())
    rows = takewhile(lambda row: row.number <= number, store.audit_checkpoints())
    reader = Proofreader()
    for item in merged(entries, map(_note, rows)):
        reader.take(item)
    return reader.verdict()


def write_counted(broker: Broker, *, at_once: bool = False) -> None:
    """Put on record how many times hosts were refused the same again (``repeats``), where it is time.

    Args:
        at_once: whatever was counted, because this process ends.

    Raises:
        KeybrokerError: UNAVAILABLE; then it is still counted.
    """
    with broker.repeats.recording() as recording:
        records = recording.pick_counted(broker.clock(), at_once=at_once)
        if records:
            broker.store.write(lambda writing: writing.append(*records))


def sign_checkpoint(broker: Broker, *, at_once: bool = False) -> Checkpoint | None:
    """Sign a checkpoint of the trail, if one is due.

    Args:
        at_once: as soon as there is any new record.

    Returns:
        The checkpoint, durable; None where none was due.

    Raises:
        KeybrokerError: UNAVAILABLE; CORRUPT where the newest one cannot be read, or the signing key not
            opened.
    """
    now, settings = broker.clock(), broker.settings
    enough = 1 if at_once else settings.checkpoint_records

    def is_due(reading: Reading) -> bool:
        sequence, _ = reading.audit_head()
        return checkpoint.is_due(_newest(reading), sequence, now, enough, settings.checkpoint_interval)

    def sign(writing: Writing) -> Checkpoint | None:
        if not is_due(writing):
            return None
        made = checkpoint.after(
            _newest(writing), settings.trust_domain, now, (Head(MAIN, *writing.audit_head()),)
        )
        public, private = signing_key(broker, writing, now)
        writing.add_checkpoint(
            CheckpointRow(made.number, made.text, statement.sign(private, made.text), public)
        )
        return made

    return broker.store.write(sign) if broker.store.read(is_due) else None


def _newest_number(reading: Reading) -> int:
    row = reading.newest_checkpoint()
    return 0 if row is None else row.number


def _newest(reading: Reading) -> Checkpoint | None:
    row = reading.newest_checkpoint()
    try:
        return None if row is None else Checkpoint.parse(row.document)
    except KeybrokerError as error:
        raise KeybrokerError(Problem.CORRUPT, error.detail) from error
