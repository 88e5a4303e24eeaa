"""The audit trail's rows, as parts of ``SqlReading`` and ``SqlWriting``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, bindparam, func, insert, select, update

from keybroker.audit import (
    EVERYTHING,
    START,
    AuditEntry,
    AuditEvent,
    AuditFilter,
    Head,
    Writer,
    by_time,
    link,
)
from keybroker.store.rows import CheckpointRow, to_text
from keybroker.store.trailtables import AUDIT, CHECKPOINTS, WRITERS
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import Receipt

_OF: Final = AUDIT.c.writer == bindparam("of_writer")
_AUDIT: Final = (
    select(AUDIT)
    .where(_OF, AUDIT.c.sequence > bindparam("after"))
    .order_by(AUDIT.c.sequence)
    .limit(bindparam("limit"))
)
_HEAD: Final = select(AUDIT.c.sequence, AUDIT.c.hash).where(_OF).order_by(AUDIT.c.sequence.desc()).limit(1)
_EACH: Final = AUDIT.alias()
_LAST: Final = select(func.max(_EACH.c.sequence)).where(_EACH.c.writer == WRITERS.c.name).correlate(WRITERS)
_HEADS: Final = (
    select(AUDIT.c.writer, AUDIT.c.sequence, AUDIT.c.hash)
    .select_from(WRITERS)
    .join(AUDIT, and_(AUDIT.c.writer == WRITERS.c.name, AUDIT.c.sequence == _LAST.scalar_subquery()))
    .order_by(WRITERS.c.name)
)
_RECORD: Final = select(AUDIT.c.hash).where(_OF, AUDIT.c.sequence == bindparam("of_sequence"))
WRITERS_NAMES: Final = select(WRITERS.c.name).order_by(WRITERS.c.name)
_HOLDER: Final = select(WRITERS.c.holder).where(WRITERS.c.name == bindparam("of_writer"))
_CHECKPOINTS: Final = (
    select(CHECKPOINTS)
    .where(CHECKPOINTS.c.number > bindparam("after"))
    .order_by(CHECKPOINTS.c.number)
    .limit(bindparam("limit"))
)
_NEWEST_CHECKPOINT: Final = select(CHECKPOINTS).order_by(CHECKPOINTS.c.number.desc()).limit(1)
_APPEND: Final = insert(AUDIT)
_COLUMNS: Final = tuple(AUDIT.c.keys())


class ChainReading:
    """The part of ``Reading`` that is about the audit trail."""

    _connection: Connection
    _writer: Writer

    @property
    def writer(self) -> str:
        """Whose chain this store appends to."""
        return self._writer.name

    def check_writer(self) -> None:
        """Check that no other process has taken this writer's name since this one has."""
        self._holder(_HOLDER)

    def _holder(self, statement: Select[Any]) -> bool:
        """Check whose the name is; say whether anybody ever had it."""
        name = self._writer.name
        row = self._connection.execute(statement, {"of_writer": name}).one_or_none()
        if self._writer.holder is not None and (row is None or row.holder != self._writer.holder):
            raise KeybrokerError(
                Problem.UNAVAILABLE,
                f"audit trail: another process has taken the name of this broker, {name}; this one writes"
                " nothing any more",
                hint=f'stop one of the two, or name this one: [audit] writer = "{name}-2" in keybroker.toml',
                retry_after=60,
            )
        return row is not None

    def heads(self) -> tuple[Head, ...]:
        """Return the last record of each chain, by writer."""
        return tuple(Head(*row) for row in self._connection.execute(_HEADS))

    def audit_head(self) -> tuple[int, str]:
        """Return the sequence number and hash of this writer's last record."""
        row = self._connection.execute(_HEAD, {"of_writer": self.writer}).one_or_none()
        return (0, START) if row is None else (row.sequence, row.hash)

    def audit(
        self,
        after: Mapping[str, int],
        limit: int,
        wanted: AuditFilter = EVERYTHING,
        through: Mapping[str, int] | None = None,
    ) -> list[AuditEntry]:
        """Return at most ``limit`` audit records, each chain's in order, and the chains by their times."""
        statement = _AUDIT
        for column, value in wanted.equal.items():
            statement = statement.where(AUDIT.c[column] == value)
        # fixed width, so that text order is time order
        if wanted.since is not None:
            statement = statement.where(AUDIT.c.at >= to_text(wanted.since))
        if wanted.until is not None:
            statement = statement.where(AUDIT.c.at < to_text(wanted.until))
        if through is not None:
            statement = statement.where(AUDIT.c.sequence <= bindparam("through"))
        found = []
        for writer in [wanted.writer] if wanted.writer is not None else self.writers():
            if through is not None and through.get(writer, 0) <= after.get(writer, 0):
                continue
            values = {"of_writer": writer, "after": after.get(writer, 0), "limit": limit}
            if through is not None:
                values["through"] = through[writer]
            rows = self._connection.execute(statement, values)
            found.append([AuditEntry(**row._mapping) for row in rows])
        return found[0] if len(found) == 1 else list(islice(by_time(found), limit))

    def writers(self) -> list[str]:
        """Return the names of all writers there ever were."""
        return list(self._connection.execute(WRITERS_NAMES).scalars())

    def has_record(self, receipt: Receipt) -> bool:
        """Say whether the record of a receipt is in the trail, in whichever chain."""
        return self._is_in(receipt.writer, receipt) or any(
            self._is_in(writer, receipt) for writer in self.writers() if writer != receipt.writer
        )

    def _is_in(self, writer: str, receipt: Receipt) -> bool:
        values = {"of_writer": writer, "of_sequence": receipt.sequence}
        found: str | None = self._connection.execute(_RECORD, values).scalar_one_or_none()
        return found == receipt.hash

    def checkpoints(self, after: int, limit: int) -> list[CheckpointRow]:
        """Return at most ``limit`` checkpoints with numbers above ``after``, in order."""
        rows = self._connection.execute(_CHECKPOINTS, {"after": after, "limit": limit})
        return [CheckpointRow(**row._mapping) for row in rows]

    def newest_checkpoint(self) -> CheckpointRow | None:
        """Return the newest checkpoint."""
        row = self._connection.execute(_NEWEST_CHECKPOINT).one_or_none()
        return None if row is None else CheckpointRow(**row._mapping)


class ChainWriting(ChainReading):
    """The part of ``Writing`` that is about the audit trail.

    Attributes:
        head: of this writer's chain as this transaction sees it, None until it was looked up; whoever rolls
            back to a savepoint puts the old one back.
    """

    head: tuple[int, str] | None

    def append(self, *events: AuditEvent) -> tuple[int, str]:
        """Add records to this writer's chain; return the sequence number and hash of the last."""
        if self.head is None:
            # Where an engine has locks of rows, whoever else writes in this name (a local verb beside the
            # broker) waits here, and then reads the head that is the last one by then.
            if not self._holder(_HOLDER.with_for_update()):
                self._add_writer(to_text(events[0].at)) if events else None
            self.head = self.audit_head()
        sequence, previous = self.head
        entries = []
        for event in events:
            entry = link(event, sequence + 1, previous, self.writer)
            entries.append({name: getattr(entry, name) for name in _COLUMNS})
            sequence, previous = entry.sequence, entry.hash
        if entries:
            self._connection.execute(_APPEND, entries)
        self.head = sequence, previous
        return self.head

    def hold(self, now: datetime) -> None:
        """Take this writer's name for this process."""
        named = update(WRITERS).where(WRITERS.c.name == self.writer).values(holder=self._writer.holder)
        if self._connection.execute(named).rowcount == 0:
            self._add_writer(to_text(now))

    def _add_writer(self, since: str) -> None:
        columns = {"name": self.writer, "since": since, "holder": self._writer.holder}
        self._connection.execute(insert(WRITERS), columns)

    def add_checkpoint(self, row: CheckpointRow) -> None:
        """Add the checkpoint that follows the newest one."""
        self._connection.execute(insert(CHECKPOINTS), asdict(row))
