"""A broker that is ready to be asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from keybroker.store.places import Cluster
from tests.contract.broker_house import House
from tests.contract.postgres_cluster import PostgresServer, start_server
from tests.contract.softhsm import SoftToken, make_token


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Yield a broker with its first operator, in a directory of its own."""
    house = House(tmp_path)
    yield house
    house.broker.close()


@pytest.fixture(scope="session")
def soft_token(tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    """Return the one token of this process: a module is loaded, and reads where its tokens are, only once."""
    made = make_token(tmp_path_factory.mktemp("softhsm"))
    os.environ.update(made.environment)
    return made


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Yield the one PostgreSQL of this process."""
    server = start_server()
    yield server
    server.stop()


@pytest.fixture
def cluster(postgres: PostgresServer) -> Cluster:
    """Return an empty database in it."""
    return postgres.database()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Ask each engine, unless a test looks at the file that SQLite has."""
    if "engine_name" in metafunc.fixturenames:
        with_file = "database" in metafunc.fixturenames
        metafunc.parametrize("engine_name", ["sqlite"] if with_file else ["sqlite", "postgresql"])
