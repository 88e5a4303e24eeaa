"""Tests in this directory run inside User-Mode Linux, which has device-mapper; outside they only appear to.

Outside, pytest collects them as usual, but running the first test of a file boots one kernel that runs all
chosen tests of that file, and their reports are handed on as if they had been made here: one inner test, one
outer result, with the same failure text. Inside (KB_INSIDE is set), it is plain pytest, as root, on a
kernel of its own: loop devices, dm-crypt, mounts and swap are all free to use and gone afterwards.

A test file here needs nothing special, only ``pytestmark = pytest.mark.kernel``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from tests.kernel import uml

ROOT: Final = Path(__file__).parents[3]
INSIDE: Final = os.environ.get("KB_INSIDE")
LIMIT_SECONDS: Final = 420
CONSOLE_TAIL: Final = 6000

_reports: dict[Path, dict[str, list[pytest.TestReport]]] = {}
_console: dict[Path, str] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Inside: write each report to the host at once, so that a kernel that dies later loses nothing."""
    report = yield
    if INSIDE is not None:
        data = item.config.hook.pytest_report_to_serializable(config=item.config, report=report)
        with (Path(INSIDE) / "reports").open("a") as file:
            file.write(json.dumps(data) + "\n")
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Outside: hand on what the kernel's pytest reported of this test."""
    # pytest asks every conftest it has read about every test, not only about those beside it
    if INSIDE is not None or Path(__file__).parent not in item.path.parents:
        return None
    if item.path not in _reports:
        chosen = [other for other in item.session.items if other.path == item.path]
        _run_inside(item.path, chosen)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = _reports[item.path].get(item.nodeid, [])
    if not reports or reports[-1].when != "teardown":  # the kernel died in it, or before it
        reports = [*reports, _never_ended(item)]
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _run_inside(path: Path, items: list[pytest.Item]) -> None:
    with uml.run_directory() as run:
        command = [
            "/usr/bin/env", f"KB_INSIDE={run}",
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
            "--basetemp", "/tmp/pytest", "--rootdir", str(ROOT),
            *(item.nodeid for item in items),
        ]  # fmt: skip
        boot = uml.boot(command, run=run, directory=ROOT, limit_seconds=LIMIT_SECONDS)
        _console[path] = boot.console
        _reports[path] = {}
        written = run / "reports"
        for line in written.read_text().splitlines() if written.exists() else []:
            report = items[0].config.hook.pytest_report_from_serializable(
                config=items[0].config, data=json.loads(line)
            )
            if isinstance(report.longrepr, list):  # JSON made a list of a skip's tuple
                report.longrepr = tuple(report.longrepr)
            _reports[path].setdefault(report.nodeid, []).append(report)


def _never_ended(item: pytest.Item) -> pytest.TestReport:
    tail = _console[item.path][-CONSOLE_TAIL:]
    return pytest.TestReport(
        nodeid=item.nodeid, location=item.location, keywords={}, when="call", outcome="failed",
        longrepr=f"the kernel ended before this test did; the end of its console:\n{tail}",
    )  # fmt: skip
