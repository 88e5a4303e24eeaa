"""Rows about a database that was set back, as parts of ``SqlReading`` and ``SqlWriting``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, bindparam, insert, select
from sqlalchemy import delete as sql_delete

from keybroker.store.chains import WRITERS_NAMES
from keybroker.store.recoveries import RecoveryReading, RecoveryWriting
from keybroker.store.recoveryrows import AheadRow, RestoreRow
from keybroker.store.recoverytables import AHEAD, RESTORES
from keybroker.store.rows import from_text, to_text
from keybroker.store.trailtables import AUDIT
from keybroker.store.trusted import SqlTrustedReading, SqlTrustedWriting
from keybroker.wire.names import AddonName, HostId, KeyVersion, VolumeId
from keybroker.wire.problems import Problem

_RESTORE: Final = select(RESTORES).order_by(RESTORES.c.number.desc()).limit(1)
_AHEAD: Final = select(AHEAD).order_by(AHEAD.c.addon, AHEAD.c.name, AHEAD.c.volume)
_STRANGERS: Final = (
    select(AUDIT.c.actor)
    .where(
        AUDIT.c.writer == bindparam("of_writer"),
        AUDIT.c.sequence > bindparam("after"),
        AUDIT.c.outcome == "denied",
        AUDIT.c.detail.contains(f'"problem":"{Problem.NO_IDENTITY.slug}"'),
    )
    .distinct()
)


class RestoreReading(RecoveryReading, SqlTrustedReading):
    """The part of ``Reading`` that is about a database that was set back."""

    def restore(self) -> RestoreRow | None:
        """Return the last time that the database was set back, as far as is known."""
        row = self._connection.execute(_RESTORE).one_or_none()
        if row is None:
            return None
        return RestoreRow(
            number=row.number,
            at=from_text(row.at),
            made=row.made and from_text(row.made),
            source=row.source,
            who=row.who,
            audit=row.audit,
            finished=row.finished and from_text(row.finished),
            finished_by=row.finished_by,
            heads=row.heads,
        )

    def ahead(self) -> dict[VolumeId, AheadRow]:
        """Return the volumes whose hosts know more of them than this database, accepted ones too."""
        rows = [_ahead_of(row) for row in self._connection.execute(_AHEAD)]
        return {row.volume: row for row in rows}

    def strangers(self, after: Mapping[str, int]) -> list[str]:
        """Return the identities that were turned away as unknown since an audit record of each writer."""
        found: set[str] = set()
        for writer in self._connection.execute(WRITERS_NAMES).scalars():
            values = {"of_writer": writer, "after": after.get(writer, 0)}
            found.update(self._connection.execute(_STRANGERS, values).scalars())
        return sorted(found)


class RestoreWriting(RecoveryWriting, RestoreReading, SqlTrustedWriting):
    """The part of ``Writing`` that is about a database that was set back."""

    def put_restore(self, row: RestoreRow) -> None:
        """Keep that the database was set back, or that this is over."""
        self._connection.execute(sql_delete(RESTORES).where(RESTORES.c.number == row.number))
        self._connection.execute(insert(RESTORES), _columns(row))

    def put_ahead(self, row: AheadRow) -> None:
        """Keep that a host knows more of a volume, instead of what was kept before."""
        self._connection.execute(sql_delete(AHEAD).where(AHEAD.c.volume == row.volume))
        self._connection.execute(insert(AHEAD), _columns(row))


def _ahead_of(row: Row[Any]) -> AheadRow:
    return AheadRow(
        volume=VolumeId(row.volume),
        addon=AddonName(row.addon),
        name=row.name,
        host=row.host and HostId(row.host),
        at=from_text(row.at),
        why=row.why,
        named=None if row.named is None else KeyVersion(row.named),
        revision=row.revision,
        ciphertext=row.ciphertext,
        accepted=row.accepted and from_text(row.accepted),
        accepted_by=row.accepted_by,
    )


def _columns(row: Any) -> dict[str, Any]:
    return {
        name: to_text(value) if isinstance(value, datetime) else value for name, value in asdict(row).items()
    }
