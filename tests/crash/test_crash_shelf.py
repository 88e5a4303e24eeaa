"""A header that goes over a filesystem's beginning: wherever it is cut it is recognised and finished.

On files, with cryptsetup's own header and a real ext4. A disk may reorder what is between two flushes, so
cuts within a group leave any subset of its sectors; and in the end every byte of the filesystem is there,
decrypted by a program that shares no code with cryptsetup.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from agent import shelf
from agent.change import shelving
from agent.luks import copy
from agent.luks.copy import HeaderImage
from agent.luks.header import Header, NotLuks, read_header
from agent.luks.inplace import layout_of
from agent.plan.provision import next_step
from agent.plan.situation import Mapping, Situation
from agent.plan.steps import Inscribe, Open
from agent.shelf import FRONT
from keybroker.wire.names import KeyVersion
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB
from keybroker.wire.records import Device as Seen
from keybroker.wire.records import Grant, Observation, Record, SeenHeader
from tests.crash.volumes import key_of, record

SIZE = 24 * MIB
FILESYSTEM = SIZE - 2 * FRONT
RECORD = replace(record(size=SIZE), stage="plain")
SECTOR = 512


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a disk with an ext4 that leaves room at the end, where something else lies."""
    directory = tmp_path_factory.mktemp("plain")
    inside = directory / "inside"
    inside.mkdir()
    chance = random.Random(20261126)
    for number in range(12):
        (inside / f"table-{number}").write_bytes(chance.randbytes(chance.randrange(MIB)))
    disk = directory / "disk"
    disk.write_bytes(bytes(SIZE - 2 * FRONT) + chance.randbytes(2 * FRONT))
    command = ["mkfs.ext4", "-q", "-F", "-b", "4096", "-d", str(inside), str(disk), f"{FILESYSTEM >> 10}k"]
    subprocess.run(command, check=True, capture_output=True)
    held = disk.read_bytes()
    assert any(held[200 << 10 : FRONT]), "the beginning is to hold something"
    return held


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> HeaderImage:
    made = shelving.compose_for(
        RECORD, key_of("data"), SIZE, sector=SECTOR, runtime=tmp_path_factory.mktemp("runtime")
    )
    return copy.unpack(made.copy)


@pytest.fixture(scope="module")
def header(image: HeaderImage) -> Header:
    return read_header(image.read, image.total)


@pytest.fixture
def disk(tmp_path: Path, plain: bytes) -> Iterator[int]:
    fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(fd, plain, 0)
    shelf.shelve(fd, SIZE)
    yield fd
    os.close(fd)


def renew(fd: int, plain: bytes) -> None:
    """Have the disk as it was shelved."""
    os.pwrite(fd, plain[:FRONT], 0)


def sectors_of(group: tuple[tuple[int, bytes], ...]) -> list[tuple[int, bytes]]:
    return [
        (offset + at, held[at : at + SECTOR]) for offset, held in group for at in range(0, len(held), SECTOR)
    ]


def write(fd: int, sectors: list[tuple[int, bytes]]) -> None:
    for offset, held in sectors:
        os.pwrite(fd, held, offset)


def deposited(header: Header) -> Record:
    order = Order(1, "encrypt", "begun", header.pin.digest, backed_up=True)
    return replace(RECORD, order=order, pin=header.pin, sequence=header.sequence)


def seen(fd: int) -> SeenHeader | None:
    try:
        return read_header(lambda offset, length: os.pread(fd, length, offset), SIZE).seen()
    except (NotLuks, KeybrokerError):
        return None


def decision(fd: int, header: Header) -> type:
    """Return which step a boot takes for what is on the disk."""
    there = seen(fd)
    sight = Observation(RECORD.volume, "luks2" if there else "other", Seen(RECORD.serial, SIZE), there)
    grant = Grant(deposited(header), {KeyVersion(1): key_of("data")})
    return type(next_step(grant, Situation(Mapping(), sight, sight)))


def check_inscribed(fd: int, plain: bytes, image: HeaderImage, header: Header) -> None:
    assert os.pread(fd, FRONT, 0) == image.read(0, FRONT)
    assert os.pread(fd, FRONT, layout_of(header).shelf) == plain[:FRONT]
    assert os.pread(fd, FILESYSTEM - FRONT, FRONT) == plain[FRONT:FILESYSTEM]
    assert decision(fd, header) is Open


def test_a_cut_after_any_sector_is_recognised_and_finished(
    disk: int, plain: bytes, image: HeaderImage, header: Header
) -> None:
    groups = [sectors_of(group) for group in shelf.writes(image, header)]
    sectors = [sector for group in groups for sector in group]
    assert len(sectors) == FRONT // SECTOR, "no byte of the filesystem is left there"
    last = len(sectors) - 70
    for cut in [*range(0, last, 211), *range(last, len(sectors))]:
        renew(disk, plain)
        write(disk, sectors[:cut])
        if os.pread(disk, FRONT, 0) != image.read(0, FRONT):
            assert decision(disk, header) is Inscribe, cut
        shelf.inscribe(disk, SIZE, image, header, is_known=False)
        check_inscribed(disk, plain, image, header)


def test_any_subset_of_a_group_that_was_not_flushed_is_recognised_and_finished(
    disk: int, plain: bytes, image: HeaderImage, header: Header
) -> None:
    chance = random.Random(20261126)
    groups = [sectors_of(group) for group in shelf.writes(image, header)]
    for round_ in range(80):
        renew(disk, plain)
        for group in groups[: round_ % 4]:
            write(disk, group)
        group = groups[round_ % 4]
        write(disk, chance.sample(group, chance.randrange(len(group))))
        if os.pread(disk, FRONT, 0) != image.read(0, FRONT):
            assert decision(disk, header) is Inscribe, round_
        shelf.inscribe(disk, SIZE, image, header, is_known=False)
        check_inscribed(disk, plain, image, header)


def test_a_header_that_can_be_read_at_all_has_all_its_keyslots(
    disk: int, plain: bytes, image: HeaderImage, header: Header
) -> None:
    keyslots, gaps, second, first = (sectors_of(group) for group in shelf.writes(image, header))
    renew(disk, plain)
    write(disk, keyslots + gaps)
    assert seen(disk) is None
    write(disk, second)
    assert seen(disk) is None, "it is still the filesystem, too, and cryptsetup would not mend it"
    for sector in first:
        write(disk, [sector])
        found = seen(disk)
        assert found is None or found.sequence == header.sequence
    assert seen(disk) == header.seen()


def test_inscribing_again_changes_nothing(
    disk: int, plain: bytes, image: HeaderImage, header: Header
) -> None:
    shelf.inscribe(disk, SIZE, image, header, is_known=True)
    shelf.inscribe(disk, SIZE, image, header, is_known=False)
    check_inscribed(disk, plain, image, header)


@pytest.mark.parametrize("damaged", ["first", "second"])
def test_a_torn_copy_of_the_metadata_is_mended_from_the_brokers_as_long_as_nothing_was_moved(
    disk: int, plain: bytes, image: HeaderImage, header: Header, damaged: str
) -> None:
    shelf.inscribe(disk, SIZE, image, header, is_known=True)
    os.pwrite(disk, b"torn", 4096 + (header.header_bytes if damaged == "second" else 0))
    assert decision(disk, header) is Inscribe
    shelf.inscribe(disk, SIZE, image, header, is_known=False)
    check_inscribed(disk, plain, image, header)


def test_keyslots_that_are_not_there_are_written_whatever_the_metadata_says(
    disk: int, plain: bytes, image: HeaderImage, header: Header
) -> None:
    _, _, second, first = (sectors_of(group) for group in shelf.writes(image, header))
    for there in (second, first, second + first):
        renew(disk, plain)
        write(disk, there)
        shelf.inscribe(disk, SIZE, image, header, is_known=False)
        check_inscribed(disk, plain, image, header)


FOREIGN = [0, 4096, 16384, 32767, 40 << 10, 200 << 10, 291 << 10, 1 << 20, FRONT - 1]


@pytest.mark.parametrize("place", FOREIGN)
@pytest.mark.parametrize("after", [1, 2])
def test_one_foreign_byte_in_the_middle_and_nothing_is_written(
    disk: int, image: HeaderImage, header: Header, place: int, after: int
) -> None:
    for group in shelf.writes(image, header)[:after]:
        write(disk, sectors_of(group))
    there = os.pread(disk, 1, place)
    os.pwrite(disk, bytes([there[0] ^ 0xA5]), place)
    before = os.pread(disk, SIZE, 0)
    with pytest.raises(KeybrokerError) as caught:
        shelf.inscribe(disk, SIZE, image, header, is_known=True)
    assert caught.value.problem is Problem.NOT_BLANK
    assert os.pread(disk, SIZE, 0) == before


@pytest.mark.parametrize("place", FOREIGN)
def test_a_filesystem_that_was_used_since_is_shelved_anew(
    disk: int, plain: bytes, image: HeaderImage, header: Header, place: int
) -> None:
    changed = bytearray(plain)
    changed[place] ^= 0xA5
    os.pwrite(disk, changed[place : place + 1], place)
    assert not shelf.is_shelved(disk, SIZE)
    shelf.inscribe(disk, SIZE, image, header, is_known=True)
    check_inscribed(disk, bytes(changed), image, header)


def test_but_not_where_nobody_recognises_it(
    disk: int, plain: bytes, image: HeaderImage, header: Header
) -> None:
    os.pwrite(disk, bytes([plain[200 << 10] ^ 0xA5]), 200 << 10)
    before = os.pread(disk, SIZE, 0)
    with pytest.raises(KeybrokerError) as caught:
        shelf.inscribe(disk, SIZE, image, header, is_known=False)
    assert caught.value.problem is Problem.NOT_BLANK
    assert os.pread(disk, SIZE, 0) == before


def test_but_not_where_it_is_not_there_any_more(disk: int, image: HeaderImage, header: Header) -> None:
    os.pwrite(disk, bytes(FRONT), 0)
    before = os.pread(disk, SIZE, 0)
    for known in (False, True):  # even then: zeros have no superblock that says where a filesystem ends
        with pytest.raises(KeybrokerError):
            shelf.inscribe(disk, SIZE, image, header, is_known=known)
    assert os.pread(disk, SIZE, 0) == before


def test_a_filesystem_that_has_grown_since_is_not_written_over(
    disk: int, image: HeaderImage, header: Header, tmp_path: Path
) -> None:
    subprocess.run(["resize2fs", "-f", tmp_path / "disk"], check=True, capture_output=True)
    before = os.pread(disk, SIZE, 0)
    with pytest.raises(KeybrokerError) as caught:
        shelf.inscribe(disk, SIZE, image, header, is_known=True)
    assert caught.value.problem is Problem.WRONG_DEVICE
    assert os.pread(disk, SIZE, 0) == before


@pytest.mark.parametrize("blocks", [FILESYSTEM // 4096, FILESYSTEM // 4096 + 1])
def test_nothing_is_shelved_over_a_filesystem(tmp_path: Path, blocks: int) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(SIZE))
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", path, str(blocks)], check=True)
    fd = os.open(path, os.O_RDWR)
    before = path.read_bytes()
    try:
        if blocks * 4096 <= FILESYSTEM:
            shelf.shelve(fd, SIZE)
            assert shelf.is_shelved(fd, SIZE)
        else:
            with pytest.raises(KeybrokerError, match="nothing was written"):
                shelf.shelve(fd, SIZE)
            assert path.read_bytes() == before
    finally:
        os.close(fd)


@pytest.mark.parametrize("made", [b"", b"\xff" * 2048, bytes(2048)])
def test_where_no_superblock_says_where_a_filesystem_ends_nothing_is_shelved(
    tmp_path: Path, made: bytes
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(made.ljust(SIZE, b"\0"))
    fd = os.open(path, os.O_RDWR)
    try:
        with pytest.raises(KeybrokerError):
            shelf.shelve(fd, SIZE)
    finally:
        os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="encrypting a file needs root")
def test_what_cryptsetup_then_makes_of_it_is_every_byte_of_the_filesystem(
    disk: int, plain: bytes, image: HeaderImage, header: Header, tmp_path: Path
) -> None:
    shelf.inscribe(disk, SIZE, image, header, is_known=True)
    key, path = tmp_path / "key", tmp_path / "disk"
    key.write_bytes(key_of("data").reveal())
    offline = ("--batch-mode", "--disable-locks", "--key-file", str(key))
    subprocess.run(
        ["cryptsetup", "reencrypt", "--resume-only", "--force-offline-reencrypt", *offline, path],
        check=True, capture_output=True,
    )  # fmt: skip
    volume_key = tmp_path / "volume-key"
    subprocess.run(
        ["cryptsetup", "luksDump", "--dump-volume-key", "--volume-key-file", volume_key, *offline, path],
        check=True, capture_output=True,
    )  # fmt: skip
    assert decrypted(path.read_bytes(), volume_key.read_bytes()) == plain[:FILESYSTEM]
    assert plain[FRONT : 2 * FRONT] not in path.read_bytes()


def decrypted(held: bytes, volume_key: bytes) -> bytes:
    """Decrypt aes-xts-plain64 from the header's end on."""
    found = bytearray()
    for number in range(FILESYSTEM // SECTOR):
        at = FRONT + number * SECTOR
        cipher = Cipher(algorithms.AES(volume_key), modes.XTS(number.to_bytes(16, "little")))
        found += cipher.decryptor().update(held[at : at + SECTOR])
    return bytes(found)
