"""Started by root, the local verbs go on as whoever owns the installation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from pathlib import Path
from keybroker.cli.local import become_owner
become_owner(Path(sys.argv[1]))
print(os.getresuid(), os.getresgid(), os.getgroups())
"""


def after(config: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(config)], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(("owner", "group"), [(65534, 65534), (1, 2)])
def test_root_becomes_the_owner_for_good(tmp_path: Path, owner: int, group: int) -> None:
    assert os.geteuid() == 0, "this tier is run as root"
    config = tmp_path / "keybroker.toml"
    config.touch()
    os.chown(config, owner, group)
    assert after(config) == f"({owner}, {owner}, {owner}) ({group}, {group}, {group}) []"


def test_roots_own_installation_is_served_by_root(tmp_path: Path) -> None:
    config = tmp_path / "keybroker.toml"
    config.touch()
    assert after(config).startswith("(0, 0, 0)")
