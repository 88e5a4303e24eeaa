"""The store on PostgreSQL: brokers side by side on one database, which its own replication keeps.

| setting | why |
|---|---|
| synchronous_commit | at least ``on``: what is committed is on the disk, and on a synchronous standby |
| SERIALIZABLE | what a work has read is still so when it is written |
| READ ONLY, REPEATABLE READ | a reader sees one moment, and waits for nobody |
| target_session_attrs=read-write | of several hosts the one that takes writes |
| connect_timeout, tcp_user_timeout, keepalives | a host that is gone is noticed in seconds |
| sslmode=verify-full | unless the URI says otherwise, or no packet leaves this machine |
| idle_in_transaction_session_timeout | a broker that stands still lets the others write |
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from keybroker.audit import Writer
from keybroker.store.commits import PATIENCE_SECONDS, Commits
from keybroker.store.failures import is_passing, translated
from keybroker.store.group import GroupCommit
from keybroker.store.grouped import GroupedStore
from keybroker.store.overdue import Overdue
from keybroker.store.places import Cluster
from keybroker.store.reading import SqlReading
from keybroker.wire.problems import KeybrokerError, Problem

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

READERS: Final = 8
"""Connections that are kept for reading; more are made while more read at once."""

LARGEST_BATCH: Final = 64
"""Works in one transaction; with more savepoints a standby has to look them up on its disk."""

STATEMENT_SECONDS: Final = 10.0
"""After which a connection whose statement was not answered is cut."""

READING_SECONDS: Final = 5.0
"""How long a reading is tried again."""

_DEFAULTS: Final = {
    "application_name": "keybroker",
    "client_encoding": "UTF8",
    "connect_timeout": "3",
    "target_session_attrs": "read-write",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "8000",
}

_WEAK: Final = ("off", "local", "remote_write")

_SETTINGS: Final = (
    ("lock_timeout", "8s"),
    ("idle_in_transaction_session_timeout", "5s"),
)


def engine(cluster: Cluster) -> Engine:
    """Return an engine whose connections have our settings and leave transactions to their users.

    Raises:
        KeybrokerError: CONFIGURATION where psycopg is not installed, or libpq does not take the URI.
    """
    connect = _connector(cluster)
    return create_engine(
        "postgresql+psycopg://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=READERS,
        max_overflow=-1,
        pool_reset_on_return=None,
        pool_use_lifo=True,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        use_native_hstore=False,
    )


def _connector(cluster: Cluster) -> Callable[[], Any]:
    try:
        import psycopg
        from psycopg import conninfo
    except ImportError as error:
        raise KeybrokerError(
            Problem.CONFIGURATION,
            f"database: {cluster} needs psycopg, which is not here: {error}",
            hint="pip install --require-hashes -r requirements/postgres.txt, in a checkout",
        ) from None
    try:
        said = conninfo.conninfo_to_dict(cluster.libpq_uri)
    except psycopg.ProgrammingError as error:
        raise KeybrokerError(Problem.CONFIGURATION, f"database: {cluster}: {str(error).strip()}") from None
    asked = {**_DEFAULTS, **({} if cluster.is_local else {"sslmode": "verify-full"}), **said}

    def connect() -> Any:
        made = psycopg.connect(autocommit=True, **asked)  # type: ignore[arg-type]
        try:
            settle(made)
        except BaseException:
            made.close()
            raise
        return made

    return connect


def settle(connection: psycopg.Connection[Any]) -> None:
    """Make the settings that durability hangs on, unless the cluster's own are stricter."""
    for name, value in _SETTINGS:
        connection.execute(f"SET {name} = '{value}'")
    (commit,) = connection.execute("SHOW synchronous_commit").fetchone() or ("off",)
    if commit in _WEAK:
        connection.execute("SET synchronous_commit = on")


class PostgresStore(GroupedStore):
    """``Store`` on a database that PostgreSQL serves.

    Args:
        cluster: at the newest revision of the schema (``schema.check``).
        writer: whose chain of the audit trail it appends to.
        patience: seconds that a write is tried again.
        statement_seconds: after which a server that does not answer is given up.
    """

    def __init__(
        self,
        cluster: Cluster,
        writer: Writer = Writer(),  # noqa: B008  # it is frozen
        *,
        patience: float = PATIENCE_SECONDS,
        statement_seconds: float = STATEMENT_SECONDS,
    ) -> None:
        self._engine = engine(cluster)
        self._overdue = Overdue(self._engine, statement_seconds)
        process = secrets.token_hex(16)
        grouping = GroupCommit(
            lambda: Commits(self._engine.connect, process, writer, patience), LARGEST_BATCH
        )
        super().__init__(writer, grouping)

    def read(self, work: Callable[[SqlReading], T]) -> T:
        """Run ``work`` on a consistent view."""
        until, pause = time.monotonic() + READING_SECONDS, 0.05
        while True:
            try:
                with self._engine.connect() as connection:
                    return _viewed(connection, self._name, work)
            except DBAPIError as error:
                if not is_passing(error) or time.monotonic() + pause > until:
                    raise translated(error) from None
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  # a pause is no secret
            pause = min(pause * 2, 1.0)

    def scrub(self) -> bool:
        """Let PostgreSQL take the room of what was deleted.

        It overwrites nothing: old rows stay in free room until something else comes there, and in the
        write-ahead log, its archive and the standbys for as long as those are kept.
        """
        try:
            with self._engine.connect() as connection:
                for table in ("keys", "headers", "recoveries", "addon_keys"):
                    connection.exec_driver_sql(f"VACUUM {table}")
        except DBAPIError as error:
            if is_passing(error):
                return False
            raise translated(error) from None
        return True

    def close(self) -> None:
        """Finish what is queued, then let go of the database."""
        self._writer.close()
        self._engine.dispose()
        self._overdue.close()


def _viewed(connection: Connection, writer: Writer, work: Callable[[SqlReading], T]) -> T:
    connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        return work(SqlReading(connection, writer))
    finally:
        if not connection.invalidated:
            connection.exec_driver_sql("ROLLBACK")
