"""From the agent's start to open volumes, against cryptsetup and curl alone, on a real dm-crypt."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel import uml

pytestmark = pytest.mark.bench

ROOT = Path(__file__).parents[2]
MOST = 1.5


def install(directory: Path) -> Path:
    """Install the agent as README.md says, in a virtual environment of its own; return its command."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, "."],
        cwd=ROOT, check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    home = directory / "home"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", home], check=True)
    (wheel,) = directory.glob("*.whl")
    subprocess.run(
        [*pip, "--python", home / "bin/python", "install", "--no-deps", "--no-index", wheel], check=True
    )
    return home / "bin/keybroker-agent"


@pytest.mark.parametrize("volumes", [1, 8])
def test_unlock_against_cryptsetup_and_curl(volumes: int) -> None:
    with uml.run_directory() as run:
        agent, result = install(run), run / "result"
        command = [sys.executable, "-m", "tests.bench.unlocking", str(agent), str(volumes), str(result)]
        boot = uml.boot(command, run=run, directory=ROOT, limit_seconds=400)
        assert boot.status == 0, boot.console[-6000:]
        rounds = json.loads(result.read_text())
    ratio = statistics.median(ours / bare for ours, bare in rounds)
    ours, bare = (statistics.median(column) * 1e3 for column in zip(*rounds, strict=True))
    print(f"\nunlock of {volumes}: {ratio:.2f} of curl and cryptsetup ({ours:.0f} ms against {bare:.0f} ms)")
    assert ratio <= MOST
