"""The audit trail: read by whoever may, checked by whoever sits at the broker, and signed now and then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile
from typing import Any, Final

from keybroker import checkpoint, cursor, statement
from keybroker.audit import EVERYTHING, AuditEntry, AuditEvent, AuditFilter, Head
from keybroker.checkpoint import Checkpoint
from keybroker.policy import Peer
from keybroker.proofreading import Note, Proofreader, merged
from keybroker.service.admission import consult
from keybroker.service.broker import Broker
from keybroker.service.statements import signing_key
from keybroker.store import Reading, Store, Writing
from keybroker.store.rows import CheckpointRow
from keybroker.verdict import Verdict
from keybroker.wire.problems import KeybrokerError, Problem

MOST_RECORDS: Final = 1000
"""In one reply."""

SCANNED: Final = 50_000
"""So many records of each chain one request looks through; a search asks again from there."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the trail.

    Attributes:
        through: up to this record of each writer there is nothing else that was asked for.
        heads: the last record of each writer, of all there are.
        checkpoint: the newest one's number, as of the same moment.
    """

    records: tuple[AuditEntry, ...]
    through: dict[str, int]
    heads: tuple[Head, ...]
    checkpoint: int

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "audit": [entry.as_json() for entry in self.records],
            "through": cursor.text_of(self.through),
            "heads": [head.as_json() for head in self.heads],
            "checkpoint": self.checkpoint,
        }


def records(
    broker: Broker,
    peer: Peer,
    after: Mapping[str, int] | None = None,
    limit: int = 100,
    wanted: AuditFilter = EVERYTHING,
) -> Page:
    """Return audit records, each writer's in order, and the writers' by their times.

    Args:
        after: a place (``cursor``) from which to go on; None for the last ``limit`` records, filtered or not.
        limit: from 1 to 1000.
        wanted: which ones, an actor also as ``operator/alice``; where some are left out, at most ``SCANNED``
            records of each chain are looked through.

    Raises:
        KeybrokerError: what ``policy.may`` says of the peer; MALFORMED limit.
    """

    if wanted.actor is not None and "/" in wanted.actor and "://" not in wanted.actor:
        wanted = replace(wanted, actor=f"spiffe://{broker.settings.trust_domain}/{wanted.actor}")

    def work(reading: Reading) -> Page:
        _check_limit(limit)
        heads = reading.heads()
        begin = _end(reading, heads, limit) if after is None else after
        is_all = replace(wanted, writer=None) == EVERYTHING
        through = {
            head.writer: head.sequence if is_all else min(head.sequence, begin.get(head.writer, 0) + SCANNED)
            for head in heads
        }
        found = tuple(reading.audit(begin, limit, wanted, through))
        seen = dict(begin)
        if len(found) < limit:
            # a full page says nothing of what comes after it
            seen |= {writer: max(seen.get(writer, 0), last) for writer, last in through.items()}
        else:
            seen |= {entry.writer: entry.sequence for entry in found}
        return Page(found, seen, heads, _newest_number(reading))

    return consult(broker, peer, "audit.read", work)


def _end(reading: Reading, heads: tuple[Head, ...], limit: int) -> dict[str, int]:
    """Return the place before the last ``limit`` records."""
    place = {head.writer: max(0, head.sequence - limit) for head in heads}
    last = reading.audit(place, limit * len(heads))[-limit:]
    place = {head.writer: head.sequence for head in heads}
    return place | {entry.writer: entry.sequence - 1 for entry in reversed(last)}


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
    """How far the trail goes, and how far it is looked after, in records.

    Attributes:
        records: of all writers.
        unsigned: those for which no checkpoint vouches.
        signed_at: when the newest one was made; None where there is none.
        uncopied: those of this broker's own chain of which the journal was not told; None where there is no
            journal.
    """

    records: int
    unsigned: int
    signed_at: datetime | None
    uncopied: int | None


def standing(broker: Broker) -> Standing:
    """Say how the trail stands; there is no peer, for it names nobody."""

    return broker.store.read(lambda reading: standing_in(broker, reading))


def standing_in(broker: Broker, reading: Reading) -> Standing:
    """Say how the trail stands, in a transaction that is under way."""
    heads, newest, copied = reading.heads(), _newest(reading), broker.progress.copied
    total = sum(head.sequence for head in heads)
    uncopied = None if copied is None else reading.audit_head()[0] - copied
    if newest is None:
        return Standing(total, total, None, uncopied)
    signed = sum(newest.place.values())
    return Standing(total, total - signed, datetime.fromisoformat(newest.at), uncopied)


def proofread(store: Store) -> Verdict:
    """Check the whole trail, as it is now; for whoever sits at the broker itself, so there is no peer.

    Raises:
        KeybrokerError: CORRUPT, naming the first record or checkpoint that is wrong.
    """
    # Both ends as of one moment: what a running broker adds meanwhile is let be.
    heads, number = store.read(lambda reading: (reading.heads(), _newest_number(reading)))
    chains = {head.writer: _up_to(head, store.audit_records(head.writer)) for head in heads}
    rows = takewhile(lambda row: row.number <= number, store.audit_checkpoints())
    reader = Proofreader()
    for item in merged(chains, map(_note, rows)):
        reader.take(item)
    return reader.verdict()


def _up_to(head: Head, entries: Iterator[AuditEntry]) -> Iterator[AuditEntry]:
    return takewhile(lambda entry: entry.sequence <= head.sequence, entries)


def take_name(broker: Broker) -> None:
    """Have this process be the one that serves in its writer's name; the first one is on record.

    A process that had the name before writes nothing from here on. Which of two is meant only people know;
    the later one is let have it, so that a broker that is started again never waits for the one that died.

    Raises:
        KeybrokerError: UNAVAILABLE.
    """
    now = broker.clock()

    def work(writing: Writing) -> None:
        is_new = not any(head.writer == writing.writer for head in writing.heads())
        writing.hold(now)
        if is_new:
            facts = {"writer": writing.writer}
            writing.append(AuditEvent(now, "broker", "", "local", "audit.begin", "done", detail=facts))

    broker.store.write(work)


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
        The checkpoint, durable; None where none was due, or another broker has just signed one.

    Raises:
        KeybrokerError: UNAVAILABLE; CORRUPT where the newest one cannot be read, or the signing key not
            opened.
    """
    now, settings = broker.clock(), broker.settings
    enough = 1 if at_once else settings.checkpoint_records

    def due(reading: Reading) -> tuple[Checkpoint | None, tuple[Head, ...]] | None:
        # In this order: whatever the newest one has seen is then in the heads, too, whoever signed it.
        newest = _newest(reading)
        heads = reading.heads()
        is_due = checkpoint.is_due(newest, heads, now, enough, settings.checkpoint_interval)
        return (newest, heads) if is_due else None

    def sign(writing: Writing) -> Checkpoint | None:
        found = due(writing)
        if found is None:
            return None
        newest, heads = found
        made = checkpoint.after(newest, settings.trust_domain, now, heads)
        public, private = signing_key(broker, writing, now)
        writing.add_checkpoint(
            CheckpointRow(made.number, made.text, statement.sign(private, made.text), public)
        )
        return made

    before = broker.store.read(lambda reading: (due(reading), _newest_number(reading)))
    if before[0] is None:
        return None
    try:
        return broker.store.write(sign)
    except KeybrokerError as error:
        # one number is there once: of two brokers that sign at the same time one is refused
        if error.problem is Problem.CONFLICT and broker.store.read(_newest_number) > before[1]:
            return None
        raise


def _newest_number(reading: Reading) -> int:
    row = reading.newest_checkpoint()
    return 0 if row is None else row.number


def _newest(reading: Reading) -> Checkpoint | None:
    row = reading.newest_checkpoint()
    try:
        return None if row is None else Checkpoint.parse(row.document)
    except KeybrokerError as error:
        raise KeybrokerError(Problem.CORRUPT, error.detail) from error
