"""Proofreading an audit trail: records and checkpoints, one after another, in memory that does not grow.

| what somebody did | how it shows |
|---|---|
| changed, left out, swapped or put in a record | its hash, or that of the next one, does not fit |
| the same, and made every hash after it anew | the next checkpoint has another hash |
| left out, changed or swapped a checkpoint | its number, ``previous`` or signature does not fit |
| cut the tail, but not the checkpoints | a checkpoint has seen records that are not there |
| cut the tail with its checkpoints | **nothing here**: a receipt that somebody else has kept |
| made all of it anew, with the signing key | **nothing here**: a receipt that somebody else has kept |

A receipt is the sequence number and hash of one record: each VM keeps the last one that it was given, the
journal has one for each record, and ``keybroker audit verify`` keeps one of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from keybroker import checkpoint, statement
from keybroker.audit import START, AuditEntry, verify
from keybroker.checkpoint import MAIN, Checkpoint
from keybroker.wire.problems import KeybrokerError, Problem


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
    def sequence(self) -> int:
        """After which record it belongs; 0 where it cannot be read."""
        found = self.checkpoint
        return 0 if found is None else found.sequence


Item = AuditEntry | Note


def merged(entries: Iterable[AuditEntry], notes: Iterable[Note]) -> Iterator[Item]:
    """Yield records, and each checkpoint as soon as the records that it has seen are over."""
    waiting = iter(notes)
    note = next(waiting, None)
    for entry in entries:
        while note is not None and note.sequence < entry.sequence:
            yield note
            note = next(waiting, None)
        yield entry
    while note is not None:
        yield note
        note = next(waiting, None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was read, all of it in order.

    Attributes:
        first, last: sequence numbers; 0 and 0 where there was no record.
        hash: of the last record.
        checkpoints: how many.
        newest: the last of them.
        signers: fingerprints of the keys that signed them.
        vouched: whether somebody had said which keys those must be.
    """

    first: int
    last: int
    hash: str
    checkpoints: int
    newest: Checkpoint | None
    signers: tuple[str, ...]
    vouched: bool

    @property
    def covered(self) -> int:
        """Up to which record a checkpoint vouches."""
        return 0 if self.newest is None else self.newest.sequence

    @property
    def unseen(self) -> tuple[str, ...]:
        """What might be wrong all the same, in words."""
        words = []
        if self.covered < self.last:
            since = max(self.first, self.covered + 1)
            words.append(
                f"records {since} to {self.last} are newer than the last checkpoint: where they were changed"
                " and every hash after them made anew, nothing here shows it"
            )
        words.append(
            f"a tail that was cut off: records after {self.last}, with the checkpoints after"
            f" {0 if self.newest is None else self.newest.number}, would leave no trace here"
        )
        words.append(
            "a trail made anew by whoever holds the signing key: only a receipt that somebody else has kept"
            " shows it (--known)"
        )
        if self.checkpoints and not self.vouched:
            words.append("whether the signing key is the broker's: nothing here says so (--signer)")
        if self.first > 1:
            words.append(f"records 1 to {self.first - 1}: they are not in this")
        return tuple(words)


@dataclass(slots=True)
class Proofreader:
    """Takes a trail item by item, and stops at the first that is wrong.

    Args:
        trusted: fingerprints of the keys that may sign; None for any.
        known: hashes of records by sequence number, as somebody else has kept them.
        where: in words, where those are from.
        first: sequence number of the record that it must begin with; None for any.
    """

    trusted: frozenset[str] | None = None
    known: Mapping[int, str] = field(default_factory=dict)
    where: str = "the receipt"
    first: int | None = 1
    _first: int = 0
    _begin: tuple[int, str] = (0, START)
    _sequence: int = 0
    _head: str = START
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
        beyond = max(self.known, default=0)
        if beyond > self._sequence and not (self.first or 0) > beyond:
            raise _wrong(
                f"audit record {self._sequence + 1}: is missing, {self.where} has record {beyond}: the trail"
                " was cut, or the database set back"
            )
        return Verdict(
            first=self._first,
            last=self._sequence,
            hash=self._head,
            checkpoints=self._checkpoints,
            newest=self._newest,
            signers=tuple(self._signers),
            vouched=self.trusted is not None,
        )

    def _take_entry(self, entry: AuditEntry) -> None:
        if self._first == 0:
            self._first = entry.sequence if self.first is None else self.first
            if self._newest is None and self._first > 1:
                # what it follows is taken on its word
                self._begin = self._sequence, self._head = self._first - 1, entry.previous
        self._sequence, self._head = verify((entry,), self._sequence, self._head)
        if self.known and self.known.get(entry.sequence, entry.hash) != entry.hash:
            raise _wrong(
                f"audit record {entry.sequence}: has another hash than in {self.where}: it, or one before it,"
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
        elif self._first == 1 and (found.number, found.previous) != (1, START):
            raise _wrong(f"checkpoint 1: is missing, {found.number} is next")
        self._check_head(found)
        self._checkpoints += 1
        self._newest = found
        self._signers[signer] = None

    def _check_head(self, found: Checkpoint) -> None:
        hashes = {head.sequence: head.hash for head in found.heads if head.writer == MAIN}
        if len(hashes) != len(found.heads):
            raise _wrong(f"checkpoint {found.number}: names a writer that this version does not know")
        if self._first == 0 and self._newest is None and self.first in (None, found.sequence + 1):
            # a part that begins right after a checkpoint is held to it
            self._begin = self._sequence, self._head = found.sequence, hashes[found.sequence]
        if found.sequence > self._sequence:
            raise _wrong(
                f"audit record {self._sequence + 1}: is missing, checkpoint {found.number} has seen records"
                f" up to {found.sequence}"
            )
        begin, before = self._begin
        here = before if found.sequence == begin else self._head
        if begin < found.sequence < self._sequence:
            raise _wrong(f"checkpoint {found.number}: belongs after record {found.sequence}")
        if found.sequence >= begin and hashes[found.sequence] != here:
            since = max(self._first, 1 + (0 if self._newest is None else self._newest.sequence))
            raise _wrong(
                f"audit record {since}: it, or one of those up to {found.sequence}, was changed, and every"
                f" hash after it made anew: checkpoint {found.number} has another hash of record"
                f" {found.sequence}"
            )


def _check_order(found: Checkpoint, before: Checkpoint) -> None:
    if found.number != before.number + 1:
        raise _wrong(f"checkpoint {before.number + 1}: is missing, {found.number} is next")
    if found.previous != before.hash or found.origin != before.origin:
        raise _wrong(f"checkpoint {found.number}: does not follow the checkpoint before it")
    if found.sequence <= before.sequence:
        raise _wrong(f"checkpoint {found.number}: has seen no more records than the one before it")


def _wrong(what: str) -> KeybrokerError:
    return KeybrokerError(Problem.CORRUPT, what)
