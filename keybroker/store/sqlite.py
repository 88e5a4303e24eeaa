"""The store on SQLite: one writer that groups commits, any number of readers beside it (WAL).

Each connection is made with these settings and asked whether it has them:

| pragma | why |
|---|---|
| journal_mode=WAL | readers and the writer do not wait for each other |
| synchronous=FULL | a commit that returned survives a power cut; NORMAL loses the last ones in WAL mode |
| secure_delete=ON | what is deleted is overwritten with zeros |
| foreign_keys=ON | off by default, a connection |
| trusted_schema=OFF, cell_size_check=ON | a tampered file does less |
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from keybroker.audit import Writer
from keybroker.store.failures import translated
from keybroker.store.group import GroupCommit, on_one_connection
from keybroker.store.grouped import GroupedStore
from keybroker.store.reading import SqlReading
from keybroker.wire.problems import KeybrokerError, Problem

T = TypeVar("T")

BUSY_MILLISECONDS: Final = 5000
READERS: Final = 32
"""Connections kept for reading; a request thread holds one only while it reads."""

_PRAGMAS: Final[tuple[tuple[str, str, object], ...]] = (
    ("busy_timeout", str(BUSY_MILLISECONDS), BUSY_MILLISECONDS),
    ("journal_mode", "WAL", "wal"),
    ("synchronous", "FULL", 2),
    ("secure_delete", "ON", 1),
    ("foreign_keys", "ON", 1),
    ("trusted_schema", "OFF", 0),
    ("cell_size_check", "ON", 1),
)


def engine(database: Path) -> Engine:
    """Return an engine whose connections have our settings and leave transactions to their users.

    Args:
        database: an existing file; a missing one is an error, never a new and empty database.
    """
    made = create_engine(
        URL.create("sqlite", database=f"file:{database}", query={"mode": "rw", "uri": "true"}),
        poolclass=QueuePool,
        pool_size=READERS,
        max_overflow=-1,
        pool_reset_on_return=None,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
    )
    event.listen(made, "connect", settle)
    return made


def settle(connection: sqlite3.Connection, _record: Any) -> None:
    """Make the settings, and be sure of them: SQLite ignores a pragma that it cannot follow."""
    for name, value, expected in _PRAGMAS:
        connection.execute(f"PRAGMA {name}={value}")
        (is_now,) = connection.execute(f"PRAGMA {name}").fetchone()
        if is_now != expected:
            raise KeybrokerError(
                Problem.CONFIGURATION, f"database: {name} is {is_now!r}, and must be {expected!r}"
            )


class SqliteStore(GroupedStore):
    """``Store`` on one SQLite file.

    Args:
        database: an existing file at the newest revision of the schema (``schema.check``).
        writer: whose chain of the audit trail it appends to.
    """

    def __init__(self, database: Path, writer: Writer = Writer()) -> None:  # noqa: B008  # it is frozen
        self._engine = engine(database)
        super().__init__(writer, GroupCommit(lambda: on_one_connection(self._engine.connect, writer)))

    def read(self, work: Callable[[SqlReading], T]) -> T:
        """Run ``work`` on a consistent view."""
        try:
            with self._engine.connect() as connection:
                return _viewed(connection, self._name, work)
        except DBAPIError as error:
            raise translated(error) from None

    def scrub(self) -> bool:
        """Let no copy of what was overwritten stay in the write-ahead log.

        ``secure_delete`` overwrites in the database; in WAL mode the old pages stay in the log beside it
        until that is cut to nothing (https://sqlite.org/pragma.html#pragma_wal_checkpoint).
        """
        try:
            with self._engine.connect() as connection:
                busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
        except DBAPIError as error:
            raise translated(error) from None
        return bool(busy == 0)

    def close(self) -> None:
        """Finish what is queued, then let go of the database."""
        self._writer.close()
        self._engine.dispose()


def _viewed(connection: Connection, writer: Writer, work: Callable[[SqlReading], T]) -> T:
    # A deferred transaction: the first SELECT fixes what all of them see.
    connection.exec_driver_sql("BEGIN")
    try:
        return work(SqlReading(connection, writer))
    finally:
        connection.exec_driver_sql("ROLLBACK")
