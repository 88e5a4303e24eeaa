"""A broker that is ready to be asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.broker_house import House
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
