"""Each file of this tier has a throwaway installation of its own, CA included, and a running server on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tls.running import Broker, Host, running


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running broker with one add-on, ``shop``."""
    with running(tmp_path_factory.mktemp("broker")) as started:
        started.add_addon("shop")
        yield started


@pytest.fixture(scope="module")
def host(broker: Broker) -> Host:
    """A host of the add-on ``shop``."""
    return broker.enrol("shop")
