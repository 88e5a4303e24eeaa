"""A database moves from SQLite's file to PostgreSQL: everything in one transaction, compared before its end.

Nothing of the source is changed, and nobody else writes to it meanwhile. What is cut leaves an empty target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Table, insert, select
from sqlalchemy.exc import DBAPIError

from keybroker.audit import Writer, verify
from keybroker.store import schema, sqlite
from keybroker.store.failures import translated
from keybroker.store.grouped import records
from keybroker.store.places import Cluster
from keybroker.store.reading import SqlReading
from keybroker.store.tables import METADATA
from keybroker.wire.problems import KeybrokerError, Problem

_PAGE: Final = 500
_PAGES: Final = {"yield_per": _PAGE}


@dataclass(frozen=True, slots=True)
class Copied:
    """One table that is the same on both sides.

    Attributes:
        hash: SHA-256 of its rows by primary key, hex.
    """

    table: str
    rows: int
    hash: str


def transfer(source: Path, target: Cluster, told: Callable[[Copied], None]) -> tuple[bool, int]:
    """Copy everything into an empty database; where it is there already, only compare.

    Args:
        source: at the newest revision of the schema (``schema.check``).
        told: hears of each table once it is found to be the same on both sides.

    Returns:
        Whether anything was copied, and how many audit records are there, whose chains are whole.

    Raises:
        KeybrokerError: EXISTS where there is something else already; CONFLICT where somebody writes to the
            source; CORRUPT where both sides differ or a chain is broken; CONFIGURATION; UNAVAILABLE.
    """
    here, there = sqlite.engine(source), schema.engine(target)
    try:
        with here.connect() as old, there.connect() as new:
            _hold(old)
            new.exec_driver_sql("BEGIN ISOLATION LEVEL SERIALIZABLE")
            is_new = schema.revision(target) is None
            if is_new:
                schema.fill_postgres(new, target, lambda: _copy(old, new))
            for table in METADATA.sorted_tables:
                told(_same(old, new, table, is_new=is_new))
            records = _verified(SqlReading(new, Writer()))
            new.exec_driver_sql("COMMIT")
            old.exec_driver_sql("ROLLBACK")
            return is_new, records
    except DBAPIError as error:
        raise translated(error) from None
    finally:
        here.dispose()
        there.dispose()


def _hold(old: Connection) -> None:
    try:
        old.exec_driver_sql("BEGIN IMMEDIATE")  # others may read, and nobody writes
    except DBAPIError:
        raise KeybrokerError(
            Problem.CONFLICT, "database: somebody is writing to it", hint="systemctl stop keybroker"
        ) from None


def _copy(old: Connection, new: Connection) -> None:
    for table in METADATA.sorted_tables:
        rows = old.execute(select(table).order_by(*table.primary_key), execution_options=_PAGES)
        for page in rows.mappings().partitions(_PAGE):
            new.execute(insert(table), [dict(row) for row in page])


def _same(old: Connection, new: Connection, table: Table, *, is_new: bool) -> Copied:
    one, other = _summed(old, table), _summed(new, table)
    if one == other:
        return one
    differs = f"table {table.name}: {one.rows} rows here and {other.rows} there, or other ones"
    if is_new:
        raise KeybrokerError(Problem.CORRUPT, f"copy: {differs}; it is taken back")
    raise KeybrokerError(
        Problem.EXISTS,
        f"target: holds another database already, or brokers have written to it: {differs}",
        hint="an empty database is needed: dropdb and createdb, if nothing in it is wanted",
    )


def _summed(connection: Connection, table: Table) -> Copied:
    hashed, count = hashlib.sha256(), 0
    asked = select(table).order_by(*table.primary_key)
    for row in connection.execute(asked, execution_options=_PAGES):
        hashed.update(_as_bytes(tuple(row)))
        count += 1
    return Copied(table.name, count, hashed.hexdigest())


def _as_bytes(row: tuple[Any, ...]) -> bytes:
    """Return a row as bytes that no other row has; both engines give text, whole numbers, bytes and NULL."""
    return repr(row).encode() + b"\n"


def _verified(reading: SqlReading) -> int:
    """Check every chain of the audit trail; return how many records there are."""
    chains = (records(lambda work: work(reading), writer) for writer in reading.writers())
    return sum(verify(chain)[0] for chain in chains)
