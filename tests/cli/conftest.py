"""One running broker for the whole tier, and transcripts that are compared with the golden ones.

pytest tests/cli --golden-write      write the golden transcripts anew; then read the difference
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.transcript import Transcript
from tests.tls.running import Broker, running


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-write", action="store_true", help="write golden transcripts anew")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture
def transcript(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Transcript]:
    """Yield a transcript that is compared when the test is over; its name is the test's."""
    name = request.node.name.removeprefix("test_")
    made = Transcript(name, broker, write=request.config.getoption("--golden-write", default=False))
    yield made
    made.compare()
