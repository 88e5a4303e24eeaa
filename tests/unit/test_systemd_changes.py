"""The units that change and prove volumes: what systemd reads in them, and what they may."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.unit.test_systemd_agent import RENEW, UNITS, UNLOCK, lines, verify
from tests.unit.test_systemd_agent import installed as installed

SETTLE, PROVE = "keybroker-agent-settle", "keybroker-agent-prove"

LOOSENED = {
    "CapabilityBoundingSet_CAP_IPC_LOCK", "CapabilityBoundingSet_CAP_SYS_ADMIN", "DeviceAllow",
    "IPAddressDeny", "PrivateDevices", "PrivateNetwork", "PrivateUsers", "ProcSubset",
    "RestrictAddressFamilies_AF_INET_INET6", "RestrictAddressFamilies_AF_NETLINK",
    "RestrictAddressFamilies_AF_UNIX", "RestrictAddressFamilies_OTHER", "RootDirectoryOrRootImage",
    "SystemCallFilter_resources", "UserOrDynamicUser",
}  # fmt: skip
"""What ``systemd-analyze security`` still holds against both units; each is explained in them."""

CHANGING = {"CapabilityBoundingSet_CAP_SYS_NICE_RESOURCE", "ProtectSystem", "SystemCallFilter_privileged"}
"""And against the one that lets a mounted filesystem grow, and has cryptsetup end with the agent."""


@pytest.mark.parametrize(
    "unit", [f"{name}.{kind}" for name in (SETTLE, PROVE) for kind in ("service", "timer")]
)
def test_systemd_reads_the_unit_without_a_word(installed: Path, unit: str) -> None:
    assert verify(installed, unit) == ""


@pytest.mark.parametrize(
    ("unit", "exposure", "loosened"), [(SETTLE, "2.7", LOOSENED | CHANGING), (PROVE, "2.4", LOOSENED)]
)
def test_the_exposure_is_what_it_was_and_every_loosened_line_is_known(
    unit: str, exposure: str, loosened: set[str]
) -> None:
    file = UNITS / f"{unit}.service"
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    rated = subprocess.run([*command, file], capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.findall(r"Overall exposure level for \S+: ([0-9.]+)", rated) == [exposure]
    listed = subprocess.run(
        [*command, "--json=short", file], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert {row["json_field"] for row in json.loads(listed) if row["set"] is False} == loosened


@pytest.mark.parametrize("unit", [SETTLE, PROVE])
def test_volumes_are_unlocked_before_and_closed_after(unit: str) -> None:
    """After= holds for stopping too, the other way round."""
    found = lines(f"{unit}.service")
    assert UNLOCK in found["After"][0].split()
    assert "DefaultDependencies" not in found


def test_changing_a_volume_may_take_days_and_proving_it_may_not() -> None:
    assert lines(f"{SETTLE}.service")["TimeoutStartSec"] == ["infinity"]
    assert lines(f"{PROVE}.service")["TimeoutStartSec"] == ["15min"]


def test_the_locks_outlive_a_run() -> None:
    found = lines(f"{SETTLE}.service")
    assert found["RuntimeDirectory"] == lines(UNLOCK)["RuntimeDirectory"]
    assert found["RuntimeDirectoryPreserve"] == ["yes"]


def test_proving_writes_to_no_disk_and_no_file() -> None:
    found = lines(f"{PROVE}.service")
    assert found["DeviceAllow"] == ["block-* r", "/dev/mapper/control rw"]
    assert not {"ReadWritePaths", "StateDirectory", "RuntimeDirectory"} & set(found)


def test_a_mounted_filesystem_can_grow() -> None:
    """ext4 wants the capability, and the kernel a mount that is not read-only in the unit's own namespace."""
    found = lines(f"{SETTLE}.service")
    assert "CAP_SYS_RESOURCE" in found["CapabilityBoundingSet"][0].split()
    assert found["ProtectSystem"] == ["full"]


def test_machines_made_from_one_image_do_not_ask_at_once() -> None:
    settle, prove = lines(f"{SETTLE}.timer"), lines(f"{PROVE}.timer")
    assert (settle["OnUnitInactiveSec"], settle["RandomizedDelaySec"]) == (["40s"], ["40s"])
    assert (prove["RandomizedDelaySec"], prove["Persistent"]) == (["12h"], ["yes"])
    assert prove["RandomizedDelaySec"] == lines(RENEW.replace("service", "timer"))["RandomizedDelaySec"]
