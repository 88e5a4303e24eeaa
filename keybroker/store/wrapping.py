"""What is wrapped by what: the master keys, and every row that one of them, or an add-on's key, wraps.

A table with a column ``master`` holds what a master key wraps itself; one with ``wrapped`` alone holds what
an add-on's key wraps, whose id and generation the blob names (``keybroker.envelope``). A test holds that no
table of either kind is missing here.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, func, insert, select, update

from keybroker.store.recoverytables import RECOVERY_KEYS
from keybroker.store.rows import MasterKeyRow, from_text, to_text
from keybroker.store.tables import ADDON_KEYS, MASTER_KEYS, SIGNERS

BY_MASTER: Final[tuple[Table, ...]] = (ADDON_KEYS, SIGNERS, RECOVERY_KEYS)
"""What master keys wrap themselves."""

_MASTER_KEYS: Final = select(MASTER_KEYS).order_by(MASTER_KEYS.c.created, MASTER_KEYS.c.identity)


class WrappingReading:
    """The part of ``Reading`` that is about wrapping."""

    _connection: Connection

    def master_keys(self) -> list[MasterKeyRow]:
        """Return all master keys there ever were, the newest last."""
        return [_master_key_of(row) for row in self._connection.execute(_MASTER_KEYS)]

    def wrapped_by_masters(self) -> dict[str, int]:
        """Return how many keys each master key wraps; one that wraps none is not in it."""
        found: dict[str, int] = {}
        for table in BY_MASTER:
            counted = select(table.c.master, func.count()).group_by(table.c.master)
            for master, count in self._connection.execute(counted):
                found[master] = found.get(master, 0) + count
        return found


class WrappingWriting(WrappingReading):
    """The part of ``Writing`` that is about wrapping."""

    def put_master_key(self, row: MasterKeyRow) -> None:
        """Add a master key, or change what is known of it; where it wraps, the one before only unwraps."""
        columns = _columns(row)
        if row.state == "wraps":
            self._connection.execute(
                update(MASTER_KEYS)
                .where(MASTER_KEYS.c.state == "wraps", MASTER_KEYS.c.identity != row.identity)
                .values(state="unwraps")
            )
        changed = self._connection.execute(
            update(MASTER_KEYS).where(MASTER_KEYS.c.identity == row.identity).values(columns)
        )
        if changed.rowcount == 0:
            self._connection.execute(insert(MASTER_KEYS), columns)


def _master_key_of(row: Row[Any]) -> MasterKeyRow:
    return MasterKeyRow(
        row.identity,
        row.uri,
        row.state,
        row.key_check,
        from_text(row.created),
        row.emptied and from_text(row.emptied),
    )


def _columns(row: MasterKeyRow) -> dict[str, Any]:
    return {
        name: to_text(value) if isinstance(value, datetime) else value for name, value in asdict(row).items()
    }
