"""Breaks one guard after the other in a copy of the tree, and runs the tests that have to fail then.

    make mutants                        every guard
    … -m tests.mutation.breaking TEXT   those whose file or text has TEXT in it

What survives is a hole: write the test that kills it.
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

from tests.mutation.guards import GUARDS, Guard

ROOT: Final = Path(__file__).parents[2]

PARTS: Final = ("agent", "keybroker", "tests", "pyproject.toml", "systemd", "docs", "README.md")
"""What the tests need of the tree."""

SECONDS: Final = 300
"""The most that one guard's tests may take; a test that hangs has noticed it, too."""


def copied(to: Path) -> Path:
    """Copy the tree, without what was compiled: a stale file there would hide what was broken."""
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif source.exists():
            shutil.copy(source, to / name)
    return to


def passes(tree: Path, tests: Sequence[str]) -> bool:
    """Run tests in a copy, and say whether all of them passed.

    Raises:
        RuntimeError: there was none.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1, 2):
        raise RuntimeError(done.stdout.decode()[-2000:])
    return done.returncode == 0


def survives(tree: Path, guard: Guard) -> bool:
    """Break a guard, and say whether no test of its own notices; the copy is whole again afterwards."""
    file = tree / guard.file
    whole = file.read_text()
    file.write_text(whole.replace(guard.text, guard.broken, 1))
    try:
        return passes(tree, guard.tests)
    finally:
        file.write_text(whole)


def chosen(text: str) -> tuple[Guard, ...]:
    """Return the guards whose file or text has ``text`` in it."""
    return tuple(guard for guard in GUARDS if text in guard.file or text in guard.text)


def main(text: str = "") -> int:
    """Break what is chosen; return 1 where something survives, or where the tests fail as it is."""
    guards = chosen(text)
    with tempfile.TemporaryDirectory() as directory:
        tree = copied(Path(directory))
        for tests in dict.fromkeys(guard.tests for guard in guards):
            if not passes(tree, tests):
                print(f"these fail with nothing broken: {' '.join(tests)}")
                return 1
        survivors = 0
        for guard in guards:
            began = time.monotonic()
            survived = survives(tree, guard)
            survivors += survived
            word = "SURVIVES" if survived else "killed"
            line = guard.text.strip().splitlines()[0][:70]
            print(f"{word:8} {time.monotonic() - began:4.0f} s  {guard.file}: {line}", flush=True)
    print(f"{len(guards)} guards broken, {len(guards) - survivors} noticed, {survivors} not")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
