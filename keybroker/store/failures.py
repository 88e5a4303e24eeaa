"""What a database error means to whoever asked."""

from __future__ import annotations

import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from keybroker.wire.problems import KeybrokerError, Problem

_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

# PostgreSQL documentation, appendix A, "PostgreSQL Error Codes"
_DAMAGED_STATES: Final = {"XX001", "XX002"}
_PASSING_CLASSES: Final = ("08", "40", "53", "57", "58")
"""No connection; rolled back (40001 serialisation, 40P01 deadlock); out of room; stopped; I/O error."""
_PASSING_STATES: Final = {
    "25006",  # read only: it was the primary
    "25P03",  # we were idle in a transaction for too long: this process was stopped
    "55P03",  # somebody else has the lock
}


def sqlstate(error: DBAPIError) -> str | None:
    """Return PostgreSQL's code of an error; None where it comes from the client, or from SQLite."""
    found: str | None = getattr(error.orig, "sqlstate", None)
    return found


def is_passing(error: DBAPIError) -> bool:
    """Say whether PostgreSQL may do the same transaction another time, or on another connection."""
    state = sqlstate(error)
    if state is None:
        return error.connection_invalidated or isinstance(error, OperationalError)
    return state.startswith(_PASSING_CLASSES) or state in _PASSING_STATES


def translated(error: DBAPIError) -> KeybrokerError:
    """Return what a database error means: CONFLICT, CORRUPT or UNAVAILABLE.

    The statement and its values stay out of the message: they hold wrapped keys.
    """
    state = sqlstate(error)
    if state is not None:
        return _of_state(error, state)
    said = "; ".join(str(error.orig).split("\n"))
    code = getattr(error.orig, "sqlite_errorcode", 0)
    # the low byte is the primary code (https://sqlite.org/rescode.html)
    if code & 0xFF in _DAMAGED:
        return KeybrokerError(Problem.CORRUPT, f"database: {said}")
    if isinstance(error, IntegrityError):
        return KeybrokerError(Problem.CONFLICT, f"database: {said}")
    if isinstance(error, OperationalError) or error.connection_invalidated:
        return KeybrokerError(Problem.UNAVAILABLE, f"database: {said}", retry_after=1)
    return KeybrokerError(Problem.INTERNAL, f"database: {said}")


def _of_state(error: DBAPIError, state: str) -> KeybrokerError:
    # of what the server says the first line alone: the lines behind it show the row
    said = getattr(getattr(error.orig, "diag", None), "message_primary", None) or f"error {state}"
    if state in _DAMAGED_STATES:
        return KeybrokerError(Problem.CORRUPT, f"database: {said}")
    if isinstance(error, IntegrityError):
        return KeybrokerError(Problem.CONFLICT, f"database: {said}")
    if is_passing(error):
        return KeybrokerError(Problem.UNAVAILABLE, f"database: {said}", retry_after=1)
    return KeybrokerError(Problem.INTERNAL, f"database: {said}")
