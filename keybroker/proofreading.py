"""Proofreading an audit trail: records and checkpoints, one after another, in memory that does not grow.

Each writer's chain is read by itself; a checkpoint comes as soon as the records of all chains that it has
seen are over, and is held to the head of each.

| what somebody did | how it shows |
|---|---|
| changed, left out, swapped or put in a record | its hash, or that of the next one, does not fit |
| the same, and made every hash after it anew | the next checkpoint has another hash |
| left out, changed or swapped a checkpoint | its number, ``previous`` or signature does not fit |
| cut the tail, but not the checkpoints | a checkpoint has seen records that are not there |
| cut the tail with its checkpoints | **nothing here**: a receipt that somebody else has kept |
| made all of it anew, with the signing key | **nothing here**: a receipt that somebody else has kept |
| took a whole chain away | a checkpoint has seen records that are not there |
| dated a record of one chain before or after another's | **nothing here**: only checkpoints between them do |

A receipt is the writer, sequence number and hash of one record: each VM keeps the last one that it was given,
the journal has one for each record, and ``keybroker audit verify`` keeps one of each chain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from keybroker import checkpoint, statement
from keybroker.audit import START, AuditEntry, Head, by_time, verify
from keybroker.checkpoint import Checkpoint
from keybroker.verdict import Stretch, Verdict
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import name_of


@dataclass(frozen=True, slots=True)
class Note:
    """A checkpoint as it is kept and sent: a signed note, and the key that is said to have signed it.

    Attributes:
        public: Ed25519, 32 bytes.
    """

    text: str
    public: bytes

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"note": self.text, "signer": statement.public_pem(self.public)}

    @classmethod
    def read(cls, document: object) -> Note:
        """Read what ``as_json`` wrote.

        Raises:
            KeybrokerError: MALFORMED.
        """
        if not isinstance(document, dict) or not all(
            isinstance(document.get(name), str) for name in ("note", "signer")
        ):
            raise KeybrokerError(
                Problem.MALFORMED, "checkpoint: must be an object with a note and its signer"
            )
        return cls(document["note"], statement.public_from_pem(document["signer"]))

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What it says, whoever signed it; None where that cannot be read."""
        try:
            return Checkpoint.parse(self.text.rpartition("\n\n")[0] + "\n")
        except KeybrokerError:
            return None

    @property
    def place(self) -> dict[str, int]:
        """After which record of each chain it belongs; nothing where it cannot be read."""
        found = self.checkpoint
        return {} if found is None else found.place


Item = AuditEntry | Note


class _Waiting:
    """A chain of which the next record can be looked at before it is taken."""

    def __init__(self, entries: Iterable[AuditEntry]) -> None:
        self._entries = iter(entries)
        self._next = next(self._entries, None)

    def up_to(self, sequence: int | None) -> Iterator[AuditEntry]:
        """Yield the records as far as this number; None for all."""
        while self._next is not None and (sequence is None or self._next.sequence <= sequence):
            yield self._next
            self._next = next(self._entries, None)


def merged(chains: Mapping[str, Iterable[AuditEntry]], notes: Iterable[Note]) -> Iterator[Item]:
    """Yield the records of each writer, and each checkpoint as soon as the records that it has seen are over.

    Between two checkpoints the records are by time.
    """
    waiting = {writer: _Waiting(chains[writer]) for writer in sorted(chains)}
    for note in notes:
        place = note.place
        yield from by_time(chain.up_to(place.get(writer, 0)) for writer, chain in waiting.items())
        yield note
    yield from by_time(chain.up_to(None) for chain in waiting.values())


@dataclass(slots=True)
class _Chain:
    """One writer's chain, as far as it was read.

    Attributes:
        first: sequence number of the first record; 0 before it was read.
        begin: sequence number and hash of the record before that.
        sequence, head: of the last record.
    """

    first: int = 0
    begin: tuple[int, str] = (0, START)
    sequence: int = 0
    head: str = START

    def begin_after(self, sequence: int, head: str) -> None:
        """Take for granted what comes before."""
        self.begin = self.sequence, self.head = sequence, head


@dataclass(slots=True)
class Proofreader:
    """Takes a trail item by item, and stops at the first that is wrong.

    Args:
        trusted: fingerprints of the keys that may sign; None for any.
        known: hashes of records by writer and sequence number, as somebody else has kept them.
        where: in words, where those are from.
        first: sequence numbers by writer of the record that a chain must begin with, 1 where none is named;
            None for any.
    """

    trusted: frozenset[str] | None = None
    known: Mapping[tuple[str, int], str] = field(default_factory=dict)
    where: str = "the receipt"
    first: Mapping[str, int] | None = field(default_factory=dict)
    _chains: dict[str, _Chain] = field(default_factory=lambda: defaultdict(_Chain))
    _checkpoints: int = 0
    _newest: Checkpoint | None = None
    _signers: dict[str, None] = field(default_factory=dict)

    def take(self, item: Item) -> None:
        """Take the next record or checkpoint.

        Raises:
            KeybrokerError: CORRUPT, naming what is wrong and how.
        """
        if isinstance(item, Note):
            self._take_note(item)
        else:
            self._take_entry(item)

    def verdict(self) -> Verdict:
        """Say what was read, when that was all.

        Raises:
            KeybrokerError: CORRUPT where there must have been more.
        """
        for writer, beyond in sorted(self.known):
            last = self._chains[writer].sequence
            if beyond > last and not (self._first_of(writer) or 0) > beyond:
                raise _wrong(
                    f"audit record {name_of(writer, last + 1)}: is missing, {self.where} has record"
                    f" {name_of(writer, beyond)}: the trail was cut, or the database set back"
                )
        covered = {} if self._newest is None else self._newest.place
        return Verdict(
            chains=tuple(
                Stretch(writer, chain.first, chain.sequence, chain.head, covered.get(writer, 0))
                for writer, chain in sorted(self._chains.items())
                if chain.first
            ),
            checkpoints=self._checkpoints,
            newest=self._newest,
            signers=tuple(self._signers),
            vouched=self.trusted is not None,
        )

    def _first_of(self, writer: str) -> int | None:
        return None if self.first is None else self.first.get(writer, 1)

    def _take_entry(self, entry: AuditEntry) -> None:
        chain, first = self._chains[entry.writer], self._first_of(entry.writer)
        if chain.first == 0:
            chain.first = entry.sequence if first is None else first
            if chain.begin == (0, START) and chain.first > 1:
                # what it follows is taken on its word
                chain.begin_after(chain.first - 1, entry.previous)
        chain.sequence, chain.head = verify((entry,), chain.sequence, chain.head)
        if self.known and self.known.get((entry.writer, entry.sequence), entry.hash) != entry.hash:
            raise _wrong(
                f"audit record {entry.name}: has another hash than in {self.where}: it, or one before it,"
                " was changed, and every hash after that made anew"
            )

    def _take_note(self, note: Note) -> None:
        newest = self._newest
        if note.checkpoint is None:
            raise _wrong(f"checkpoint {newest.number + 1 if newest else 1}: cannot be read")
        found = checkpoint.unseal(note.text, note.public)
        signer = statement.fingerprint(note.public)
        if self.trusted is not None and signer not in self.trusted:
            raise _wrong(f"checkpoint {found.number}: is signed by another key, {signer}")
        if newest is not None:
            _check_order(found, newest)
        elif self._is_whole and (found.number, found.previous) != (1, START):
            raise _wrong(f"checkpoint 1: is missing, {found.number} is next")
        self._check_heads(found)
        self._checkpoints += 1
        self._newest = found
        self._signers[signer] = None

    @property
    def _is_whole(self) -> bool:
        """Say whether this is the trail from its beginning, so that no checkpoint was before."""
        if self.first is not None:
            return all(first <= 1 for first in self.first.values())
        return {chain.first for chain in self._chains.values() if chain.first} == {1}

    def _check_heads(self, found: Checkpoint) -> None:
        place = found.place
        for writer, chain in sorted(self._chains.items()):
            if writer not in place and chain.first:
                raise _wrong(
                    f"checkpoint {found.number}: has seen no record of {writer}, of which one was before it"
                )
        for head in found.heads:
            self._check_head(found, head)

    def _check_head(self, found: Checkpoint, head: Head) -> None:
        chain, writer = self._chains[head.writer], head.writer
        first = self._first_of(writer)
        if chain.first == 0 and (first or 0) > head.sequence + 1:
            return  # of this chain, the part that is read begins later
        if chain.begin == (0, START) and chain.first == 0 and first in (None, head.sequence + 1):
            # a part that begins right after a checkpoint is held to it
            chain.begin_after(head.sequence, head.hash)
        if head.sequence > chain.sequence:
            raise _wrong(
                f"audit record {name_of(writer, chain.sequence + 1)}: is missing, checkpoint {found.number}"
                f" has seen records up to {head.name}"
            )
        begin, before = chain.begin
        here = before if head.sequence == begin else chain.head
        if begin < head.sequence < chain.sequence:
            raise _wrong(f"checkpoint {found.number}: belongs after record {head.name}")
        if head.sequence >= begin and head.hash != here:
            seen = 0 if self._newest is None else self._newest.place.get(writer, 0)
            since = name_of(writer, max(chain.first, 1 + seen))
            raise _wrong(
                f"audit record {since}: it, or one of those up to {head.name}, was changed, and every"
                f" hash after it made anew: checkpoint {found.number} has another hash of record {head.name}"
            )


def _check_order(found: Checkpoint, before: Checkpoint) -> None:
    if found.number != before.number + 1:
        raise _wrong(f"checkpoint {before.number + 1}: is missing, {found.number} is next")
    if found.previous != before.hash or found.origin != before.origin:
        raise _wrong(f"checkpoint {found.number}: does not follow the checkpoint before it")
    now, then = found.place, before.place
    if any(now.get(writer, 0) < sequence for writer, sequence in then.items()) or now == then:
        raise _wrong(f"checkpoint {found.number}: has seen no more records than the one before it")


def _wrong(what: str) -> KeybrokerError:
    return KeybrokerError(Problem.CORRUPT, what)
