"""The mark of a swap disk: written once, on a blank disk, and read back strictly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import swap
from agent.devices import open_device
from agent.swap import BLOCK_BYTES, Mark
from keybroker.wire import names
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from tests.kernel.disks import MIB, image, loop

VOLUME = VolumeId("kbv-q3m5x7abcdef")
ANOTHER = VolumeId("kbv-othersother2")
SERIAL = "kbv-q3m5x7abcdef"

marks = st.builds(
    Mark,
    volume=st.from_regex(names.VOLUME_ID, fullmatch=True).map(VolumeId),
    serial=st.from_regex(names.SERIAL, fullmatch=True).filter(str.isascii),
    size_bytes=st.integers(0, 2**64 - 1),
)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    with loop(image(tmp_path / "disk")) as path:
        yield path


@given(marks)
def test_reads_what_it_wrote(mark: Mark) -> None:
    assert len(mark.block()) == BLOCK_BYTES
    assert Mark.parse(mark.block()) == mark


@given(marks, st.integers(0, BLOCK_BYTES * 8 - 1))
def test_refuses_a_block_with_any_bit_changed(mark: Mark, bit: int) -> None:
    block = bytearray(mark.block())
    block[bit // 8] ^= 1 << bit % 8
    assert Mark.parse(bytes(block)) is None


@given(st.binary(max_size=600), st.booleans())
def test_refuses_anything_else(held: bytes, with_magic: bool) -> None:
    block = (swap.MAGIC if with_magic else b"") + held
    assert Mark.parse(block.ljust(BLOCK_BYTES, b"\0")) is None


@pytest.mark.parametrize("length", [0, 511, 512, BLOCK_BYTES - 1, BLOCK_BYTES + 1])
def test_refuses_a_block_of_another_length(length: int) -> None:
    block = Mark(VOLUME, SERIAL, MIB).block().ljust(BLOCK_BYTES + 1, b"\0")
    assert Mark.parse(block[:length]) is None


def test_keeps_all_that_matters_in_the_first_sector() -> None:
    """A disk writes 512 bytes whole or not at all, so no cut leaves half a mark."""
    block = Mark(VOLUME, "s" * 64, 2**64 - 1).block()
    assert block[512:] == bytes(BLOCK_BYTES - 512)


def test_has_the_layout_that_is_documented() -> None:
    block = Mark(VOLUME, SERIAL, 0x0102030405060708).block()
    assert block[:41] == b"KEYBROKER-SWAP1\nkbv-q3m5x7abcdef\1\2\3\4\5\6\7\x08\x10"
    assert block[41:57] == SERIAL.encode()
    assert block[57:480] == bytes(423)


def test_marks_a_blank_disk_and_changes_nothing_else(path: Path) -> None:
    with open_device(path, serial=SERIAL, overridden=True, writable=True) as disk:
        swap.mark(disk, VOLUME)
        assert disk.read(0, BLOCK_BYTES) == Mark(VOLUME, SERIAL, 32 * MIB).block()
        assert not any(disk.read(BLOCK_BYTES, 32 * MIB))
        swap.check(disk, VOLUME)


def test_marking_again_changes_nothing(path: Path) -> None:
    for _ in range(2):
        with open_device(path, serial=SERIAL, overridden=True, writable=True) as disk:
            swap.mark(disk, VOLUME)


@pytest.mark.parametrize(("serial", "volume"), [(SERIAL, ANOTHER), ("another-serial", VOLUME)])
def test_a_mark_of_another_volume_or_disk_is_not_overwritten(
    path: Path, serial: str, volume: VolumeId
) -> None:
    with open_device(path, serial=SERIAL, overridden=True, writable=True) as disk:
        swap.mark(disk, VOLUME)
    with open_device(path, serial=serial, overridden=True, writable=True) as disk:
        with pytest.raises(KeybrokerError) as caught:
            swap.mark(disk, volume)
        assert caught.value.problem is Problem.NOT_BLANK
        assert disk.read(0, BLOCK_BYTES) == Mark(VOLUME, SERIAL, 32 * MIB).block()


def test_a_disk_that_grew_after_it_was_marked_is_refused(tmp_path: Path) -> None:
    with (
        loop(image(tmp_path / "small", 16 * MIB)) as path,
        open_device(path, serial=SERIAL, overridden=True, writable=True) as disk,
    ):
        swap.mark(disk, VOLUME)
        os.fsync(disk.fd)
    os.truncate(tmp_path / "small", 32 * MIB)
    with (
        loop(tmp_path / "small") as path,
        open_device(path, serial=SERIAL, overridden=True) as disk,
        pytest.raises(KeybrokerError, match="was marked with 16777216 bytes and has 33554432"),
    ):
        swap.check(disk, VOLUME)


def test_marks_only_through_an_exclusive_descriptor(path: Path) -> None:
    with (
        open_device(path, serial=SERIAL, overridden=True) as disk,
        pytest.raises(ValueError, match="exclusive"),
    ):
        swap.mark(disk, VOLUME)
