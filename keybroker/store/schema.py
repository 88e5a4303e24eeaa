"""Making a database, and refusing one whose tables are not this version's."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from keybroker.store.failures import translated
from keybroker.store.sqlite import engine
from keybroker.wire.problems import KeybrokerError, Problem

_MIGRATIONS: Final = Path(__file__).with_name("migrations")


def _config(database: Path) -> Config:
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


def create(database: Path) -> None:
    """Make a database file, mode 0600, with all tables.

    Raises:
        FileExistsError: something is there already.
        KeybrokerError: UNAVAILABLE where it cannot be written.
    """
    database.touch(mode=0o600, exist_ok=False)
    upgrade(database)


def upgrade(database: Path) -> None:
    """Bring a database to the newest revision; at that revision, do nothing.

    Raises:
        KeybrokerError: UNAVAILABLE where it cannot be written.
    """
    try:
        command.upgrade(_config(database), "head")
    except DBAPIError as error:
        raise translated(error) from None


def revision(database: Path) -> str | None:
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


def check(database: Path) -> None:
    """Check that a database is at the newest revision.

    Raises:
        KeybrokerError: CONFIGURATION where it is not; UNAVAILABLE or CORRUPT where it cannot be read.
    """
    found, wanted = revision(database), newest()
    if found == wanted:
        return
    known = {script.revision for script in ScriptDirectory.from_config(_config(database)).walk_revisions()}
    if found is None:
        what, hint = "has no tables of ours", "keybroker init"
    elif found in known:
        what, hint = f"is at revision {found}, this version needs {wanted}", "keybroker upgrade"
    else:
        what = f"is at revision {found}, which this version does not know: a newer one made it"
        hint = "install the version that it was upgraded with"
    raise KeybrokerError(Problem.CONFIGURATION, f"{database}: {what}", hint=hint)
