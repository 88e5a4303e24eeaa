"""What is wrapped by what: the master keys, and every row that one of them, or an add-on's key, wraps.

A table with a column ``master`` holds what a master key wraps itself; one with ``wrapped`` alone holds what
an add-on's key wraps, whose id the blob names (``keybroker.envelope``). A test holds that no table of either
kind is missing here.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    and_,
    case,
    func,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy import delete as sql_delete

from keybroker.store.recoverytables import RECOVERIES, RECOVERY_KEYS
from keybroker.store.rows import AddonKeyRow, MasterKeyRow, WrappedRow, from_text, to_text
from keybroker.store.tables import ADDON_KEYS, HEADERS, KEYS, MASTER_KEYS, SIGNERS, VOLUMES
from keybroker.wire.names import AddonName
from keybroker.wire.problems import KeybrokerError, Problem

BY_MASTER: Final[tuple[Table, ...]] = (ADDON_KEYS, SIGNERS, RECOVERY_KEYS)
"""What master keys wrap themselves."""

BY_ADDON: Final[tuple[Table, ...]] = (KEYS, HEADERS, RECOVERIES)
"""What add-ons' keys wrap; each table has a column ``volume``, and a number beside it in its primary key."""

_TABLES: Final = {table.name: table for table in (*BY_MASTER, *BY_ADDON)}

_MASTER_KEYS: Final = select(MASTER_KEYS).order_by(MASTER_KEYS.c.created, MASTER_KEYS.c.identity)

_NEWEST: Final = (
    select(ADDON_KEYS.c.addon, func.max(ADDON_KEYS.c.generation).label("generation"))
    .group_by(ADDON_KEYS.c.addon)
    .subquery()
)
_NEWEST_KEYS: Final = select(ADDON_KEYS).join(
    _NEWEST,
    and_(ADDON_KEYS.c.addon == _NEWEST.c.addon, ADDON_KEYS.c.generation == _NEWEST.c.generation),
)
_STALE: Final = (
    select(ADDON_KEYS.c.addon)
    .group_by(ADDON_KEYS.c.addon)
    .having(func.count() > 1)
    .order_by(ADDON_KEYS.c.addon)
)
"""Add-ons that have an older key beside the newest: something may be wrapped by it."""


def _wrapped_by(table: Table) -> ColumnElement[bytes]:
    """Return the id of the key that a blob names (``envelope.wrapped_by``)."""
    return func.substr(table.c.wrapped, 7, 16)


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

    def wrapped_by_other_masters(
        self, master: str, table: str, after: tuple[Any, ...] | None, limit: int
    ) -> list[WrappedRow]:
        """Return rows of a table that another master key wraps, by primary key, from behind ``after`` on."""
        of = _TABLES[table]
        asked = select(*of.primary_key.columns, of.c.wrapped).where(of.c.master != master)
        return [
            WrappedRow(table, tuple(row[:-1]), row.wrapped) for row in self._page(asked, of, after, limit)
        ]

    def newest_addon_keys(self) -> list[AddonKeyRow]:
        """Return the newest generation of each add-on's key, by add-on."""
        return [
            addon_key_of(row) for row in self._connection.execute(_NEWEST_KEYS.order_by(ADDON_KEYS.c.addon))
        ]

    def stale_addons(self) -> list[AddonName]:
        """Return the add-ons that have an older generation of their key beside the newest, by name."""
        return [AddonName(row.addon) for row in self._connection.execute(_STALE)]

    def wrapped_by_older(
        self, key: AddonKeyRow, table: str, after: tuple[Any, ...] | None, limit: int
    ) -> list[WrappedRow]:
        """Return rows of a table that another key than this one of their add-on wraps, by primary key."""
        of = _TABLES[table]
        asked = (
            select(*of.primary_key.columns, of.c.wrapped, VOLUMES.c.luks_uuid)
            .join(VOLUMES, VOLUMES.c.id == of.c.volume)
            .where(VOLUMES.c.addon == key.addon, of.c.wrapped.is_not(None), _wrapped_by(of) != key.id)
        )
        return [
            WrappedRow(table, tuple(row[:-2]), row.wrapped, key.addon, row.luks_uuid)
            for row in self._page(asked, of, after, limit)
        ]

    def wrapped_by_addons(self) -> tuple[int, int]:
        """Return how many records add-ons' keys wrap, and how many of them an older one than the newest."""
        newest, total, old = _NEWEST_KEYS.subquery(), 0, 0
        for table in BY_ADDON:
            older = case((_wrapped_by(table) != newest.c.id, 1), else_=0)
            row = self._connection.execute(
                select(func.count().label("all"), func.coalesce(func.sum(older), 0).label("older"))
                .select_from(table)
                .join(VOLUMES, VOLUMES.c.id == table.c.volume)
                .join(newest, newest.c.addon == VOLUMES.c.addon)
                .where(table.c.wrapped.is_not(None))
            ).one()
            total, old = total + row.all, old + row.older
        return total, old

    def addon_key_wraps(self, row: AddonKeyRow) -> bool:
        """Say whether anything is wrapped by a generation of an add-on's key."""
        return any(
            self._connection.execute(
                select(table.c.volume)
                .join(VOLUMES, VOLUMES.c.id == table.c.volume)
                .where(VOLUMES.c.addon == row.addon, _wrapped_by(table) == row.id)
                .limit(1)
            ).first()
            for table in BY_ADDON
        )

    def _page(
        self, asked: Select[Any], of: Table, after: tuple[Any, ...] | None, limit: int
    ) -> list[Row[Any]]:
        key = list(of.primary_key.columns)
        if after is not None:
            asked = asked.where(tuple_(*key) > tuple_(*after))
        return list(self._connection.execute(asked.order_by(*key).limit(limit)))


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

    def rewrap(self, row: WrappedRow, wrapped: bytes, master: str | None) -> bool:
        """Wrap a row anew, if it is still wrapped as it was read; say whether it was.

        Args:
            master: the master key that wrapped it; None where an add-on's key did.
        """
        of = _TABLES[row.table]
        same = [column == value for column, value in zip(of.primary_key.columns, row.key, strict=True)]
        values = {"wrapped": wrapped} if master is None else {"wrapped": wrapped, "master": master}
        changed = self._connection.execute(
            update(of).where(*same, of.c.wrapped == row.wrapped).values(values)
        )
        return changed.rowcount == 1

    def add_addon_key(self, row: AddonKeyRow) -> None:
        """Add a generation of an add-on's key."""
        self._connection.execute(insert(ADDON_KEYS), _columns(row))

    def drop_addon_key(self, row: AddonKeyRow) -> None:
        """Let go of a generation of an add-on's key; CONFLICT where something is wrapped by it."""
        if self.addon_key_wraps(row):
            raise KeybrokerError(
                Problem.CONFLICT, f"add-on {row.addon}: its key {row.generation} still wraps something"
            )
        self._connection.execute(
            sql_delete(ADDON_KEYS).where(
                ADDON_KEYS.c.addon == row.addon, ADDON_KEYS.c.generation == row.generation
            )
        )


def addon_key_of(row: Row[Any]) -> AddonKeyRow:
    """Return a generation of an add-on's key from its row."""
    return AddonKeyRow(
        AddonName(row.addon),
        row.generation,
        row.id,
        row.wrapped,
        row.master,
        from_text(row.created),
        row.made_under,
    )


def _master_key_of(row: Row[Any]) -> MasterKeyRow:
    return MasterKeyRow(
        row.identity,
        row.uri,
        row.state,
        row.key_check,
        from_text(row.created),
        row.emptied and from_text(row.emptied),
        bool(row.renews),
    )


def _columns(row: MasterKeyRow | AddonKeyRow) -> dict[str, Any]:
    return {name: _column(value) for name, value in asdict(row).items()}


def _column(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_text(value)
    return int(value) if isinstance(value, bool) else value
