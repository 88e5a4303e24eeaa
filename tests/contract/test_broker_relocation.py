"""A database that moves from its file to PostgreSQL, whole and compared, or not at all."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from keybroker.service.relocation import relocate
from keybroker.store import schema
from keybroker.store.places import Cluster
from keybroker.store.tables import METADATA
from keybroker.store.transfer import Copied
from keybroker.wire.problems import Problem
from tests.contract.broker_house import House, luks2
from tests.contract.postgres_cluster import PostgresServer
from tests.contract.test_broker_store import problem


@pytest.fixture
def busy(house: House) -> House:
    """Return a broker that is stopped, with volumes, keys, headers and records in its database."""
    house.addon()
    record = house.volume()
    peer, _ = house.enrol()
    house.provision(peer, record)
    house.unlock(peer, luks2(record))
    house.rotated(peer, record.volume, 5)
    house.broker.close()
    return house


def hashed(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def nothing(_table: Copied) -> None:
    """Hear of a table."""


def test_everything_is_there_afterwards_and_a_broker_starts_on_it(busy: House, cluster: Cluster) -> None:
    before, told = hashed(busy.installation.database), list[Copied]()
    copied, records = relocate(busy.installation, cluster, told.append)
    assert copied
    assert {one.table for one in told} == set(METADATA.tables)
    assert sum(one.rows for one in told) > records > 0
    assert hashed(busy.installation.database) == before
    schema.check(cluster)
    busy.installation = replace(busy.installation, cluster=cluster)
    busy.broker = busy.open()
    assert busy.record_named("data").current == 2
    assert len(busy.audit()) == records
    busy.addon("another")


def test_done_again_it_compares_and_changes_nothing(busy: House, cluster: Cluster) -> None:
    first = relocate(busy.installation, cluster, nothing)
    assert relocate(busy.installation, cluster, nothing) == (False, first[1])


def test_a_target_that_holds_something_else_is_left_alone(
    busy: House, cluster: Cluster, postgres: PostgresServer
) -> None:
    relocate(busy.installation, cluster, nothing)
    with postgres.as_superuser(cluster) as connection:
        connection.execute("UPDATE addons SET created = '2020-01-01T00:00:00.000000Z'")
    assert problem(lambda: relocate(busy.installation, cluster, nothing)) is Problem.EXISTS


def test_while_a_broker_serves_nothing_is_copied(busy: House, cluster: Cluster) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(busy.installation.unseal_socket))
        door.listen()
        assert problem(lambda: relocate(busy.installation, cluster, nothing)) is Problem.CONFLICT
    busy.installation.unseal_socket.unlink()
    with schema.engine(busy.installation.database).connect() as writer:
        writer.execute(text("BEGIN IMMEDIATE"))
        assert problem(lambda: relocate(busy.installation, cluster, nothing)) is Problem.CONFLICT
    assert schema.revision(cluster) is None


def test_what_is_cut_leaves_an_empty_target_and_is_begun_anew(busy: House, cluster: Cluster) -> None:
    class Cut(Exception):
        pass

    def cut(_table: Copied) -> None:
        raise Cut

    with pytest.raises(Cut):
        relocate(busy.installation, cluster, cut)
    assert schema.revision(cluster) is None
    assert relocate(busy.installation, cluster, nothing)[0]
