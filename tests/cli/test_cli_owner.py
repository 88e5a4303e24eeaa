"""Started by root, the local verbs go on as whoever owns the installation."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.tls.running import install, run_cli

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


def test_a_backup_is_made_as_the_owner_and_kept_where_only_root_may_write() -> None:
    """In a directory that another user gets to, which pytest's own is not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        _back_up(Path(made))


def _back_up(tmp_path: Path) -> None:
    broker = install(tmp_path)
    tmp_path.chmod(0o755)
    for path in (tmp_path / "config", tmp_path / "state"):
        for each in (path, *path.rglob("*")):
            os.chown(each, 65534, 65534)
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o700)
    recipient = "age1gs95vxqyzued5lgmklq7kzqefqw8erhr0ve672pv2nqxjerfmf0swwwx4l"
    done = run_cli(
        "backup", str(kept / "broker.age"), "--recipient", recipient, "--config", str(broker.config)
    )
    assert done.returncode == 0, done.stderr
    assert (kept / "broker.age").stat().st_uid == 0
    assert {each.stat().st_uid for each in (tmp_path / "state").rglob("*")} == {65534}


def test_roots_own_installation_is_served_by_root(tmp_path: Path) -> None:
    config = tmp_path / "keybroker.toml"
    config.touch()
    assert after(config).startswith("(0, 0, 0)")
