"""Encrypted swap on a marked disk, and on nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import devicemapper, swap
from agent.devices import open_device
from agent.luks import cryptsetup
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from tests.kernel.disks import MIB, fingerprint, image, loop

pytestmark = pytest.mark.kernel

VOLUME = VolumeId("kbv-swapswapswap")
ANOTHER = VolumeId("kbv-othersother2")
SERIAL = "kbv-swapswapswap"
NAME = "kb-swap"


@pytest.fixture(params=[32 * MIB, 32 * MIB + 512])
def device(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    with loop(image(tmp_path / "disk", request.param)) as device:
        yield device
        swap.turn_off(NAME)


@pytest.fixture
def marked(device: Path) -> Path:
    with open_device(device, serial=SERIAL, overridden=True, writable=True) as disk:
        swap.mark(disk, VOLUME)
    return device


def turn_on(device: Path, *, serial: str = SERIAL, volume: VolumeId = VOLUME) -> None:
    with open_device(device, serial=serial, overridden=True) as disk:
        swap.turn_on(disk, NAME, volume)


def swaps() -> list[str]:
    return [line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:]]


def test_a_marked_disk_becomes_swap_with_exactly_the_table_that_was_meant(marked: Path) -> None:
    turn_on(marked)
    assert swap.is_on(NAME)
    assert len(swaps()) == 1
    with open_device(marked, serial=SERIAL, overridden=True) as disk:
        assert devicemapper.table(NAME) == swap.table(disk)
        assert swap.is_mapped(disk, NAME)


def test_the_mark_survives_and_the_next_boot_swaps_under_another_key(marked: Path) -> None:
    keys = set()
    for _ in range(2):
        turn_on(marked)
        shown = subprocess.run(["dmsetup", "table", "--showkeys", NAME], check=True, capture_output=True)
        keys.add(shown.stdout.split()[4])
        swap.turn_off(NAME)
        assert not swap.is_on(NAME)
        assert devicemapper.mapped() == {}
    assert len(keys) == 2
    assert {len(key) for key in keys} == {128}


def test_turning_on_what_is_on_changes_nothing(marked: Path) -> None:
    turn_on(marked)
    before = devicemapper.mapped()
    turn_on(marked)
    assert devicemapper.mapped() == before
    assert len(swaps()) == 1


def test_a_mapping_that_was_cut_before_swapon_is_taken_up(marked: Path) -> None:
    with open_device(marked, serial=SERIAL, overridden=True) as disk:
        cryptsetup.open_swap(disk, NAME, sector_size=swap.sector_size(disk.device.size_bytes))
    turn_on(marked)
    assert swap.is_on(NAME)


def test_turning_off_what_is_off_is_fine() -> None:
    swap.turn_off("kb-nothing")


def test_a_disk_without_a_mark_is_never_swapped_onto(device: Path) -> None:
    before = fingerprint(device)
    with pytest.raises(KeybrokerError, match="bears no mark") as caught:
        turn_on(device)
    assert caught.value.problem is Problem.WRONG_DEVICE
    assert fingerprint(device) == before
    assert devicemapper.mapped() == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"volume": ANOTHER}, "is marked as swap of kbv-swapswapswap"),
        ({"serial": "another-disk"}, "was made on the disk kbv-swapswapswap"),
    ],
)
def test_the_mark_of_another_volume_or_disk_is_refused(
    marked: Path, changes: dict[str, VolumeId], said: str
) -> None:
    before = fingerprint(marked)
    with pytest.raises(KeybrokerError, match=said):
        turn_on(marked, **changes)
    assert fingerprint(marked) == before
    assert swaps() == []
    assert devicemapper.mapped() == {}


def test_a_name_that_stands_for_something_else_is_refused(marked: Path) -> None:
    before = fingerprint(marked)
    subprocess.run(["dmsetup", "create", NAME, "--table", "0 2048 zero"], check=True)
    with pytest.raises(KeybrokerError, match="mapped already, and not as swap") as caught:
        turn_on(marked)
    assert caught.value.problem is Problem.WRONG_DEVICE
    assert fingerprint(marked) == before
    subprocess.run(["dmsetup", "remove", NAME], check=True)


def test_a_mapping_of_the_same_name_on_the_wrong_place_of_the_disk_is_refused(marked: Path) -> None:
    subprocess.run(
        [
            "cryptsetup", "open", "-q", "--type", "plain", "--cipher", "aes-xts-plain64", "--key-size", "512",
            "--key-file", "/dev/urandom", "--offset", "4096", marked, NAME,
        ],
        check=True,
    )  # fmt: skip
    with pytest.raises(KeybrokerError, match="mapped already, and not as swap"):
        turn_on(marked)
    assert swaps() == []


def test_a_system_that_would_hibernate_gets_no_swap(marked: Path, tmp_path: Path) -> None:
    (tmp_path / "power").mkdir()
    (tmp_path / "power/resume").write_text("254:1\n")
    with (
        open_device(marked, serial=SERIAL, overridden=True) as disk,
        pytest.raises(KeybrokerError, match="would hibernate onto the device 254:1") as caught,
    ):
        swap.turn_on(disk, NAME, VOLUME, sys=tmp_path)
    assert caught.value.problem is Problem.CONFIGURATION
    assert swaps() == []


def test_a_disk_in_use_is_not_marked(device: Path) -> None:
    subprocess.run(["dmsetup", "create", "held", "--table", f"0 2048 linear {device} 0"], check=True)
    try:
        with pytest.raises(KeybrokerError, match="is in use") as caught:
            open_device(device, serial=SERIAL, overridden=True, writable=True).__enter__()
        assert caught.value.problem is Problem.WRONG_DEVICE
    finally:
        subprocess.run(["dmsetup", "remove", "held"], check=True)
