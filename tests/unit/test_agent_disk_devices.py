"""Finding a disk by what it says of itself, on made-up sysfs trees; holding it, on loop devices."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent import devices
from agent.devices import BlockDevice, find, open_device
from agent.places import Places
from agent.search import Search
from keybroker.wire.problems import KeybrokerError, Problem
from tests.crash.volumes import record
from tests.kernel.disks import MIB, image, loop

SERIAL = "kbv-q3m5x7abcdef"


class Machine:
    """A /sys and a /dev with only what the search reads."""

    def __init__(self, root: Path) -> None:
        self.sys, self.dev = root / "sys", root / "dev"
        (self.sys / "class/block").mkdir(parents=True)
        self.dev.mkdir()

    def disk(self, name: str, files: dict[str, bytes]) -> None:
        for path, held in files.items():
            file = self.sys / "class/block" / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(held)
        (self.dev / name).touch()

    def virtio(self, name: str, serial: str = SERIAL) -> None:
        self.disk(name, {"serial": serial.encode()})

    def link(self, link: str, name: str) -> None:
        (self.dev / "disk/by-id").mkdir(parents=True, exist_ok=True)
        (self.dev / "disk/by-id" / link).symlink_to(f"../../{name}")

    def find(self, serial: str = SERIAL) -> Path | None:
        return find(serial, sys=self.sys, dev=self.dev)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("vdb", {"serial": SERIAL.encode()}),
        ("vdb", {"serial": SERIAL.encode() + b"\n"}),
        ("nvme0n1", {"device/serial": SERIAL.encode().ljust(20) + b"\n"}),
        ("sdb", {"device/vpd_pg80": b"\0\x80\0\x10" + SERIAL.encode()}),
        ("sdb", {"device/vpd_pg80": b"\0\x80\0\x14" + SERIAL.encode().rjust(20)}),
    ],
    ids=["virtio", "virtio with a newline", "NVMe", "SCSI", "SCSI, filled with blanks"],
)
def test_finds_a_disk_where_its_kind_tells_the_serial(
    machine: Machine, name: str, files: dict[str, bytes]
) -> None:
    machine.virtio("vda", "the-system-disk")
    machine.disk(name, files)
    assert machine.find() == machine.dev / name


def test_a_name_means_nothing_where_disks_come_up_in_another_order(machine: Machine) -> None:
    machine.virtio("vdb", "kbv-anotherdisk2")
    machine.virtio("vdc", SERIAL)
    assert machine.find() == machine.dev / "vdc"


@pytest.mark.parametrize("near", ["", SERIAL[:-1], SERIAL + "2", SERIAL.upper(), "x" + SERIAL])
def test_a_serial_that_is_nearly_right_is_another_disk(machine: Machine, near: str) -> None:
    machine.virtio("vdb", near)
    assert machine.find() is None


def test_two_disks_of_one_serial_are_refused_and_both_named(machine: Machine) -> None:
    machine.virtio("vdb")
    machine.disk("sdc", {"device/vpd_pg80": b"\0\x80\0\x10" + SERIAL.encode()})
    with pytest.raises(KeybrokerError) as caught:
        machine.find()
    assert caught.value.problem is Problem.WRONG_DEVICE
    assert f"{machine.dev}/sdc and {machine.dev}/vdb both have it" in caught.value.detail


def test_a_search_looks_at_all_disks_once_and_anew_for_what_it_does_not_know(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []
    serials = devices.serials

    def look(sys: Path) -> Iterator[tuple[str, str]]:
        looks.append(sys)
        return serials(sys)

    monkeypatch.setattr(devices, "serials", look)
    search = Search(sys=machine.sys, dev=machine.dev)
    assert search(SERIAL) is None
    machine.virtio("vdb")
    machine.virtio("vdc", "kbv-anotherdisk2")
    for _ in range(3):
        assert search(SERIAL) == machine.dev / "vdb"
        assert search("kbv-anotherdisk2") == machine.dev / "vdc"
    assert len(looks) == 2
    search.forget()
    machine.virtio("vdd")
    for _ in range(2):
        with pytest.raises(KeybrokerError, match=r"vdb and .*vdd both have it"):
            search(SERIAL)
    assert len(looks) == 4


def test_a_disk_that_moved_is_refused_and_then_found_where_it_is(machine: Machine) -> None:
    data = replace(record(), device=None, serial=SERIAL)
    machine.virtio("vdb")
    places = Places(find=Search(sys=machine.sys, dev=machine.dev))
    assert places.find(SERIAL) == machine.dev / "vdb"
    (machine.dev / "vdb").unlink()
    shutil.rmtree(machine.sys / "class/block/vdb")
    machine.virtio("vdc")
    for problem, name in ((Problem.NO_DEVICE, "vdb"), (Problem.WRONG_DEVICE, "vdc")):
        with pytest.raises(KeybrokerError, match=name) as caught, places.open(data):
            pass
        assert caught.value.problem is problem  # vdc is a plain file here: found, and no block device


def test_a_partition_is_never_found_though_it_shows_its_disks_serial(machine: Machine) -> None:
    machine.disk("nvme0n1p1", {"device/serial": SERIAL.encode(), "partition": b"1\n"})
    assert machine.find() is None


def test_what_has_no_serial_is_not_found(machine: Machine) -> None:
    machine.disk("loop0", {"size": b"65536\n"})
    machine.disk("dm-0", {"dm/name": b"kb-data\n"})
    assert machine.find() is None


def test_a_link_of_udevs_that_agrees_is_fine(machine: Machine) -> None:
    machine.virtio("vdb")
    machine.link(f"virtio-{SERIAL}", "vdb")
    machine.link(f"virtio-{SERIAL}-part1", "vdb1")
    assert machine.find() == machine.dev / "vdb"


def test_a_link_of_udevs_that_leads_elsewhere_is_refused(machine: Machine) -> None:
    machine.virtio("vdb")
    machine.virtio("vdc", "kbv-anotherdisk2")
    machine.link(f"virtio-{SERIAL}", "vdc")
    with pytest.raises(KeybrokerError, match=f"virtio-{SERIAL} leads to") as caught:
        machine.find()
    assert caught.value.problem is Problem.WRONG_DEVICE


def test_a_disk_that_tells_the_kernel_nothing_but_udev_our_serial_is_refused(machine: Machine) -> None:
    machine.virtio("vdb")
    machine.disk("sdc", {"size": b"65536\n"})
    machine.link(f"scsi-0QEMU_HARDDISK_{SERIAL}", "sdc")
    with pytest.raises(KeybrokerError, match="leads to"):
        machine.find()


def test_a_longer_serial_that_ends_like_ours_is_no_contradiction(machine: Machine) -> None:
    machine.virtio("vdb")
    machine.virtio("vdc", f"old_{SERIAL}")
    machine.link(f"virtio-old_{SERIAL}", "vdc")
    assert machine.find() == machine.dev / "vdb"


@pytest.mark.parametrize("serial", ["", "../vda", "a b", "*", "x" * 65])
def test_what_cannot_be_a_serial_is_not_looked_for(machine: Machine, serial: str) -> None:
    with pytest.raises(KeybrokerError) as caught:
        machine.find(serial)
    assert caught.value.problem is Problem.MALFORMED


def test_waiting_ends_at_once_where_something_is_there(machine: Machine) -> None:
    machine.virtio("vdb")
    machine.virtio("vdc", "other")
    before = time.monotonic()
    found = devices.wait({SERIAL, "other", "late"}, deadline=before + 30, find=machine.find)
    assert found == {SERIAL: machine.dev / "vdb", "other": machine.dev / "vdc"}
    assert time.monotonic() - before < 1


def test_waiting_ends_at_the_deadline_with_nothing(machine: Machine) -> None:
    machine.virtio("vdb")
    before = time.monotonic()
    found = devices.wait({"later", "late"}, deadline=before + 0.3, find=machine.find)
    assert found == {}
    assert 0.3 <= time.monotonic() - before < 2


def test_an_ambiguous_disk_is_an_answer_and_holds_up_nobody(machine: Machine) -> None:
    machine.virtio("vdb")
    machine.virtio("vdc")
    before = time.monotonic()
    found = devices.wait({SERIAL}, deadline=before + 30, find=machine.find)
    assert isinstance(found[SERIAL], KeybrokerError)
    assert time.monotonic() - before < 1


def test_a_disk_that_comes_just_when_the_listening_starts_is_not_missed(machine: Machine) -> None:
    """The first look misses it, and no event will ever tell of it: only the look after that finds it."""
    looks = 0

    def find_late(serial: str) -> Path | None:
        nonlocal looks
        looks += 1
        return machine.dev / "vdb" if looks > 1 else None

    before = time.monotonic()
    assert devices.wait({SERIAL}, deadline=before + 30, find=find_late) == {SERIAL: machine.dev / "vdb"}
    assert time.monotonic() - before < 5
    assert looks == 2


def test_waiting_goes_on_where_no_event_can_be_heard(machine: Machine) -> None:
    timer = threading.Timer(0.7, machine.virtio, ["vdb"])
    timer.start()
    before = time.monotonic()
    found = devices.wait({SERIAL}, deadline=before + 30, find=machine.find, listen=devices.naps)
    assert found == {SERIAL: machine.dev / "vdb"}
    assert time.monotonic() - before < 3


def test_waiting_for_a_disk_that_real_kernel_events_announce(tmp_path: Path) -> None:
    """Any block device's event wakes the wait; a loop device that is attached makes some."""
    arrived = threading.Event()

    def attach() -> None:
        time.sleep(0.5)
        arrived.set()
        with loop(image(tmp_path / "disk", 16 * MIB)):
            time.sleep(1)

    def find_it(serial: str) -> Path | None:
        return tmp_path if arrived.is_set() else None

    thread = threading.Thread(target=attach)
    thread.start()
    try:
        before = time.monotonic()
        assert devices.wait({SERIAL}, deadline=before + 30, find=find_it) == {SERIAL: tmp_path}
        assert time.monotonic() - before < 5
    finally:
        thread.join()


def opened(path: Path, **options: object) -> Callable[[], BlockDevice]:
    def go() -> BlockDevice:
        with open_device(path, serial=SERIAL, **options) as disk:  # type: ignore[arg-type]
            return disk.device

    return go


def test_tells_size_and_blocks_of_the_open_disk(tmp_path: Path) -> None:
    with loop(image(tmp_path / "disk", 16 * MIB), "--sector-size", "4096") as path:
        device = opened(path, overridden=True)()
    assert (device.size_bytes, device.logical_block, device.physical_block) == (16 * MIB, 4096, 4096)
    assert device.devno == (7, int(path.name.removeprefix("loop")))
    assert not device.read_only
    assert device.encryption_sector == 4096


@pytest.mark.parametrize(
    ("size", "logical", "physical", "sector"),
    [
        (64 * MIB, 512, 512, 512),
        (64 * MIB, 512, 4096, 4096),
        (64 * MIB, 4096, 4096, 4096),
        (64 * MIB, 512, 8192, 4096),
        (64 * MIB + 512, 512, 4096, 512),
        (64 * MIB, 8192, 8192, 512),
    ],
)
def test_encrypts_in_large_sectors_only_where_the_disk_writes_them_in_one_piece(
    size: int, logical: int, physical: int, sector: int
) -> None:
    device = BlockDevice(Path("/dev/vdb"), SERIAL, size, logical, physical, (254, 16), read_only=False)
    assert device.encryption_sector == sector


def test_a_disk_that_reports_another_serial_by_the_time_it_is_opened_is_refused(tmp_path: Path) -> None:
    """Two disks swap their names between the search and the open: sysfs says it by number, not by name."""
    with loop(image(tmp_path / "a", 16 * MIB)) as first, loop(image(tmp_path / "b", 16 * MIB)) as second:
        for path, serial in ((first, SERIAL), (second, "kbv-anotherdisk2")):
            number = os.stat(path).st_rdev
            entry = tmp_path / f"sys/dev/block/{os.major(number)}:{os.minor(number)}"
            entry.mkdir(parents=True)
            (entry / "serial").write_text(serial)
        assert opened(first, sys=tmp_path / "sys")().path == first
        with pytest.raises(
            KeybrokerError, match=f"reports the serial kbv-anotherdisk2, not {SERIAL}"
        ) as caught:
            opened(second, sys=tmp_path / "sys")()
        assert caught.value.problem is Problem.WRONG_DEVICE


def test_a_disk_without_a_serial_is_opened_only_by_an_override(tmp_path: Path) -> None:
    with loop(image(tmp_path / "disk", 16 * MIB)) as path:
        with pytest.raises(KeybrokerError, match=r"reports the serial \(none\)"):
            opened(path)()
        assert opened(path, overridden=True)().serial == SERIAL


def test_what_is_no_block_device_is_refused(tmp_path: Path) -> None:
    for path in (image(tmp_path / "file", 16 * MIB), Path("/dev/null"), tmp_path):
        with pytest.raises(KeybrokerError, match="is not a block device") as caught:
            opened(path, overridden=True)()
        assert caught.value.problem is Problem.WRONG_DEVICE


def test_what_is_not_there_is_no_device(tmp_path: Path) -> None:
    with pytest.raises(KeybrokerError) as caught:
        opened(tmp_path / "nothing", overridden=True)()
    assert caught.value.problem is Problem.NO_DEVICE


def test_one_writer_keeps_out_every_other(tmp_path: Path) -> None:
    with (
        loop(image(tmp_path / "disk", 16 * MIB)) as path,
        open_device(path, serial=SERIAL, overridden=True, writable=True),
    ):
        with pytest.raises(KeybrokerError, match="is in use") as caught:
            opened(path, overridden=True, writable=True)()
        assert caught.value.problem is Problem.WRONG_DEVICE
        assert opened(path, overridden=True)().size_bytes == 16 * MIB


def test_reads_what_is_asked_for_and_less_only_at_the_end(tmp_path: Path) -> None:
    pieces = {0: b"start", 16 * MIB - 3: b"end"}
    with (
        loop(image(tmp_path / "disk", 16 * MIB, pieces)) as path,
        open_device(path, serial=SERIAL, overridden=True) as disk,
    ):
        assert disk.read(0, 6) == b"start\0"
        assert disk.read(16 * MIB - 3, 512) == b"end"
        assert disk.read(16 * MIB, 512) == b""
        assert len(disk.read(0, 16 * MIB)) == 16 * MIB


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with loop(image(tmp_path / "disk", 16 * MIB)) as path:
        for overridden in (True, False):
            for writable in (True, False):
                try:
                    opened(path, overridden=overridden, writable=writable)()
                except KeybrokerError:
                    continue
    assert len(os.listdir("/proc/self/fd")) == before
