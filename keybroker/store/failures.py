"""What a database error means to whoever asked."""

from __future__ import annotations

import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from keybroker.wire.problems import KeybrokerError, Problem

_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def translated(error: DBAPIError) -> KeybrokerError:
    """Return what a database error means: CONFLICT, CORRUPT or UNAVAILABLE.

    The statement and its values stay out of the message: they hold wrapped keys.
    """
    said = str(error.orig)
    code = getattr(error.orig, "sqlite_errorcode", 0)
    # the low byte is the primary code (https://sqlite.org/rescode.html)
    if code & 0xFF in _DAMAGED:
        return KeybrokerError(Problem.CORRUPT, f"database: {said}")
    if isinstance(error, IntegrityError):
        return KeybrokerError(Problem.CONFLICT, f"database: {said}")
    if isinstance(error, OperationalError):
        return KeybrokerError(Problem.UNAVAILABLE, f"database: {said}", retry_after=1)
    return KeybrokerError(Problem.INTERNAL, f"database: {said}")
