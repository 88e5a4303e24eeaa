"""What holds for every test: the cheap tiers first, a time limit each, and no skipping where it counts."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import pytest
from _pytest.terminal import TerminalReporter
from hypothesis import settings

HERE: Final = Path(__file__).parent

# a busy machine is no defect of what is tested
settings.register_profile("house", deadline=None)
settings.load_profile("house")

TIERS: Final = ("unit", "contract", "header", "crash", "tls", "cli", "failover", "kernel", "machine", "bench")
"""In the order in which they run: what fails fast fails first."""

LIMITS_SECONDS: Final = {"failover": 300, "kernel": 600, "machine": 900, "bench": 900}
OTHER_LIMIT_SECONDS: Final = 120


MEMORY: Final = Path("/dev/shm")
ROOM_BYTES: Final = 8 << 30


def is_roomy(memory: Path) -> bool:
    """Say whether the tests' files may be in memory: they sync thousands of times, which a disk delays."""
    return memory.is_mount() and shutil.disk_usage(memory).free >= ROOM_BYTES


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips", action="store_true", help="a skipped test fails the run: nobody looks at a skip in CI"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.option.basetemp is None and not hasattr(config, "workerinput") and is_roomy(MEMORY):
        config.option.basetemp = tempfile.mkdtemp(prefix="keybroker-tests-", dir=MEMORY)
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))
    config.addinivalue_line("markers", "limit(seconds): how long this test may take, fixtures included")


def tier(path: Path) -> str:
    """Return the folder of tests/ that a test file is in."""
    return path.relative_to(HERE).parts[0] if path.is_relative_to(HERE) else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(TIERS)}
    items.sort(key=lambda item: order.get(tier(item.path), len(TIERS)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Raise in a test that takes too long; faulthandler ends the run of one that does not listen."""
    marked = item.get_closest_marker("limit")
    seconds = marked.args[0] if marked else LIMITS_SECONDS.get(tier(item.path), OTHER_LIMIT_SECONDS)

    def too_long(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the test took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--no-skips") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


TELLING: Final = ("header", "crash", "failover", "kernel", "machine")
"""Tiers whose tests print counts, seeds and measured times, which are to be seen although they passed."""


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print what tests that passed have to tell; of those that failed pytest prints it anyway."""
    said = [
        (report.nodeid, line)
        for report in terminalreporter.getreports("passed")
        if report.when == "call" and tier(HERE.parent / report.nodeid.partition("::")[0]) in TELLING
        for title, text in report.sections
        if title == "Captured stdout call"
        for line in text.splitlines()
        if line.strip()
    ]
    if said:
        terminalreporter.section("told")
    for nodeid, line in said:
        terminalreporter.write_line(f"{nodeid.rpartition('::')[2]}: {line}")
