"""What may be on a disk that is wiped: the volume's own, or what a cut wipe has left of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.change import wipe
from agent.devices import BlockDevice, OpenDevice
from keybroker.wire.problems import KeybrokerError, Problem
from tests.crash.test_crash_plain import PLAIN
from tests.crash.volumes import SIZE

UUID = "0f2d3c1a-5b6e-4d7c-8f90-a1b2c3d4e5f6"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[OpenDevice]:
    """Return a plain disk with an ext4."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(SIZE))
    subprocess.run(["mkfs.ext4", "-q", "-F", "-U", UUID, path], check=True, capture_output=True)
    fd = os.open(path, os.O_RDWR)
    yield OpenDevice(BlockDevice(path, PLAIN.serial, SIZE, 512, 512, (0, 0), read_only=False), fd, True)
    os.close(fd)


def test_the_filesystem_that_the_volume_has_by_now_is_its_own(disk: OpenDevice) -> None:
    wipe.check(PLAIN, disk, kept={UUID})
    wipe.check(PLAIN, disk)  # an order to erase the plain volume itself: nothing else has its filesystem


def test_another_one_of_the_same_kind_is_somebody_elses(disk: OpenDevice) -> None:
    with pytest.raises(KeybrokerError) as caught:
        wipe.check(PLAIN, disk, kept={UUID.replace("0", "1")})
    assert caught.value.problem is Problem.WRONG_DEVICE
    assert "nothing was written" in caught.value.detail


def test_what_a_cut_wipe_has_left_is_wiped_on(disk: OpenDevice) -> None:
    os.pwrite(disk.fd, bytes(SIZE // 2), 0)
    wipe.check(PLAIN, disk, kept={UUID.replace("0", "1")})
