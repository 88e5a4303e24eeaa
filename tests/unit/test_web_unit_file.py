"""The broker's unit: systemd understands every line of it, and it stays as closed as it was."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "keybroker.service"
DROP_IN = SYSTEMD / "keybroker.service.d/master-key-credential.conf.example"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program at its ExecStart path, so that only the unit itself can be wrong."""
    program = tmp_path / "keybroker"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / "keybroker.service"
    copy.write_text(UNIT.read_text().replace("/opt/keybroker/bin/keybroker", str(program)))
    return copy


def verify(unit: Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_systemd_understands_every_line(unit: Path) -> None:
    # An unknown key is only printed, the status stays 0.
    assert verify(unit) == ""


def test_a_line_that_it_does_not_understand_would_be_seen(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("NoNewPrivileges=yes", "NoNewPrivileges=yes\nNoNewFriends=yes"))
    assert "NoNewFriends" in verify(unit)


def test_systemd_understands_the_drop_in(unit: Path) -> None:
    drop_ins = unit.with_name("keybroker.service.d")
    drop_ins.mkdir()
    (drop_ins / "credential.conf").write_text(DROP_IN.read_text())
    assert verify(unit) == ""


def exposure(unit: Path) -> float:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for keybroker\.service: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


def test_its_exposure_is_low(unit: Path) -> None:
    assert exposure(unit) <= 1.5


def test_a_start_on_a_busy_machine_is_not_cut_off() -> None:
    # In a VM whose host was overloaded, a start took more than the minute that it once had.
    assert "TimeoutStartSec=5min\n" in UNIT.read_text()


def test_the_program_named_is_the_installed_one() -> None:
    assert "ExecStart=/opt/keybroker/bin/keybroker serve\n" in UNIT.read_text()


def test_users_and_directories_are_made() -> None:
    done = subprocess.run(
        ["systemd-sysusers", "--dry-run", str(SYSTEMD / "keybroker.sysusers.conf")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (SYSTEMD / "keybroker.tmpfiles.conf").read_text().splitlines()
    made = {line.split()[1]: line.split()[2:5] for line in lines if line and not line.startswith("#")}
    assert made == {
        "/etc/keybroker": ["0700", "keybroker", "keybroker"],
        "/var/lib/keybroker": ["0700", "keybroker", "keybroker"],
        "/var/lib/keybroker/before-upgrade": ["0700", "keybroker", "keybroker"],
    }
