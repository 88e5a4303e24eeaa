"""The two copies of a header: which one counts, and what may not be wrong with either."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from agent.luks.acceptance import accept
from agent.luks.copy import image_of
from agent.luks.header import NotLuks, read_header
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import first_profile
from tests.header.disks import BINARY, FIELDS, KIB, MIB, Disk, cryptsetup, luks_format, on_file

XTS: Final = first_profile("aes-xts-plain64")


def refusal(disk: Disk) -> str:
    with pytest.raises(KeybrokerError) as refused:
        disk.header()
    assert refused.value.problem is Problem.HEADER_REFUSED
    assert not isinstance(refused.value, NotLuks)
    return refused.value.detail


def older(disk: Disk, *, second: bool, by: int = 1) -> Disk:
    """Give one copy a smaller sequence id."""
    sequence = int.from_bytes(disk.field("seqid"), "big")
    return disk.with_field("seqid", sequence - by, copies=(second,))


# which copy counts


@pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
def test_a_copy_with_a_wrong_checksum_is_passed_over(second: bool, plain: Disk) -> None:
    header = plain.without(second=second).header()
    assert header.degraded
    assert header.seen().degraded
    assert (header.pin, header.sequence) == (plain.header().pin, plain.header().sequence)
    accept(header, XTS, plain.header().pin)


@pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
def test_the_newer_of_two_whole_copies_counts(second: bool, plain: Disk) -> None:
    """cryptsetup was killed between the two: the JSON texts may differ too."""
    metadata = plain.json()
    metadata["tokens"] = {}
    disk = older(plain.with_json(metadata, copies=(second,)), second=second)
    header = disk.header()
    assert header.degraded
    assert header.token is not None
    assert header.sequence == plain.header().sequence


def test_two_copies_of_the_same_age_must_say_the_same(plain: Disk) -> None:
    metadata = plain.json()
    metadata["tokens"] = {}
    assert "say different things" in refusal(plain.with_json(metadata, copies=(True,)))
    for name in ("label", "subsystem"):
        assert "say different things" in refusal(plain.with_field(name, b"other", copies=(True,)))
    other = b"5ca1ab1e-0000-4000-8000-000000000001"
    assert "say different things" in refusal(plain.with_field("uuid", other, copies=(False,)))


@pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
def test_a_whole_copy_that_is_refused_does_not_fall_back_on_its_twin(second: bool, plain: Disk) -> None:
    """A newer cryptsetup may have written it: the older twin would hide what it requires."""
    metadata = plain.json()
    metadata["config"]["something"] = "new"
    disk = older(plain.with_json(metadata, copies=(second,)), second=not second)
    assert refusal(disk) == "JSON area: config: has fields that are not known here: something"
    assert "padding: is not zero" in refusal(plain.with_field("padding", b"\x01", copies=(second,)))


def test_both_copies_damaged_is_not_a_blank_disk(plain: Disk) -> None:
    disk = plain.without(second=False).without(second=True)
    assert refusal(disk) == "both copies: the first has a wrong checksum; the second has a wrong checksum"


def test_zeros_over_the_first_copy_are_a_dead_sector(plain: Disk) -> None:
    disk = plain.with_bytes(0, bytes(BINARY))
    assert disk.header().degraded
    assert disk.header().pin == plain.header().pin


@pytest.mark.parametrize("what", [b"XFSB", b"\xeb\x3c\x90", b"SKUL\xba\xbe"])
def test_something_else_over_the_first_copy_is_not_repaired_away(what: bytes, plain: Disk) -> None:
    """The second copy survives a mkfs; what it describes does not."""
    assert "something else was written over it" in refusal(plain.with_bytes(0, what))


def test_a_first_copy_alone_at_its_end_is_read_as_degraded(plain: Disk) -> None:
    disk = plain.with_bytes(plain.header_bytes, bytes(plain.header_bytes))
    assert disk.header().degraded


# what is no header


@pytest.mark.parametrize(
    "start", [b"", bytes(64 * KIB), b"\xff" * 64 * KIB, b"EFI PART" * 8000, b"LUKS" * 16000]
)
@pytest.mark.parametrize("size", [0, 1, 511, 4095, 4096, 32 * KIB, 64 * KIB, 8 * MIB])
def test_a_disk_without_any_signature_is_told_from_a_broken_header(start: bytes, size: int) -> None:
    with pytest.raises(NotLuks) as refused:
        Disk(start[:size], size).header()
    assert refused.value.problem is Problem.HEADER_REFUSED
    assert refused.value.detail == "there is no LUKS header"


def test_luks1_is_named(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(4 * MIB)
    quick = ("--pbkdf-force-iterations", "1000", "--key-file", "-")
    cryptsetup("luksFormat", "--type", "luks1", "-q", *quick, path)
    assert refusal(Disk.of(path)) == "version: is 1, that is LUKS1; must be 2"


# what may be wrong with a binary header whose checksum is right

WRONG: Final[dict[str, tuple[str, bytes | int, str]]] = {
    "version 0": ("version", 0, "version: is 0, must be 2"),
    "version 3": ("version", 3, "version: is 3, must be 2"),
    "version 512": ("version", 0x0200, "version: is 512, must be 2"),
    "sequence 0": ("seqid", 0, "seqid: is 0"),
    "sequence 2 to the 63": ("seqid", 2**63, "seqid: is 9223372036854775808"),
    "label without an end": ("label", b"a" * 48, "label: is not text"),
    "label with more behind its end": ("label", b"a\0b", "label: is not text"),
    "label with a newline": ("label", b"a\nb", "label: is not text"),
    "label with an escape": ("label", b"\x1b[2J", "label: is not text"),
    "label that is not UTF-8": ("label", b"\xff\xfe", "label: is not UTF-8"),
    "subsystem without an end": ("subsystem", b"a" * 48, "subsystem: is not text"),
    "another checksum": ("csum_alg", b"sha512", "checksum_alg: must be sha256"),
    "no checksum": ("csum_alg", b"", "checksum_alg: must be sha256"),
    "checksum in capitals": ("csum_alg", b"SHA256", "checksum_alg: must be sha256"),
    "no UUID": ("uuid", b"", "uuid: is not a UUID"),
    "UUID in capitals": ("uuid", b"5CA1AB1E-0000-4000-8000-000000000001", "uuid: is not a UUID"),
    "UUID and a space": ("uuid", b"5ca1ab1e-0000-4000-8000-000000000001 ", "uuid: is not a UUID"),
    "UUID with a path": ("uuid", b"../../../../../../../../etc/passwd-00", "uuid: is not a UUID"),
    "offset of the other copy": ("hdr_offset", 4096, "hdr_offset: is 4096"),
    "offset of 2 to the 64": ("hdr_offset", 2**64 - 1, "hdr_offset: is 18446744073709551615"),
    "padding": ("padding", b"\0" * 183 + b"\x01", "padding: is not zero"),
    "the large padding": ("padding4096", b"\0" * 3583 + b"\x01", "padding: is not zero"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("copies", [(False,), (True,), (False, True)], ids=["first", "second", "both"])
def test_a_field_that_cryptsetup_does_not_write_is_refused(
    case: str, copies: tuple[bool, ...], plain: Disk
) -> None:
    name, value, reason = WRONG[case]
    assert reason in refusal(plain.with_field(name, value, copies=copies))


@pytest.mark.parametrize("size", [0, 1, 4096, 8192, 0x4001, 0xC000, 0x800000, 2**31, 2**63, 2**64 - 1])
def test_a_size_that_cryptsetup_does_not_know_makes_a_copy_unusable(size: int, plain: Disk) -> None:
    first = plain.with_field("hdr_size", size, copies=(False,), mend=False)
    assert first.header().degraded
    both = first.with_bytes(16 * KIB + FIELDS["hdr_size"][0], size.to_bytes(8, "big"))
    assert f"says that it has {size} bytes" in refusal(both)


def test_a_copy_that_says_another_size_than_where_it_is_does_not_count(plain: Disk) -> None:
    disk = plain.with_bytes(16 * KIB + FIELDS["hdr_size"][0], (32 * KIB).to_bytes(8, "big"))
    assert disk.header().degraded
    assert "says that it has 32768 bytes" in refusal(disk.without(second=False))


def test_the_rest_of_the_checksum_field_must_be_empty(plain: Disk) -> None:
    at, length = FIELDS["csum"]
    assert plain.with_bytes(at + length - 1, b"\x01").header().degraded


def test_every_byte_of_the_binary_header_counts(plain: Disk) -> None:
    """A flipped bit in one copy leaves the other; the same one in both leaves nothing."""
    pin = plain.header().pin
    for at in range(512):
        mask = 1 << at % 8
        flipped = plain.with_bytes(at, bytes([plain.start[at] ^ mask]))
        if at < 6:
            assert "something else was written" in refusal(flipped)
        else:
            assert flipped.header().degraded
            assert flipped.header().pin == pin
        twin = flipped.header_bytes if at >= 16 else 16 * KIB
        both = flipped.with_bytes(twin + at, bytes([plain.start[twin + at] ^ mask]))
        with pytest.raises(KeybrokerError):
            both.header()


@pytest.mark.parametrize("at", range(BINARY, 16 * KIB, 97))
def test_a_changed_byte_in_the_json_area_leaves_the_other_copy(at: int, plain: Disk) -> None:
    disk = plain.with_bytes(at, bytes([plain.start[at] ^ 0x20]))
    assert disk.header().degraded
    assert disk.header().metadata == plain.header().metadata


# a device that ends, or cannot be read


@pytest.mark.parametrize("size", [*range(0, 40 * KIB, 1024), 32 * KIB - 1, 512 * KIB, MIB - 512, MIB - 1])
def test_a_truncated_device_is_refused_and_nothing_beyond_its_end_is_read(size: int, plain: Disk) -> None:
    asked: list[int] = []
    disk = Disk(plain.start[:size], size)

    def read(offset: int, length: int) -> bytes:
        asked.append(offset + length)
        return disk.read(offset, length)

    with pytest.raises(KeybrokerError) as refused:
        read_header(read, size)
    assert refused.value.problem is Problem.HEADER_REFUSED
    assert max(asked, default=0) <= size


def test_a_device_that_is_shorter_than_it_says_is_refused(plain: Disk) -> None:
    disk = Disk(plain.start[:5000], 5000)
    with pytest.raises(KeybrokerError, match="has only 904 of 12288 bytes at 4096"):
        read_header(disk.read, plain.size)


def test_a_device_that_ends_where_the_data_begins_is_read(plain: Disk) -> None:
    """So is a header copy, which has that length."""
    assert replace(plain, size=MIB).header() == plain.header()


def test_bytes_that_cannot_be_read_are_bytes_that_are_not_there(plain: Disk) -> None:
    def dead(first: int, last: int) -> Disk | None:
        def read(offset: int, length: int) -> bytes:
            if offset < last and first < offset + length:
                raise OSError(5, os.strerror(5))
            return plain.read(offset, length)

        return read_header(read, plain.size)  # type: ignore[return-value]

    for first, last in ((0, 512), (8192, 8704), (16 * KIB, 17 * KIB), (24 * KIB, 32 * KIB)):
        header = dead(first, last)
        assert header is not None
    with pytest.raises(
        KeybrokerError, match=r"the first cannot be read: Input/output error; the second cannot"
    ):
        dead(0, 5 * MIB)


def test_no_byte_is_read_twice(plain: Disk) -> None:
    """Whatever the device shows the second time, nobody looks."""
    disks = [
        plain,
        plain.without(second=False),
        plain.without(second=True),
        plain.with_bytes(0, bytes(BINARY)),
    ]
    disks += [
        plain.grown(4 * MIB).without(second=False),
        Disk(b"", 64 * MIB),
        Disk(b"LUKS\xba\xbe", 64 * MIB),
    ]
    for disk in disks:
        seen: set[int] = set()

        def read(offset: int, length: int, disk: Disk = disk, seen: set[int] = seen) -> bytes:
            blocks = set(range(offset, offset + length, 512))
            assert length > 0
            assert not blocks & seen
            seen |= blocks
            return disk.read(offset, length)

        try:
            read_header(read, disk.size)
        except KeybrokerError:
            assert seen


def test_a_device_that_changes_while_it_is_read_gains_nothing(plain: Disk, rich: Disk) -> None:
    """The first read shows one header, every other read another: what is judged is what is kept."""
    reads = 0

    def read(offset: int, length: int) -> bytes:
        nonlocal reads
        reads += 1
        return (plain if reads == 1 else rich).read(offset, length)

    header = read_header(read, plain.size)
    assert header.degraded
    assert (header.pin, header.metadata) == (rich.header().pin, rich.header().metadata)
    assert header.second == rich.header().second
    assert plain.start[:512] not in header.first


# what a degraded header is made into


@pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("damage", ["checksum", "age"])
def test_a_degraded_header_is_opened_from_two_whole_copies(
    second: bool, damage: str, plain: Disk, plain_path: Path, tmp_path: Path
) -> None:
    """cryptsetup must not have a choice, nor a reason to repair anything."""
    disk = plain.without(second=second) if damage == "checksum" else older(plain, second=second)
    header = disk.header()
    path = on_file(disk, plain_path, tmp_path / "disk")
    with path.open("rb") as file:
        image = image_of(header, lambda offset, length: os.pread(file.fileno(), length, offset))
    mended = read_header(image.read, image.total)
    assert not mended.degraded
    assert (mended.metadata, mended.pin, mended.sequence) == (header.metadata, header.pin, header.sequence)
    (tmp_path / "mended").write_bytes(image.read(0, image.total))
    dump = cryptsetup("luksDump", "--debug", tmp_path / "mended").stdout.decode()
    assert "requires recovery" not in dump


def test_a_whole_header_is_kept_as_it_is(plain: Disk) -> None:
    header = plain.header()
    assert plain.start.startswith(header.first)
    assert plain.start[16 * KIB :].startswith(header.second)


def test_the_size_of_the_disk_does_not_change_what_is_read(tmp_path: Path) -> None:
    path = luks_format(tmp_path / "disk", 8 * MIB, "--offset", "8192", "--luks2-keyslots-size", "4064k")
    small = Disk.of(path)
    assert replace(small, size=1 << 50).header() == small.header()
