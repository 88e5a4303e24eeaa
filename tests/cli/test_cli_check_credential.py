"""``keybroker check`` where the master key is a credential, which only systemd has."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from tests.tls.running import run_cli


def test_without_the_credential_check_says_which_command_has_it(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "master").write_bytes(os.urandom(32))
    (credentials / "master").chmod(0o400)
    given = {"CREDENTIALS_DIRECTORY": str(credentials)}
    made = run_cli(
        "init", "--ip", "127.0.0.1", "--operator", "alice", "--master-key", "credential:master",
        "--config-dir", str(tmp_path / "etc"), "--state-dir", str(tmp_path / "var"), **given,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    config = ("--config", str(tmp_path / "etc/keybroker.toml"))
    assert run_cli("check", *config, **given).returncode == 0
    without = run_cli("check", *config)
    assert without.returncode == 78
    assert without.stderr == (
        f"keybroker: hint: systemd-run --pipe --wait -q -p User={getpass.getuser()}"
        f" -p LoadCredentialEncrypted=master keybroker check --config {config[1]}\n"
    )
    recovery = run_cli("operator", "recover", "bob", *config)
    assert recovery.returncode == 78
    assert recovery.stderr.endswith(f"master keybroker operator recover bob --config {config[1]}\n")
    assert run_cli("operator", "recover", "bob", *config, **given).returncode == 0
