"""Breaks one guard after the other in a copy of the tree, and runs the tests that have to fail then.

    make mutants                        every guard
    … -m tests.mutation.breaking TEXT   those whose file or text has TEXT in it

What survives is a hole: write the test that kills it. What keeps the tests from running at all, such as a
broken import, shows nothing of them and is an error: break the guard in another way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.mutation.guards import GUARDS, Guard

ROOT: Final = Path(__file__).parents[2]

PARTS: Final = ("agent", "keybroker", "tests", "pyproject.toml", "systemd", "docs", "README.md")
"""What the tests need of the tree."""

SECONDS: Final = 300
"""The most that one guard's tests may take. A test that hangs fails long before, by its own limit."""


def copied(to: Path) -> Path:
    """Copy the tree, without what was compiled: a stale file there would hide what was broken."""
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif source.exists():
            shutil.copy(source, to / name)
    return to


class NotRunError(Exception):
    """Tests neither passed nor failed: there are none, or an import failed, or they did not end."""


def passes(tree: Path, tests: Sequence[str]) -> bool:
    """Run tests in a copy, and say whether all of them passed.

    Raises:
        NotRunError: pytest ended with another status than 0, all passed, and 1, some failed; with the end of
            what it said.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NotRunError(f"not at an end after {SECONDS} s") from error
    if done.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise NotRunError(f"pytest's status is {done.returncode}\n{done.stdout.decode()[-2000:]}")
    return done.returncode == pytest.ExitCode.OK


def survives(tree: Path, guard: Guard) -> bool:
    """Break a guard, and say whether no test of its own notices; the copy is whole again afterwards.

    Raises:
        NotRunError: as for ``passes``.
    """
    file = tree / guard.file
    whole = file.read_text()
    file.write_text(whole.replace(guard.text, guard.broken, 1))
    try:
        return passes(tree, guard.tests)
    finally:
        file.write_text(whole)


def outcome(tree: Path, guard: Guard) -> str:
    """Break a guard, and say in a word how that ended: killed, SURVIVES or ERROR."""
    try:
        return "SURVIVES" if survives(tree, guard) else "killed"
    except NotRunError as error:
        print(error, flush=True)
        return "ERROR"


def chosen(text: str) -> tuple[Guard, ...]:
    """Return the guards whose file or text has ``text`` in it."""
    return tuple(guard for guard in GUARDS if text in guard.file or text in guard.text)


def main(text: str = "") -> int:
    """Break what is chosen; return 0 where a test fails for each, and with nothing broken none does."""
    guards = chosen(text)
    with tempfile.TemporaryDirectory() as directory:
        tree = copied(Path(directory))
        for tests in dict.fromkeys(guard.tests for guard in guards):
            if not passes(tree, tests):
                print(f"these fail with nothing broken: {' '.join(tests)}")
                return 1
        words = []
        for guard in guards:
            began = time.monotonic()
            words.append(outcome(tree, guard))
            line = guard.text.strip().splitlines()[0][:70]
            print(f"{words[-1]:8} {time.monotonic() - began:4.0f} s  {guard.file}: {line}", flush=True)
    noticed, survivors, errors = (words.count(word) for word in ("killed", "SURVIVES", "ERROR"))
    print(f"{len(guards)} guards broken, {noticed} noticed, {survivors} not, {errors} errors")
    return 0 if noticed == len(guards) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
