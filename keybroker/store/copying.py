"""A database as a file of its own: a consistent copy of one in use, and whether such a file is sound."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from keybroker.wire.problems import KeybrokerError, Problem

BUSY_SECONDS: Final = 30.0


def snapshot(database: Path, to: Path) -> None:
    """Copy a database as of one moment, while others read and write it; ``to`` is a new file, mode 0600.

    Raises:
        FileExistsError: ``to`` is there.
        KeybrokerError: UNAVAILABLE where it cannot be read or written.

    Source: https://sqlite.org/backup.html; all pages in one step, which in WAL mode holds up no writer.
    """
    to.touch(mode=0o600, exist_ok=False)
    try:
        with (
            closing(sqlite3.connect(_uri(database, "ro"), uri=True, timeout=BUSY_SECONDS)) as source,
            closing(sqlite3.connect(_uri(to, "rw"), uri=True)) as target,
        ):
            source.backup(target)
            # As a file that is carried about it has no log beside it; a store puts it into WAL mode again.
            target.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        raise KeybrokerError(Problem.UNAVAILABLE, f"{database}: cannot be copied: {error}") from None


def check_integrity(database: Path) -> None:
    """Check every page and index of a database, and that nothing in it points to nowhere.

    Raises:
        KeybrokerError: CORRUPT, with the first thing that is wrong.

    Source: https://sqlite.org/pragma.html#pragma_integrity_check, #pragma_foreign_key_check.
    """
    try:
        with closing(sqlite3.connect(_uri(database, "ro"), uri=True, timeout=BUSY_SECONDS)) as connection:
            (said,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            astray = connection.execute("PRAGMA foreign_key_check").fetchone()
    except sqlite3.Error as error:
        raise KeybrokerError(Problem.CORRUPT, f"database: {error}") from None
    if said != "ok":
        raise KeybrokerError(Problem.CORRUPT, f"database: {said}")
    if astray is not None:
        raise KeybrokerError(Problem.CORRUPT, f"database: a row of {astray[0]} names one that is not there")


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"
