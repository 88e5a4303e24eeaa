"""Opening a volume from a checked header in memory, on the kernel's own dm-crypt."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import devicemapper
from agent.devices import OpenDevice, open_device
from agent.luks import cryptsetup, table
from agent.luks.copy import memfd
from agent.luks.header import Header, read_header
from agent.process import ToolFailed
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import first_profile
from keybroker.wire.secret import passphrase
from tests.kernel.disks import fingerprint, image, loop

pytestmark = pytest.mark.kernel

KEY = passphrase(b"the-key-that-no-process-table-may-show-1234")
OTHER = passphrase(b"B" * 43)
UUID = "0f2d3c1a-5b6e-4d7c-8f90-a1b2c3d4e5f6"
NAME = "kb-data-0f2d3c1a"
STABLE = "kb-data"


class Volume:
    """A blank disk and a header for it that exists only in memory."""

    def __init__(self, disk: OpenDevice, header: Header, header_fd: int) -> None:
        self.disk, self.header, self.header_fd = disk, header, header_fd

    def open(self, **changes: object) -> bool:
        wanted = {"header_fd": self.header_fd, "keyslot": 0, "key": KEY} | changes
        return cryptsetup.open_volume(self.disk, NAME, **wanted)  # type: ignore[arg-type]


@pytest.fixture(params=[512, 4096])
def volume(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Volume]:
    with made(tmp_path, request.param) as volume:
        yield volume


@contextmanager
def made(tmp_path: Path, sector_size: int) -> Iterator[Volume]:
    composed = cryptsetup.compose(
        Path("/run"), KEY, uuid=UUID, label="kb-test", profile=first_profile("aes-xts-plain64"),
        sector_size=sector_size, volume=VolumeId("kbv-q3m5x7abcdef"), version=KeyVersion(1),
    )  # fmt: skip
    fd = memfd(composed)
    with (
        loop(image(tmp_path / "disk")) as device,
        open_device(device, serial="kbv-q3m5x7abcdef", overridden=True) as disk,
    ):
        try:
            yield Volume(disk, read_header(composed.read, composed.total), fd)
        finally:
            devicemapper.remove(STABLE)
            cryptsetup.close(NAME)
            os.close(fd)


def test_opens_from_the_sealed_copy_with_exactly_the_table_that_was_meant(volume: Volume) -> None:
    assert volume.open()
    device = volume.disk.device
    found = devicemapper.table(NAME)
    assert found is not None
    table.check_crypt_table(found, table.meant(volume.header, device.node, device.size_bytes))
    assert devicemapper.uuid(NAME) == f"CRYPT-LUKS2-{UUID.replace('-', '')}-{NAME}"


def test_a_wrong_key_is_an_answer_and_maps_nothing(volume: Volume) -> None:
    assert not volume.open(key=OTHER)
    assert devicemapper.mapped() == {}


def test_an_empty_keyslot_is_a_failure_and_maps_nothing(volume: Volume) -> None:
    with pytest.raises(ToolFailed) as caught:
        volume.open(keyslot=2)
    assert caught.value.status == 1
    assert devicemapper.mapped() == {}


def test_a_name_that_is_taken_is_refused(volume: Volume) -> None:
    assert volume.open()
    with pytest.raises(KeybrokerError) as caught:
        volume.open()
    assert caught.value.problem is Problem.EXISTS


def test_opening_and_closing_leaves_the_disk_as_it_was(volume: Volume) -> None:
    before = fingerprint(volume.disk.device.path)
    assert volume.open()
    cryptsetup.close(NAME)
    assert fingerprint(volume.disk.device.path) == before


def test_closing_what_is_not_open_is_fine() -> None:
    cryptsetup.close("kb-nothing")
    devicemapper.remove("kb-nothing")


def test_what_is_written_through_it_is_not_on_the_disk(volume: Volume) -> None:
    words = b"a row that nobody may find on the disk" * 100
    assert volume.open()
    with devicemapper.path(NAME).open("wb") as mapped:
        mapped.write(words)
        os.fsync(mapped.fileno())
    raw = volume.disk.device.path.read_bytes()
    assert words[:38] not in raw
    assert any(raw[4 << 20 :]), "nothing reached the disk: this test shows nothing"


def test_the_stable_name_is_a_linear_device_with_our_uuid(volume: Volume) -> None:
    assert volume.open()
    crypt = devicemapper.mapped()[NAME]
    sectors = (volume.disk.device.size_bytes - volume.header.data_offset) // 512
    devicemapper.create_linear(STABLE, uuid="KEYBROKER-kbv-1", below=crypt.node, sectors=sectors)
    found = devicemapper.table(STABLE)
    assert found is not None
    table.check_linear_table(found, table.LinearTable(sectors=sectors, device=crypt.node))
    assert devicemapper.uuid(STABLE) == "KEYBROKER-kbv-1"
    assert devicemapper.path(STABLE).is_block_device()
    with pytest.raises(KeybrokerError) as caught:
        devicemapper.create_linear("kb-other", uuid="KEYBROKER-kbv-1", below=crypt.node, sectors=sectors)
    assert caught.value.problem is Problem.EXISTS
    with pytest.raises(KeybrokerError) as caught:
        cryptsetup.close(NAME)
    assert caught.value.problem is Problem.WRONG_DEVICE
    assert "is in use by /dev/dm-" in caught.value.detail


def test_a_mounted_device_is_not_removed_and_the_mount_is_named(tmp_path: Path) -> None:
    with made(tmp_path, 4096) as volume:
        assert volume.open()
        subprocess.run(["mkfs.ext4", "-q", devicemapper.path(NAME)], check=True)
        point = tmp_path / "mnt"
        point.mkdir()
        subprocess.run(["mount", devicemapper.path(NAME), point], check=True)
        try:
            with pytest.raises(KeybrokerError, match=f"in use by the mount on {point}"):
                cryptsetup.close(NAME)
            with pytest.raises(KeybrokerError, match=f"in use by the mount on {point}"):
                devicemapper.remove(NAME)
        finally:
            subprocess.run(["umount", point], check=True)


def test_no_key_is_seen_by_who_watches_the_process_table_or_reads_the_tables(tmp_path: Path) -> None:
    secret = KEY.reveal()
    seen: list[bytes] = []
    met = 0
    stop = threading.Event()

    def look() -> None:
        nonlocal met
        while not stop.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        text = (process / name).read_bytes()
                    except OSError:
                        continue
                    met += text.startswith(b"cryptsetup\0open")
                    if secret in text:
                        seen.append(text)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        with made(tmp_path, 4096) as volume:
            for _ in range(5):
                assert volume.open()
                shown = subprocess.run(
                    ["dmsetup", "table", "--showkeys", NAME], check=True, capture_output=True
                )
                assert b":64:logon:" in shown.stdout
                cryptsetup.close(NAME)
    finally:
        stop.set()
        watcher.join()
    assert met, "the watcher never met cryptsetup: this test shows nothing"
    assert seen == []
