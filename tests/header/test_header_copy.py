"""Header copies: what is kept of a header, in which form, and what cryptsetup makes of it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from agent.luks.acceptance import accept
from agent.luks.copy import SEALS, HeaderImage, image_of, memfd, pack, unpack
from agent.luks.header import Header, Read, read_header
from keybroker.wire.messages import LARGEST_HEADER_COPY
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import first_profile
from keybroker.wire.secret import Secret
from tests.header.disks import KIB, MIB, Disk, cryptsetup, import_token, luks_format, opens
from tests.header.named import grown

XTS: Final = first_profile("aes-xts-plain64")
AREA: Final = 258048


@contextmanager
def reading(path: Path) -> Iterator[tuple[Header, Read]]:
    fd = os.open(path, os.O_RDONLY)

    def read(offset: int, length: int) -> bytes:
        return os.pread(fd, length, offset)

    try:
        yield read_header(read, os.stat(fd).st_size), read
    finally:
        os.close(fd)


@contextmanager
def sealed(image: HeaderImage) -> Iterator[int]:
    fd = memfd(image)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def usual_path(workshop: Path) -> Path:
    """A disk as cryptsetup formats it by default: data at 16 MiB."""
    return luks_format(workshop / "usual.img", 17 * MIB, "--key-size", "512")


@pytest.mark.parametrize("kind", ["plain_path", "rich_path", "usual_path"])
def test_a_copy_says_what_the_header_says(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    with reading(path) as (header, read):
        copy = pack(header, read)
        image = unpack(copy)
        assert image == image_of(header, read)
    assert image.total == header.data_offset
    assert read_header(image.read, image.total) == header
    original = path.read_bytes()
    kept = image.read(0, 32 * KIB)
    assert kept == original[: 32 * KIB]
    for slot in header.keyslots.values():
        area = slice(slot.area.offset, slot.area.end)
        assert image.read(slot.area.offset, slot.area.size) == original[area]
    assert len(copy) < len(header.keyslots) * AREA + 17 * KIB


def test_what_was_never_in_use_is_not_in_a_copy(usual_path: Path) -> None:
    """luksFormat fills the keyslots area with random bytes; they are nobody's."""
    with reading(usual_path) as (header, read):
        image = image_of(header, read)
    assert [(offset, len(held)) for offset, held in image.extents] == [
        (0, 8192),
        (16384, 8192),
        (32768, AREA),
    ]
    assert not any(image.read(32768 + AREA, 16 * MIB))


def test_a_copy_is_the_same_each_time(plain_path: Path) -> None:
    with reading(plain_path) as (header, read):
        assert pack(header, read) == pack(header, read)


def test_a_copy_has_the_bytes_that_were_judged_not_those_that_stand_there_now(plain: Disk) -> None:
    header = plain.header()
    asked: list[tuple[int, int]] = []

    def read(offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return b"\xee" * length

    image = image_of(header, read)
    assert asked == [(32768, AREA)]
    assert read_header(image.read, image.total) == header


@pytest.mark.parametrize("kind", ["plain_path", "rich_path", "usual_path"])
def test_cryptsetup_opens_a_volume_from_the_file_in_memory(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    with reading(path) as (header, read), sealed(image_of(header, read)) as fd:
        for keyslot in header.keyslots:
            assert opens(path, header=fd, keyslot=keyslot)


def test_the_file_in_memory_is_as_long_as_the_data_offset_and_takes_well_under_a_mebibyte(
    usual_path: Path, rich_path: Path
) -> None:
    for path, most in ((usual_path, 300 * KIB), (rich_path, 800 * KIB)):
        with reading(path) as (header, read), sealed(image_of(header, read)) as fd:
            found = os.fstat(fd)
            assert found.st_size == header.data_offset
            assert found.st_blocks * 512 <= most


def test_nobody_can_change_the_file_in_memory(plain_path: Path) -> None:
    with reading(plain_path) as (header, read), sealed(image_of(header, read)) as fd:
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == SEALS
        assert not os.get_inheritable(fd)
        for change in (
            lambda: os.pwrite(fd, b"x", 0),
            lambda: os.ftruncate(fd, 4096),
            lambda: os.ftruncate(fd, 1 << 30),
            lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        ):
            with pytest.raises(PermissionError):
                change()


def test_a_file_in_memory_that_cannot_be_made_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Invalid argument"):
        memfd(HeaderImage((), -512))
    assert os.listdir("/proc/self/fd") == before


# what is not copied


def test_a_header_in_mid_reencryption_is_not_copied(plain: Disk) -> None:
    metadata = plain.json()
    metadata["config"]["requirements"] = {"mandatory": ["online-reencrypt-v2"]}
    header = plain.with_json(metadata).header()
    with pytest.raises(KeybrokerError, match="a re-encryption is in progress") as refused:
        pack(header, plain.read)
    assert refused.value.problem is Problem.HEADER_REFUSED


def test_a_reencryption_keyslot_is_not_copied_even_without_its_requirement(plain: Disk) -> None:
    metadata = plain.json()
    area = {"type": "journal", "offset": "524288", "size": "8192"}
    slot = {"type": "reencrypt", "key_size": 1, "mode": "reencrypt", "direction": "forward", "area": area}
    metadata["keyslots"]["1"] = slot
    header = plain.with_json(metadata).header()
    with pytest.raises(KeybrokerError, match="a re-encryption is in progress"):
        pack(header, plain.read)


def test_an_area_that_cannot_be_read_is_not_copied(plain: Disk) -> None:
    def dead(offset: int, length: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    header = plain.header()
    with pytest.raises(KeybrokerError, match="area at 32768 cannot be read: Input/output error"):
        pack(header, dead)
    with pytest.raises(KeybrokerError, match="area at 32768 ends beyond the device"):
        pack(header, replace(plain, size=100_000).read)


def test_areas_of_an_attackers_size_are_neither_read_nor_kept(plain: Disk) -> None:
    metadata = plain.json()
    metadata["keyslots"]["0"]["area"]["size"] = str(100 * MIB)
    metadata["config"]["keyslots_size"] = str(100 * MIB)
    metadata["segments"]["0"]["offset"] = str(128 * MIB)
    disk = replace(plain, size=200 * MIB).with_json(metadata)

    def read(offset: int, length: int) -> bytes:
        raise AssertionError

    with pytest.raises(KeybrokerError, match="it would have more than"):
        pack(disk.header(), read)


def test_the_largest_header_gives_a_small_copy(plain: Disk) -> None:
    disk = grown(4 * MIB)(plain)
    copy = pack(disk.header(), disk.read)
    assert len(copy) < 300 * KIB < LARGEST_HEADER_COPY
    image = unpack(copy)
    assert read_header(image.read, image.total) == disk.header()


# the form


def form(total: int, extents: list[tuple[int, int]], held: bytes, *, magic: bytes = b"KBH1") -> Secret:
    """Write KBH1 by hand, with a right checksum."""
    copy = struct.pack(">4sQI", magic, total, len(extents))
    copy += b"".join(struct.pack(">QI", *extent) for extent in extents) + held
    return Secret(copy + hashlib.sha256(copy).digest())


PAGE: Final = b"p" * 4096

GOOD: Final = [(0, 4096), (8192, 8192), (1 << 20, 4096)]


def test_the_form_is_what_its_description_says() -> None:
    image = unpack(form(2 << 20, GOOD, b"a" * 4096 + b"b" * 8192 + b"c" * 4096))
    assert image.extents == ((0, b"a" * 4096), (8192, b"b" * 8192), (1 << 20, b"c" * 4096))
    assert image.total == 2 << 20


WRONG: Final[dict[str, Secret]] = {
    "empty": Secret(b""),
    "short": Secret(b"KBH1"),
    "a checksum alone": Secret(hashlib.sha256(b"").digest()),
    "another kind": form(8192, [(0, 4096)], PAGE, magic=b"KBH2"),
    "no length": form(0, [(0, 4096)], PAGE),
    "a length that is no sector's": form(8193, [(0, 4096)], PAGE),
    "a length beyond reason": form((1 << 30) + 512, [(0, 4096)], PAGE),
    "no extents": form(8192, [], b""),
    "an extent of nothing": form(8192, [(0, 4096), (4096, 0)], PAGE),
    "an extent beyond the end": form(8192, [(8192, 4096)], PAGE),
    "an extent over the end": form(8192, [(4096, 8192)], PAGE * 2),
    "an extent that is not aligned": form(8192, [(512, 4096)], PAGE),
    "an extent of half a page": form(8192, [(0, 2048)], PAGE[:2048]),
    "two extents that overlap": form(16384, [(0, 8192), (4096, 4096)], PAGE * 3),
    "two extents in the wrong order": form(16384, [(8192, 4096), (0, 4096)], PAGE * 2),
    "the same extent twice": form(16384, [(0, 4096), (0, 4096)], PAGE * 2),
    "bytes too few": form(8192, [(0, 4096)], PAGE[:-1]),
    "bytes too many": form(8192, [(0, 4096)], PAGE + b"x"),
    "more extents than bytes": form(1 << 30, [(n * 4096, 4096) for n in range(64)], b""),
    "too many extents": form(1 << 30, [(n * 4096, 4096) for n in range(65)], PAGE * 65),
    "an offset of 2 to the 64": form(8192, [(2**64 - 4096, 4096)], PAGE),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_in_the_one_form_is_not_read(case: str) -> None:
    with pytest.raises(KeybrokerError, match="header copy: ") as refused:
        unpack(WRONG[case])
    assert refused.value.problem is Problem.CORRUPT


def test_no_byte_of_a_copy_may_change_nor_be_missing(plain_path: Path) -> None:
    with reading(plain_path) as (header, read):
        good = pack(header, read).reveal()
    for at in [*range(64), *range(64, len(good), 997), len(good) - 1]:
        changed = bytearray(good)
        changed[at] ^= 1
        for wrong in (bytes(changed), good[:at]):
            with pytest.raises(KeybrokerError) as refused:
                unpack(Secret(wrong))
            assert refused.value.problem is Problem.CORRUPT


def test_a_claim_of_many_extents_costs_no_memory() -> None:
    head = struct.pack(">4sQI", b"KBH1", 8192, 2**32 - 1)
    with pytest.raises(KeybrokerError, match="it says that it has 4294967295 extents"):
        unpack(Secret(head + hashlib.sha256(head).digest()))


def test_an_image_reads_as_a_device_does() -> None:
    image = HeaderImage(((4096, b"a" * 4096), (12288, b"b" * 4096)), 20480)
    whole = image.read(0, 20480)
    assert whole == bytes(4096) + b"a" * 4096 + bytes(4096) + b"b" * 4096 + bytes(4096)
    for offset in (0, 4000, 4096, 8191, 12287, 16384, 20479, 20480, 30000):
        for length in (0, 1, 100, 9000, 40000):
            assert image.read(offset, length) == whole[offset : offset + length]


def test_a_copy_shows_none_of_its_bytes_by_accident(plain_path: Path) -> None:
    with reading(plain_path) as (header, read):
        assert repr(pack(header, read)).startswith("<secret, ")
        assert repr(image_of(header, read)) == "HeaderImage(total=1048576)"


# restoring


def test_a_header_that_is_written_back_from_its_copy_opens_the_volume_again(tmp_path: Path) -> None:
    path = luks_format(tmp_path / "disk", MIB + 64 * KIB, "--offset", "2048", "--luks2-keyslots-size", "992k")
    with reading(path) as (header, read):
        accept(header, XTS, header.pin)
        image = unpack(pack(header, read))
    with path.open("r+b") as disk:
        disk.write(os.urandom(MIB))
        assert not opens(path)
        disk.seek(0)
        disk.write(image.read(0, image.total))
    assert opens(path, keyslot=0)
    import_token(path, {"type": "x", "keyslots": ["0"]})
    assert cryptsetup("luksUUID", path).stdout.decode().strip() == header.uuid
