"""A filesystem is checked when the volume is open and made, not while it is being made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agent import mountunits
from keybroker.wire.fields import Fields
from keybroker.wire.records import Record
from tests.contract.test_agent_broker import RECORD


def record() -> Record:
    return replace(Record.read(Fields(RECORD)), filesystem="ext4", mount="/srv/data")


def test_the_check_that_the_mount_requires_waits_for_the_unlocking(tmp_path: Path) -> None:
    volume = record()
    assert mountunits.install([volume], tmp_path)
    name = mountunits.unit_name(f"/dev/mapper/kb-{volume.name}", "service")
    check = f"systemd-fsck@{name}"
    mount = (tmp_path / "srv-data.mount").read_text()
    assert f"Requires={check}\n" in mount
    # else the stable name's appearing starts it, which is before a new volume has its filesystem
    assert "After=keybroker-agent-unlock.service\n" in (tmp_path / f"{check}.d/keybroker.conf").read_text()


def test_it_goes_with_the_volume(tmp_path: Path) -> None:
    mountunits.install([record()], tmp_path)
    assert mountunits.install([], tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()] == []
