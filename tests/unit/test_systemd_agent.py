"""The agent's units: systemd itself reads them, rates them, and plans a boot with them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent import mountunits
from keybroker.wire.fields import Fields
from keybroker.wire.problems import Problem
from keybroker.wire.records import Record
from tests.contract.test_agent_broker import RECORD

UNITS = Path(__file__).parents[2] / "systemd"
UNLOCK = "keybroker-agent-unlock.service"
RENEW = "keybroker-agent-renew.service"
TARGET = "keybroker-volumes.target"
TIMER = "keybroker-agent-renew.timer"

# what `systemd-analyze security` still holds against the unit; each is explained in the unit
LOOSENED = {
    UNLOCK: {
        "CapabilityBoundingSet_CAP_IPC_LOCK", "CapabilityBoundingSet_CAP_SYS_ADMIN", "DeviceAllow",
        "IPAddressDeny", "PrivateDevices", "PrivateNetwork", "PrivateUsers", "ProcSubset",
        "RestrictAddressFamilies_AF_INET_INET6", "RestrictAddressFamilies_AF_NETLINK",
        "RestrictAddressFamilies_AF_UNIX", "RestrictAddressFamilies_OTHER", "SystemCallFilter_privileged",
        "SystemCallFilter_resources", "SystemCallFilter_swap", "UserOrDynamicUser",
    },
    RENEW: {
        "DeviceAllow", "IPAddressDeny", "PrivateNetwork", "PrivateUsers",
        "RestrictAddressFamilies_AF_INET_INET6", "RestrictAddressFamilies_AF_NETLINK",
        "RestrictAddressFamilies_AF_UNIX", "RootDirectoryOrRootImage", "UserOrDynamicUser",
    },
}  # fmt: skip


def lines(unit: str) -> dict[str, list[str]]:
    """Return a unit's settings, all values of each."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / unit).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A unit directory as an installation has it: our units, a volume's mount unit, a database's drop-ins."""
    programs = Path(sys.executable).parent
    for file in UNITS.iterdir():
        if file.suffix in (".service", ".target", ".timer"):
            text = file.read_text().replace("/opt/keybroker/bin", str(programs))
            (tmp_path / file.name).write_text(text)
    shutil.copytree(UNITS / "keybroker-agent-examples", tmp_path, dirs_exist_ok=True)
    record = Record.read(Fields(RECORD | {"mount": "/var/lib/postgresql"}))
    assert mountunits.install([record], tmp_path)
    return tmp_path


def verify(directory: Path, *units: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(directory / unit) for unit in units)],
        env={"PATH": os.environ["PATH"], "SYSTEMD_UNIT_PATH": f"{directory}:", "LANG": "C.UTF-8"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr + (f"status {done.returncode}" if done.returncode else "")


@pytest.mark.parametrize("unit", [UNLOCK, TARGET, RENEW, TIMER, r"var-lib-postgresql.mount"])
def test_systemd_reads_the_unit_without_a_word(installed: Path, unit: str) -> None:
    assert verify(installed, unit) == ""


def test_a_mistake_in_a_unit_would_be_seen(installed: Path) -> None:
    unit = installed / UNLOCK
    unit.write_text(unit.read_text().replace("RemainAfterExit=", "RemainAfterExjt="))
    assert "RemainAfterExjt" in verify(installed, UNLOCK)


@pytest.fixture
def booting(installed: Path) -> Path:
    """The same, with everything enabled and a database, below the system's own multi-user.target."""
    wants = installed / "multi-user.target.wants"
    wants.mkdir()
    (installed / "postgresql.service").write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n")
    for unit in (UNLOCK, TARGET, "postgresql.service"):
        (wants / unit).symlink_to(f"../{unit}")
    shutil.copy("/lib/systemd/system/multi-user.target", installed)
    return installed


def cycles(directory: Path) -> list[str]:
    return [line for line in verify(directory, "multi-user.target").splitlines() if "cycle" in line]


def test_a_boot_with_a_volume_and_its_database_has_no_ordering_cycle(booting: Path) -> None:
    """systemd drops a job to break a cycle and boots on, so that nobody would notice but by luck."""
    assert cycles(booting) == []


def test_an_ordering_cycle_would_be_seen(booting: Path) -> None:
    unit = booting / UNLOCK
    unit.write_text(unit.read_text().replace("Before=shutdown.target", "Before=local-fs.target", 1))
    assert cycles(booting) != []


@pytest.mark.parametrize(("unit", "exposure"), [(UNLOCK, "2.8"), (RENEW, "1.6")])
def test_the_exposure_is_what_it_was_and_every_loosened_line_is_known(unit: str, exposure: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    rated = subprocess.run([*command, UNITS / unit], capture_output=True, text=True, timeout=60, check=True)
    overall = re.search(r"Overall exposure level for \S+: ([0-9.]+)", rated.stdout)
    assert overall is not None
    assert overall[1] == exposure
    listed = subprocess.run(
        [*command, "--json=short", UNITS / unit], capture_output=True, text=True, timeout=60, check=True
    )
    assert {row["json_field"] for row in json.loads(listed.stdout) if row["set"] is False} == LOOSENED[unit]


def test_only_temporary_problems_are_tried_again() -> None:
    permanent = {str(problem.exit_status) for problem in Problem if not problem.temporary}
    assert set(lines(UNLOCK)["RestartPreventExitStatus"][0].split()) == permanent
    assert lines(UNLOCK)["Restart"] == ["on-failure"]
    assert lines(UNLOCK)["StartLimitIntervalSec"] == ["0"]


@pytest.mark.parametrize("unit", [UNLOCK, TARGET])
def test_nothing_but_shutdown_waits_for_the_unit(unit: str) -> None:
    found = lines(unit)
    assert found["DefaultDependencies"] == ["no"], "or multi-user.target would be ordered after it"
    assert found["Before"] == found["Conflicts"] == ["shutdown.target"]


def test_the_network_is_wanted_and_not_waited_for() -> None:
    found = lines(UNLOCK)
    assert found["Wants"] == ["network-online.target"]
    assert "network" not in " ".join(found["After"])


def test_the_unit_runs_what_the_agent_reads_fastest() -> None:
    assert lines(UNLOCK)["ExecStart"] == ["/opt/keybroker/bin/keybroker-agent unlock"]
    assert lines(UNLOCK)["ExecStop"] == ["/opt/keybroker/bin/keybroker-agent lock"]


@pytest.mark.parametrize("service", ["postgresql.service", "postgresql@.service"])
def test_a_database_starts_on_its_mount_or_not_at_all(service: str) -> None:
    found = lines(f"keybroker-agent-examples/{service}.d/keybroker.conf")
    assert found["RequiresMountsFor"] == found["AssertPathIsMountPoint"] == ["/var/lib/postgresql"]


def test_the_preset_enables_exactly_what_can_be_enabled() -> None:
    enabled = re.findall(r"^enable (\S+)$", (UNITS / "90-keybroker-agent.preset").read_text(), re.MULTILINE)
    installable = [
        file.name
        for file in UNITS.iterdir()
        if file.is_file() and "[Install]" in file.read_text() and file.name != "keybroker.service"
    ]
    assert sorted(enabled) == sorted(installable)


def test_the_directories_are_private(tmp_path: Path) -> None:
    done = subprocess.run(
        ["systemd-tmpfiles", f"--root={tmp_path}", "--create", UNITS / "keybroker-agent.tmpfiles.conf"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    for path in ("var/lib/keybroker-agent", "run/keybroker-agent", "run/cryptsetup"):
        assert (tmp_path / path).stat().st_mode & 0o777 == 0o700
