"""How Alembic runs our migrations: on the engine that the store itself uses, one transaction for all."""

from __future__ import annotations

from alembic import context

from keybroker.store.schema import engine
from keybroker.store.tables import METADATA
from keybroker.wire.problems import KeybrokerError, Problem


def run() -> None:
    """Migrate the database that ``schema`` named."""
    opened = engine(context.config.attributes["database"])
    is_sqlite = opened.dialect.name == "sqlite"
    try:
        # Inside SQLAlchemy's transaction Alembic commits nothing by itself; the real one is ours to begin,
        # for our connections are in autocommit. DDL obeys it: a cut migration leaves nothing.
        with opened.connect() as connection, connection.begin():
            if is_sqlite:
                # A table that others refer to cannot be made anew with foreign keys on; inside a transaction
                # the pragma does nothing. What they would have refused is looked for before the commit.
                connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            connection.exec_driver_sql("BEGIN IMMEDIATE" if is_sqlite else "BEGIN")
            context.configure(connection=connection, target_metadata=METADATA)
            context.run_migrations()
            if is_sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                raise KeybrokerError(Problem.CORRUPT, "database: after migrating, a row refers to nothing")
    finally:
        opened.dispose()


run()
