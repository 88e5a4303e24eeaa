"""What goes before an upgrade of the database: its rehearsal on a copy, and a copy that is kept.

Both copies are consistent while a broker serves. They hold wrapped keys, like the database, and lie where
only its owner reads. Of PostgreSQL's database nothing is copied: that is for its own tools (pg_basebackup).
"""

from __future__ import annotations

import os
from pathlib import Path

from keybroker.service.installation import Installation, check_files
from keybroker.service.placing import sync
from keybroker.store import schema
from keybroker.store.copying import check_integrity, snapshot
from keybroker.wire.problems import KeybrokerError, Problem


def rehearse(installation: Installation) -> tuple[str | None, str]:
    """Upgrade a copy beside the database, which is gone afterwards; the database is read and nothing else.

    Returns:
        The revision that the database has, and the one that an upgrade would bring it to.

    Raises:
        KeybrokerError: what an upgrade would run into: as ``installation.upgrade``, or no room for the copy.
    """
    check_files(installation)
    database = installation.place
    before = schema.revision(database)
    if schema.is_older(database) and isinstance(database, Path):
        copy = database.with_name(f"{database.name}.rehearsal")
        _remove(copy)  # one that was cut off
        try:
            _copy(database, copy)
            schema.upgrade(copy)
            schema.check(copy)
            check_integrity(copy)
        finally:
            _remove(copy)
    return before, schema.newest()


def keep(installation: Installation, directory: Path) -> Path | None:
    """Copy a database that is to be upgraded into a directory, made if need be, as ``REVISION.db``.

    Args:
        directory: mode 0700 if it is made. A former copy of the same revision is replaced by a whole one.

    Returns:
        The copy; None where nothing is to be upgraded, or PostgreSQL has the database.

    Raises:
        KeybrokerError: as ``rehearse``; CONFIGURATION where the directory cannot be made.
    """
    check_files(installation)
    database = installation.place
    if not schema.is_older(database) or not isinstance(database, Path):
        return None
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise KeybrokerError(
            Problem.CONFIGURATION, f"{directory}: cannot be made: {error.strerror}"
        ) from None
    kept = directory / f"{schema.revision(database)}.db"
    fresh = kept.with_suffix(".new")
    _remove(fresh)
    try:
        _copy(database, fresh)
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.rename(kept)
        sync(directory)
    finally:
        _remove(fresh)
    return kept


def _copy(database: Path, to: Path) -> None:
    try:
        snapshot(database, to)
    except OSError as error:
        raise KeybrokerError(Problem.UNAVAILABLE, f"{to}: cannot be written: {error.strerror}") from None


def _remove(database: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
