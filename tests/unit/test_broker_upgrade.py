"""An installation of an older version is upgraded in place, and goes on with the keys that it has."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command

from keybroker.service.installation import open_broker, upgrade
from keybroker.store import schema
from keybroker.store.sqlite import SqliteStore
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.broker_house import House


def test_an_older_database_is_refused_with_the_way_to_upgrade_it_and_then_opened(house: House) -> None:
    house.broker.close()
    database = house.installation.database
    shutil.move(database, database.with_name("kept"))
    database.touch(mode=0o600)
    command.upgrade(schema._config(database), "0001")
    with pytest.raises(KeybrokerError) as caught:
        open_broker(house.installation, clock=house.clock, entropy=house.random.randbytes)
    assert (caught.value.problem, caught.value.hint) == (Problem.CONFIGURATION, "keybroker upgrade")
    assert upgrade(house.installation) == ("0001", schema.newest())
    assert upgrade(house.installation) == (schema.newest(), schema.newest())
    database.unlink()
    shutil.move(database.with_name("kept"), database)
    house.broker = house.open()


def test_operators_of_before_there_were_roles_keep_what_they_could_do(tmp_path: Path) -> None:
    database = tmp_path / "keybroker.db"
    database.touch(mode=0o600)
    command.upgrade(schema._config(database), "0002")
    with closing(sqlite3.connect(database)) as raw, raw:
        raw.execute("PRAGMA foreign_keys=ON")
        for name, revoked in (("alice", None), ("bob", "2026-01-02T00:00:00.000000Z")):
            raw.execute("INSERT INTO operators VALUES (?, '2026-01-01T00:00:00.000000Z', ?)", (name, revoked))
        raw.execute(
            "INSERT INTO certificates VALUES (?, '1f', NULL, 'alice', ?, ?, ?, ?, 'PEM')",
            ("ab" * 32, "cd" * 32, *3 * ("2026-01-01T00:00:00.000000Z",)),
        )
    schema.upgrade(database)
    store = SqliteStore(database)
    try:
        alice, bob = store.read(lambda reading: reading.operators())
        admitted = store.read(lambda reading: reading.admission("ab" * 32))
    finally:
        store.close()
    assert (sorted(alice.roles), alice.revoked) == (["approver", "auditor", "operator"], None)
    assert (bob.roles, bob.reason) == (alice.roles, "not recorded")
    assert admitted is not None
    assert (admitted.operator, admitted.roles, admitted.revoked) == ("alice", alice.roles, None)
