"""Mount points that a machine needs before it can open anything: declared, they would cost a boot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import mountunits
from keybroker.service.views import VolumeSpec
from keybroker.service.volumes import read_spec
from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB
from keybroker.wire.records import Record
from tests.contract.test_agent_broker import RECORD
from tests.unit.test_systemd_agent import booting, cycles, installed

__all__ = ["booting", "installed"]

NEEDED = [
    "/boot", "/dev/shm", "/etc", "/etc/systemd/system", "/opt", "/opt/keybroker", "/proc/x", "/run/x",
    "/sys/x", "/tmp", "/usr", "/var", "/var/lib", "/var/lib/keybroker-agent", "/var/log",
    "/var/log/journal", "/var/tmp",
]  # fmt: skip
FREE = ["/var/lib/postgresql", "/srv", "/srv/data", "/home", "/opt/app", "/var/log/postgresql", "/data"]


def spec(mount: str) -> VolumeSpec:
    return VolumeSpec(64 * MIB, "aes-xts-plain64", mount, "ext4")


def unordered(directory: Path, mount: str) -> Iterator[str]:
    mountunits.install([Record.read(Fields(RECORD | {"mount": mount}))], directory)
    yield from cycles(directory)


@pytest.mark.parametrize("mount", NEEDED)
def test_a_volume_is_not_declared_where_the_machine_needs_the_directory_to_open_it(mount: str) -> None:
    with pytest.raises(KeybrokerError) as caught:
        read_spec("data", spec(mount))
    assert caught.value.problem is Problem.MALFORMED
    assert "mount" in caught.value.detail


@pytest.mark.parametrize("mount", FREE)
def test_elsewhere_it_is_and_systemd_can_order_the_boot(booting: Path, mount: str) -> None:
    read_spec("data", spec(mount))
    assert list(unordered(booting, mount)) == []


@pytest.mark.parametrize("mount", ["/var", "/tmp", "/var/log", "/opt"])
def test_systemd_could_not_order_a_boot_with_the_others(booting: Path, mount: str) -> None:
    """It would drop a job, perhaps the unlocking itself, and say so in one line of the journal."""
    assert list(unordered(booting, mount)) != []
