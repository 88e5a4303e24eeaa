"""A cut inscription is recognised and finished, wherever it is cut; over anything foreign none is begun.

A disk may reorder what is between two flushes, so cuts within a group leave any subset of its sectors too.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from agent import inscription
from agent.luks import copy
from agent.luks.copy import HeaderImage
from agent.luks.header import NotLuks, read_header
from agent.machine import compose
from agent.plan.provision import next_step
from agent.plan.situation import Mapping, Situation
from agent.plan.steps import Inscribe, Open
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB
from keybroker.wire.records import Device, Grant, Observation, Record
from tests.crash.file_world import sectors_of
from tests.crash.volumes import SIZE, key_of, record

RECORD = record()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> HeaderImage:
    made = compose(
        RECORD, KeyVersion(1), key_of("data"), sector_size=512, runtime=tmp_path_factory.mktemp("runtime")
    )
    return copy.unpack(made.copy)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


def clear(fd: int) -> None:
    os.ftruncate(fd, 0)
    os.ftruncate(fd, SIZE)


def write(fd: int, sectors: list[tuple[int, bytes]]) -> None:
    for offset, held in sectors:
        os.pwrite(fd, held, offset)


def whole(fd: int, image: HeaderImage) -> bool:
    return os.pread(fd, image.total, 0) == image.read(0, image.total)


def fingerprint(fd: int) -> bytes:
    return hashlib.sha256(os.pread(fd, SIZE, 0)).digest()


def deposited(image: HeaderImage) -> Record:
    header = read_header(image.read, image.total)
    device = Device(RECORD.serial, SIZE)
    return replace(RECORD, stage="deposited", device=device, pin=header.pin, sequence=header.sequence)


def decision(fd: int, image: HeaderImage) -> type:
    """Return which step the planner takes for what is on the disk."""
    known = deposited(image)
    device = Device(RECORD.serial, SIZE)
    try:
        header = read_header(lambda offset, length: os.pread(fd, length, offset), SIZE)
        seen = Observation(RECORD.volume, "luks2", device, header.seen())
    except NotLuks:
        seen = Observation(RECORD.volume, "other", device)
    except KeybrokerError as error:
        seen = Observation(RECORD.volume, "other", device, detail=error.detail)
    grant = Grant(known, {KeyVersion(1): key_of("data")})
    return type(next_step(grant, Situation(Mapping(), seen, seen)))


def test_a_cut_after_any_sector_is_recognised_and_finished(disk: int, image: HeaderImage) -> None:
    sectors = list(sectors_of(image))
    assert len(sectors) > 500
    step = 11
    cuts = [*range(0, len(sectors), step), *range(len(sectors) - 40, len(sectors))]
    for cut in cuts:
        clear(disk)
        write(disk, sectors[:cut])
        if any(any(held) for _, held in sectors[cut:]):
            assert decision(disk, image) is Inscribe, cut
        inscription.inscribe(disk, SIZE, image)
        assert whole(disk, image), cut
        assert decision(disk, image) is Open


def test_any_subset_of_a_group_that_was_not_flushed_is_recognised_and_finished(
    disk: int, image: HeaderImage
) -> None:
    chance = random.Random(20261121)
    first, last = inscription.writes(image)
    before = [sector for sector in sectors_of(image) if sector[0] >= len(last[0][1])]
    after = [sector for sector in sectors_of(image) if sector[0] < len(last[0][1])]
    assert sum(len(held) for _, held in first) == sum(len(held) for _, held in before)
    for round_ in range(60):
        clear(disk)
        if round_ % 2:
            write(disk, before)
        group = after if round_ % 2 else before
        write(disk, chance.sample(group, chance.randrange(1, len(group))))
        if not whole(disk, image):
            assert decision(disk, image) is Inscribe
        inscription.inscribe(disk, SIZE, image)
        assert whole(disk, image)


def test_the_first_copy_is_the_last_to_be_written(image: HeaderImage) -> None:
    rest, first = inscription.writes(image)
    assert [offset for offset, _ in first] == [0]
    assert min(offset for offset, _ in rest) == len(first[0][1])
    assert sum(len(held) for _, held in (*rest, *first)) >= sum(len(held) for _, held in image.extents)


def test_inscribing_again_changes_nothing(disk: int, image: HeaderImage) -> None:
    inscription.inscribe(disk, SIZE, image)
    before = fingerprint(disk)
    inscription.inscribe(disk, SIZE, image)
    assert fingerprint(disk) == before


FOREIGN = [0, 511, 512, 4096, 16384, 32767, 32768, 200 << 10, 1 << 20, (4 << 20) - 1, 4 << 20, (5 << 20) - 1]
FOREIGN += [SIZE - MIB, SIZE - 1]


@pytest.mark.parametrize("inscribed", [False, True], ids=["blank", "inscribed"])
@pytest.mark.parametrize("place", FOREIGN)
def test_one_foreign_byte_and_nothing_is_written(
    disk: int, image: HeaderImage, place: int, inscribed: bool
) -> None:
    if inscribed:
        inscription.inscribe(disk, SIZE, image)
    there = os.pread(disk, 1, place)
    os.pwrite(disk, bytes([there[0] ^ 0xA5]), place)
    before = fingerprint(disk)
    with pytest.raises(KeybrokerError) as caught:
        inscription.inscribe(disk, SIZE, image)
    assert caught.value.problem is Problem.NOT_BLANK
    assert fingerprint(disk) == before


def test_the_header_of_another_volume_is_foreign(disk: int, image: HeaderImage, tmp_path: Path) -> None:
    other = compose(record("other"), KeyVersion(1), key_of("other"), sector_size=512, runtime=tmp_path)
    inscription.inscribe(disk, SIZE, copy.unpack(other.copy))
    before = fingerprint(disk)
    with pytest.raises(KeybrokerError, match="no part of this volume's header"):
        inscription.inscribe(disk, SIZE, image)
    assert fingerprint(disk) == before


def test_a_disk_that_is_too_small_is_refused(disk: int, image: HeaderImage) -> None:
    with pytest.raises(KeybrokerError, match="too few"):
        inscription.inscribe(disk, image.total + MIB, image)


def test_a_disk_that_lost_what_it_acknowledged_is_found_out(disk: int, image: HeaderImage) -> None:
    lossy = cast(HeaderImage, Lossy(image))
    with pytest.raises(KeybrokerError) as caught:
        inscription.inscribe(disk, SIZE, lossy)
    assert caught.value.problem is Problem.CORRUPT


class Lossy:
    """An image of which one block does not arrive, though it is there when it is compared."""

    def __init__(self, image: HeaderImage) -> None:
        offset, held = image.extents[-1]
        self.extents = (*image.extents[:-1], (offset, held[:-4096]))
        self.total = image.total
        self.read = image.read
