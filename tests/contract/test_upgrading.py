"""Before a database is upgraded: a rehearsal that leaves it as it is, and a copy of what it was."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command

from keybroker.service import upgrading
from keybroker.service.installation import Installation, upgrade
from keybroker.store import schema
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.broker_house import House

OLD = "0002"


@pytest.fixture
def older(house: House) -> Installation:
    """An installation whose database is of an older version."""
    house.broker.close()
    database = house.installation.database
    database.unlink()
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    database.touch(mode=0o600)
    command.upgrade(schema._config(database), OLD)
    return house.installation


def beside(installation: Installation) -> list[str]:
    return sorted(path.name for path in installation.database.parent.iterdir())


def test_a_rehearsal_leaves_the_database_and_its_directory_as_they_are(older: Installation) -> None:
    before = older.database.read_bytes()
    assert upgrading.rehearse(older) == (OLD, schema.newest())
    assert older.database.read_bytes() == before
    assert "rehearsal" not in " ".join(beside(older))
    assert schema.revision(older.database) == OLD


def test_a_rehearsal_that_was_cut_off_is_in_nobodys_way(older: Installation) -> None:
    older.database.with_name(f"{older.database.name}.rehearsal").write_bytes(b"half of it")
    assert upgrading.rehearse(older) == (OLD, schema.newest())


def test_a_rehearsal_finds_what_an_upgrade_would_run_into(older: Installation) -> None:
    command.stamp(schema._config(older.database), "0001")  # its tables are there already
    with pytest.raises(KeybrokerError):
        upgrading.rehearse(older)
    assert schema.revision(older.database) == "0001"
    assert "rehearsal" not in " ".join(beside(older))


def test_the_copy_that_is_kept_is_the_database_from_before(older: Installation, tmp_path: Path) -> None:
    directory = tmp_path / "before"
    for _ in range(2):  # an upgrade that fails is tried again
        assert upgrading.keep(older, directory) == directory / f"{OLD}.db"
    upgrade(older)
    (kept,) = directory.iterdir()
    assert schema.revision(kept) == OLD
    assert (kept.stat().st_mode & 0o777, directory.stat().st_mode & 0o777) == (0o600, 0o700)


def test_of_a_database_that_is_up_to_date_no_copy_is_made(older: Installation, tmp_path: Path) -> None:
    upgrade(older)
    assert upgrading.keep(older, tmp_path / "before") is None
    assert upgrading.rehearse(older) == (schema.newest(), schema.newest())
    assert not (tmp_path / "before").exists()


@pytest.mark.parametrize("verb", [upgrade, upgrading.rehearse])
def test_a_database_of_a_newer_version_is_refused_as_that(
    older: Installation, verb: Callable[[Installation], object]
) -> None:
    upgrade(older)
    with closing(sqlite3.connect(older.database)) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(KeybrokerError) as caught:
        verb(older)
    assert caught.value.problem is Problem.CONFIGURATION
    assert "a newer one made it" in caught.value.detail
