"""An installation of an older version is upgraded in place, and goes on with the keys that it has."""

from __future__ import annotations

import shutil

import pytest
from alembic import command

from keybroker.service.installation import open_broker, upgrade
from keybroker.store import schema
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
