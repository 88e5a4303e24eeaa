"""Numbers about everything, each by one statement that an index answers, as a part of ``SqlReading``.

A million volumes are counted here, so no row of theirs is read but what an index has of it:
``ix_volumes_standing``, ``ix_volumes_deletion``, ``ix_keys_age``, ``ix_keys_destroy_after``,
``ix_certificates_newest``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Table, case, func, literal_column, select

from keybroker.model import Deletion
from keybroker.store.counted import Ages, Ends
from keybroker.store.rows import from_text, to_text
from keybroker.store.tables import ADDONS, CERTIFICATES, HOSTS, KEYS, OPERATORS, PROOFS, VOLUMES
from keybroker.wire.fields import Fields

_PROVABLE: Final = (VOLUMES.c.stage == "ready", VOLUMES.c.role == "holder", VOLUMES.c.filesystem != "swap")

# as text: an index over some rows is not used where its condition comes as a parameter
_CURRENT: Final = KEYS.c.state == literal_column("'current'")

_STAGES: Final = select(VOLUMES.c.stage, func.count()).group_by(VOLUMES.c.stage)
_HOSTS: Final = select(
    func.count(),
    func.count(HOSTS.c.revoked),
    func.coalesce(func.sum(case((HOSTS.c.enrolled.is_(None) & HOSTS.c.revoked.is_(None), 1), else_=0)), 0),
)
_HOSTS_END: Final = (
    select(func.max(CERTIFICATES.c.not_after).label("ends"))
    .select_from(HOSTS.join(CERTIFICATES, CERTIFICATES.c.host == HOSTS.c.id))
    .where(HOSTS.c.revoked.is_(None))
    .group_by(HOSTS.c.id)
    .subquery()
)
_OPERATORS_END: Final = (
    select(func.max(CERTIFICATES.c.not_after).label("ends"))
    .select_from(OPERATORS.join(CERTIFICATES, CERTIFICATES.c.operator == OPERATORS.c.name))
    .where(OPERATORS.c.revoked.is_(None), CERTIFICATES.c.issued >= OPERATORS.c.since)
    .group_by(OPERATORS.c.name)
    .subquery()
)


class MeasuringReading:
    """The part of ``Reading`` that counts."""

    _connection: Connection

    def count_stages(self) -> dict[str, int]:
        """Return how many volumes there are in each stage; a stage without any is not in it."""
        return {row[0]: row[1] for row in self._connection.execute(_STAGES)}

    def count_hosts(self) -> tuple[int, int, int]:
        """Return how many hosts are enrolled and welcome, invited, and revoked."""
        total, revoked, invited = self._connection.execute(_HOSTS).one()
        return total - revoked - invited, invited, revoked

    def proof_ages(self, now: datetime, bounds: Sequence[timedelta]) -> Ages:
        """Return how long ago a key was last seen to open each volume that is in use and has keys."""
        at = PROOFS.c.at
        asked = (
            select(func.count(), func.count(at), func.min(at), func.max(at), *_within(at, now, bounds))
            .select_from(VOLUMES.outerjoin(PROOFS, PROOFS.c.volume == VOLUMES.c.id))
            .where(*_PROVABLE)
        )
        return _ages(self._connection.execute(asked).one())

    def key_ages(self, now: datetime, bounds: Sequence[timedelta]) -> Ages:
        """Return how long ago each volume's current key was made."""
        at = KEYS.c.created
        asked = select(
            func.count(), func.count(), func.min(at), func.max(at), *_within(at, now, bounds)
        ).where(_CURRENT)
        return _ages(self._connection.execute(asked).one())

    def keys_to_destroy(self) -> tuple[int, datetime | None]:
        """Return how many retired keys wait for their destruction, and when the first is due."""
        due = KEYS.c.destroy_after
        count, first = self._connection.execute(
            select(func.count(), func.min(due)).where(due.is_not(None))
        ).one()
        return count, first and from_text(first)

    def pending_volumes(self) -> list[Deletion]:
        """Return the destructions of volumes that are pending, in no order."""
        return self._pending(VOLUMES)

    def pending_addons(self) -> list[Deletion]:
        """Return the destructions of add-ons that are pending, in no order."""
        return self._pending(ADDONS)

    def _pending(self, table: Table) -> list[Deletion]:
        asked = select(table.c.deletion).where(table.c.deletion.is_not(None))
        return [Deletion.read(Fields.parse(row.deletion)) for row in self._connection.execute(asked)]

    def hosts_ends(self, now: datetime) -> Ends:
        """Return when the certificates end of the hosts that are not revoked, each host's newest."""
        return self._ends(_HOSTS_END.c.ends, now)

    def operators_ends(self, now: datetime) -> Ends:
        """Return when the certificates end of the operators that are not revoked, each one's newest."""
        return self._ends(_OPERATORS_END.c.ends, now)

    def _ends(self, ends: ColumnElement[str], now: datetime) -> Ends:
        time = to_text(now)
        good = case((ends > time, ends))
        count, left, soonest = self._connection.execute(
            select(func.count(ends), func.count(good), func.min(good))
        ).one()
        return Ends(soonest and from_text(soonest), count - left)


def _within(at: Any, now: datetime, bounds: Sequence[timedelta]) -> list[ColumnElement[int]]:
    """Return a column for each bound: how many are no older."""
    return [func.coalesce(func.sum(case((at >= to_text(now - bound), 1), else_=0)), 0) for bound in bounds]


def _ages(row: Row[Any]) -> Ages:
    total, known, oldest, newest, *within = tuple(row)
    return Ages(
        known=known,
        unknown=total - known,
        oldest=oldest and from_text(oldest),
        newest=newest and from_text(newest),
        within=tuple(within),
    )
