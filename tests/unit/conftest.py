"""A broker that is ready to be asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.broker_house import House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Yield a broker with its first operator, in a directory of its own."""
    house = House(tmp_path)
    yield house
    house.broker.close()
