"""Files and disks that somebody else wrote to, or nobody finished: none of it stops a boot or is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent import devices, mountunits, swap
from agent.broker.connection import Credentials, trust
from agent.devices import open_device
from agent.driver import Boot, Driver
from agent.inscription import SECTOR
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from tests.crash.memory_world import MemoryWorld
from tests.crash.volumes import record
from tests.kernel.disks import MIB, fingerprint, image, loop

BOOT = Boot("1b4e28ba-2fa1-41d2-883f-0016d3cca427", "0" * 32, "0.1.0")
VOLUME = VolumeId("kbv-q3m5x7abcdef")
SERIAL = "kbv-q3m5x7abcdef"
RECORD = replace(record(), mount="/srv/data")


def test_a_unit_of_somebody_else_that_is_not_utf_8_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "home.mount").write_bytes(b"[Unit]\nDescription=B\xfccher\n")
    assert mountunits.install([RECORD], tmp_path)
    assert (tmp_path / "srv-data.mount").is_file()


@pytest.mark.parametrize(
    "text", ["[Mount]\nWhat=/dev/mapper/kb-data\nWhere=/srv/data\nOptions=noatime\n", "\xfc"]
)
def test_a_mount_unit_that_an_operator_wrote_for_the_volume_stays(tmp_path: Path, text: str) -> None:
    unit = tmp_path / "srv-data.mount"
    unit.write_text(text, encoding="latin-1")
    before = unit.read_bytes()
    mountunits.install([RECORD], tmp_path)
    assert unit.read_bytes() == before
    assert not mountunits.install([RECORD], tmp_path)


def test_a_mount_unit_that_an_operator_masked_stays_masked(tmp_path: Path) -> None:
    (tmp_path / "srv-data.mount").symlink_to("/dev/null")
    mountunits.install([RECORD], tmp_path)
    assert (tmp_path / "srv-data.mount").is_symlink()


def test_a_broken_cache_and_no_broker_take_no_mount_units_away() -> None:
    """What is not known any more, and cannot be asked for, is no reason to forget it for good."""
    memory = MemoryWorld([record()])
    memory.broker.reachable = False
    kept: list[object] = []
    report = Driver(memory.world(), BOOT, keep=kept.append).unlock(())
    assert report.error is not None
    assert kept == []


def test_the_paths_of_an_nvme_disk_are_not_taken_for_disks(tmp_path: Path) -> None:
    """With native multipath each controller shows a hidden disk of its own, without a node in /dev."""
    block = tmp_path / "class/block"
    for name in ("nvme0n1", "nvme0c0n1", "nvme0c1n1"):
        (block / name / "device").mkdir(parents=True)
        (block / name / "device/serial").write_text(f"{SERIAL}\n")
        (block / name / "hidden").write_text("0\n" if name == "nvme0n1" else "1\n")
    assert devices.find(SERIAL, sys=tmp_path, dev=tmp_path / "dev") == tmp_path / "dev/nvme0n1"


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    disk = image(tmp_path / "disk")
    with (
        loop(disk) as path,
        open_device(path, serial=SERIAL, overridden=True, writable=True) as opened,
    ):
        swap.mark(opened, VOLUME)
    return disk


@pytest.mark.parametrize("offset", [4096, 64 << 10, MIB - SECTOR])
def test_a_marked_disk_that_became_somebody_elses_is_no_swap_any_more(marked: Path, offset: int) -> None:
    """MD and bcache have their superblock at 4 KiB, btrfs at 64 KiB: the mark before it may survive."""
    with marked.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xfc\x4e\x2b\xa9")
    before = fingerprint(marked)
    with loop(marked) as path, open_device(path, serial=SERIAL, overridden=True) as disk:
        with pytest.raises(KeybrokerError) as caught:
            swap.check(disk, VOLUME)
        assert caught.value.problem is Problem.WRONG_DEVICE
    assert fingerprint(marked) == before


@pytest.mark.parametrize("ca", ["", "\xfc", "-----BEGIN CERTIFICATE-----\n"], ids=["empty", "no text", "cut"])
def test_a_ca_file_that_cannot_be_read_is_told_as_such(ca: str) -> None:
    with pytest.raises(KeybrokerError) as caught:
        trust(Credentials(ca))
    assert caught.value.problem is Problem.CERTIFICATE
