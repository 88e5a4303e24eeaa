"""What is mounted, swapped to or going away, on made-up /proc and /sys: no machine has all of it at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import blank
from agent.devices import BlockDevice, open_device
from agent.mountinfo import mounts, swaps
from tests.kernel.disks import MIB, image, loop

MOUNTINFO = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 {mount} rw,relatime shared:9 - {kind} {source} rw
31 22 0:50 / /net rw - nfs4 server:/export rw
32 22 0:51 / /over\\040lay rw - overlay overlay rw
"""


@pytest.fixture
def attached(tmp_path: Path) -> Iterator[Path]:
    with loop(image(tmp_path / "disk", 16 * MIB)) as path:
        yield path


def described(path: Path) -> BlockDevice:
    with open_device(path, serial="x", overridden=True) as disk:
        return disk.device


def proc(root: Path, mount: str, kind: str, source: str, swap: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(MOUNTINFO.format(mount=mount, kind=kind, source=source))
    (root / "proc/swaps").write_text(f"Filename Type Size Used Priority\n{swap} partition 1024 0 -2\n")
    return root / "proc"


def in_use(device: BlockDevice, root: Path, **lines: str) -> str | None:
    given = {"mount": "0:99 / /mnt", "kind": "tmpfs", "source": "tmpfs", "swap": "/swap\\040file"} | lines
    return blank._in_use(device, proc=proc(root, **given))


def test_a_mount_of_another_device_is_no_concern(attached: Path, tmp_path: Path) -> None:
    assert in_use(described(attached), tmp_path) is None


def test_a_mount_is_known_by_its_number(attached: Path, tmp_path: Path) -> None:
    device = described(attached)
    said = in_use(device, tmp_path, mount=f"{device.node} / /srv/my\\040data", source="/dev/root")
    assert said == "it is mounted on /srv/my data"


def test_a_mount_that_shows_a_number_of_no_device_is_known_by_its_source(
    attached: Path, tmp_path: Path
) -> None:
    assert (
        in_use(described(attached), tmp_path, kind="btrfs", source=str(attached)) == "it is mounted on /mnt"
    )


def test_swap_is_known_by_any_name_of_the_device(attached: Path, tmp_path: Path) -> None:
    link = tmp_path / "by id"
    link.symlink_to(attached)
    assert in_use(described(attached), tmp_path, swap=str(link).replace(" ", "\\040")) == "it is swap in use"


def test_a_device_that_went_away_is_not_blank(attached: Path) -> None:
    with open_device(attached, serial="x", overridden=True) as disk:
        # the number of a device that sysfs does not know
        gone = type(disk)(_numbered(disk.device, (4095, 1)), disk.fd, disk.exclusive)
        assert (blank.look(gone) or "").startswith("it went away while it was looked at")


def _numbered(device: BlockDevice, devno: tuple[int, int]) -> BlockDevice:
    return BlockDevice(
        device.path, device.serial, device.size_bytes, device.logical_block, device.physical_block, devno,
        device.read_only,
    )  # fmt: skip


def test_a_disk_of_zeros_is_blank_and_looking_leaves_nothing_open(attached: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with open_device(attached, serial="x", overridden=True) as disk:
        assert blank.look(disk) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_this_systems_own_tables_can_be_read() -> None:
    assert "/" in {mount.point for mount in mounts()}
    assert all(path.is_absolute() for path in swaps())
