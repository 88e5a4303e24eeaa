"""Making a database, and refusing one whose tables are not this version's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import DBAPIError

from keybroker.audit import Writer
from keybroker.store import Store, postgres, recoverytables, signingtables, sqlite, tables, trailtables
from keybroker.store.commits import ENGINES_OWN
from keybroker.store.failures import translated
from keybroker.store.guards import GUARDS
from keybroker.store.places import Database
from keybroker.wire.problems import KeybrokerError, Problem

__all__ = ["check", "create", "engine", "fill_postgres", "newest", "open_store", "revision", "upgrade"]

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_ALL_TABLES: Final = (tables, recoverytables, signingtables, trailtables)
"""Modules that put their tables into ``tables.METADATA`` when they are imported."""


def _config(database: Database) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["database"] = database
    return config


def newest() -> str:
    """Return the revision that this version of the program works with."""
    head = ScriptDirectory.from_config(_config(Path())).get_current_head()
    if head is None:
        raise KeybrokerError(Problem.INTERNAL, "migrations: there are none")
    return head


def engine(database: Database) -> Engine:
    """Return the engine of a database, whose connections leave transactions to their users."""
    return sqlite.engine(database) if isinstance(database, Path) else postgres.engine(database)


def open_store(database: Database, writer: Writer) -> Store:
    """Open the store on a database that is at the newest revision (``check``).

    Args:
        writer: whose chain of the audit trail it appends to.
    """
    if isinstance(database, Path):
        return sqlite.SqliteStore(database, writer)
    return postgres.PostgresStore(database, writer)


def create(database: Database) -> None:
    """Make a database file, mode 0600, with all tables; or all tables in an empty database of PostgreSQL's.

    Raises:
        FileExistsError: the file is there already.
        KeybrokerError: UNAVAILABLE where it cannot be written; EXISTS where there are tables already;
            CONFIGURATION where PostgreSQL would sort, or encode, text otherwise than we do.
    """
    if isinstance(database, Path):
        database.touch(mode=0o600, exist_ok=False)
        upgrade(database)
        return
    opened = engine(database)
    try:
        with opened.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            fill_postgres(connection, database)
            connection.exec_driver_sql("COMMIT")
    except DBAPIError as error:
        raise translated(error) from None
    finally:
        opened.dispose()


def fill_postgres(connection: Connection, database: Database, rows: Callable[[], None] | None = None) -> None:
    """Make all tables in an empty database, in the caller's transaction.

    The migrations that SQLite's databases went through are not repeated: none of these was ever older. Those
    that come later are for both.

    Args:
        rows: puts rows into the tables before the guards stand, which are about changes.

    Raises:
        KeybrokerError: as ``create``.
    """
    _check_text(connection, database)
    there = set(inspect(connection).get_table_names())
    if there:
        raise KeybrokerError(
            Problem.EXISTS,
            f"{database}: has tables already: {', '.join(sorted(there)[:3])}",
            hint="an empty database is needed: dropdb and createdb, if nothing in it is wanted",
        )
    tables.METADATA.create_all(connection)
    ENGINES_OWN.create_all(connection)
    if rows is not None:
        rows()
    for guard in GUARDS:
        for statement in guard.statements():
            connection.exec_driver_sql(statement)
    context = MigrationContext.configure(connection)
    context.stamp(ScriptDirectory.from_config(_config(database)), "head")


def _check_text(connection: Connection, database: Database) -> None:
    """Check how text is encoded and sorted: a libc that sorts otherwise ruins an index on text."""
    # as JSON: the column that says whose collation it is came with PostgreSQL 15
    encoding, collation, provider = connection.exec_driver_sql(
        "SELECT pg_encoding_to_char(encoding), datcollate, to_jsonb(pg_database) ->> 'datlocprovider'"
        " FROM pg_database WHERE datname = current_database()"
    ).one()
    if provider == "i":
        collation = "of ICU"
    if encoding != "UTF8" or collation not in ("C", "POSIX", "C.UTF-8", "C.utf8"):
        raise KeybrokerError(
            Problem.CONFIGURATION,
            f"{database}: is made for {encoding} and the language {collation}; it must be for UTF8 and C",
            hint="createdb --template template0 --encoding UTF8 --locale C keybroker",
        )


def upgrade(database: Database) -> None:
    """Bring a database to the newest revision; at that revision, do nothing.

    Raises:
        KeybrokerError: UNAVAILABLE where it cannot be written.
    """
    try:
        command.upgrade(_config(database), "head")
    except DBAPIError as error:
        raise translated(error) from None


def revision(database: Database) -> str | None:
    """Return a database's revision; None where it has none.

    Raises:
        KeybrokerError: UNAVAILABLE or CORRUPT where it cannot be read.
    """
    opened = engine(database)
    try:
        with opened.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except DBAPIError as error:
        raise translated(error) from None
    finally:
        opened.dispose()


def check(database: Database) -> None:
    """Check that a database is at the newest revision.

    Raises:
        KeybrokerError: CONFIGURATION where it is not; UNAVAILABLE or CORRUPT where it cannot be read.
    """
    if is_older(database):
        what = f"is at revision {revision(database)}, this version needs {newest()}"
        raise KeybrokerError(Problem.CONFIGURATION, f"{database}: {what}", hint="keybroker upgrade")


def is_older(database: Database) -> bool:
    """Say whether a database is at a revision before the newest one, and not at that.

    Raises:
        KeybrokerError: CONFIGURATION where it is at neither; UNAVAILABLE or CORRUPT where it cannot be read.
    """
    found = revision(database)
    if found == newest():
        return False
    known = {script.revision for script in ScriptDirectory.from_config(_config(database)).walk_revisions()}
    if found in known:
        return True
    if found is None:
        what, hint = "has no tables of ours", "keybroker init"
    else:
        what = f"is at revision {found}, which this version does not know: a newer one made it"
        hint = "install the version that it was upgraded with"
    raise KeybrokerError(Problem.CONFIGURATION, f"{database}: {what}", hint=hint)
