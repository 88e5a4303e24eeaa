"""The agent's own way from a disk to an opened volume, on forged headers: no program is started with a key.

CPython tells its audit hooks of every process that it starts, whoever starts it (PEP 578): nothing has to
stand in for the agent's own code, nor for cryptsetup.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pytest

from agent import opening, sighting
from agent.devices import BlockDevice, OpenDevice
from agent.luks import copy
from agent.luks.header import Header
from agent.process import ToolFailed
from keybroker.wire.names import AddonName, KeyVersion, VolumeId, VolumeName
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import first_profile
from keybroker.wire.records import Device, Record
from keybroker.wire.secret import Secret, passphrase
from tests.header.disks import PASSPHRASE, Disk, Image, on_file
from tests.header.forgeries import forge
from tests.header.named import ATTACKS, INVALID
from tests.header.test_header_forgeries import HARMLESS

PROFILE: Final = replace(first_profile("aes-xts-plain64"), argon2_memory_kib=64)


@dataclass
class Starts:
    """The programs that this process starts while it is watched."""

    watching: bool = False
    programs: list[str] = field(default_factory=list)

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.watching and event in (
            "subprocess.Popen",
            "os.posix_spawn",
            "os.exec",
            "os.system",
            "os.fork",
        ):
            self.programs.append(str(arguments[0]) if arguments else event)


STARTS: Final = Starts()
sys.addaudithook(STARTS.hook)  # for good: there is no way to take one back


@contextmanager
def watched() -> Iterator[list[str]]:
    """Collect the programs that are started meanwhile."""
    STARTS.programs.clear()
    STARTS.watching = True
    try:
        yield STARTS.programs
    finally:
        STARTS.watching = False


@contextmanager
def opened(path: Path) -> Iterator[OpenDevice]:
    """Hold a file open as the agent holds a disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        device = BlockDevice(
            path, "kbv-q3m5x7abcdef", os.fstat(fd).st_size, 512, 4096, (7, 0), read_only=True
        )
        yield OpenDevice(device, fd, exclusive=False)
    finally:
        os.close(fd)


def record(header: Header, size: int) -> Record:
    """The broker's record of the volume whose header this is."""
    return Record(
        volume=VolumeId("kbv-q3m5x7abcdef"),
        addon=AddonName("shop-db"),
        name=VolumeName("data"),
        stage="ready",
        revision=4,
        size_bytes=size,
        filesystem="ext4",
        mount="/srv/data",
        serial="kbv-q3m5x7abcdef",
        device=Device("kbv-q3m5x7abcdef", size),
        luks_uuid=header.uuid,
        profile=PROFILE,
        pin=header.pin,
        sequence=header.sequence,
        current=KeyVersion(1),
        wanted=KeyVersion(1),
    )


def keys() -> dict[KeyVersion, Secret]:
    return {KeyVersion(1): passphrase(PASSPHRASE)}


def refusal(path: Path, volume: Record) -> str:
    """Look at a disk and open its volume as at boot, with the right key in hand; say why that was refused.

    The broker's own look at the pin is left out: this is what holds if it gave the key away.
    """
    with opened(path) as disk:
        seen = sighting.look(volume, disk)
        if seen.copy is None:
            return seen.observation.detail or ", ".join(seen.observation.header.requirements)  # type: ignore[union-attr]
        with pytest.raises(KeybrokerError) as refused:
            opening.open_crypt(volume, disk, keys(), seen.copy)
    assert refused.value.problem is Problem.HEADER_REFUSED
    return refused.value.detail


@pytest.fixture
def three(rich: Disk) -> Disk:
    """Three keyslots and our token alone."""
    metadata = rich.json()
    del metadata["tokens"]["1"]
    return rich.with_json(metadata)


def test_a_good_header_brings_the_passphrase_to_cryptsetup(
    three: Disk, rich_path: Path, tmp_path: Path
) -> None:
    """So that its absence below means something. What then fails is the file, which is no disk."""
    path = on_file(three, rich_path, tmp_path / "disk")
    header = three.header()
    with opened(path) as disk, watched() as programs:
        held = sighting.look(record(header, three.size), disk).copy
        assert held is not None
        assert copy.unpack(held).total == header.data_offset
        with pytest.raises((ToolFailed, KeybrokerError)):
            opening.open_crypt(record(header, three.size), disk, keys(), held)
    assert any("cryptsetup" in program for program in programs)


def all_refused(disks: Iterable[tuple[str, Disk]], good: Disk, image: Image) -> int:
    """Put each forged disk onto the image, take it for the good one's volume; return how many were refused.

    What is harmless, which may open the volume, is looked at only.
    """
    volume = record(good.header(), good.size)
    refused = harmless = 0
    for name, disk in disks:
        image.forge(disk)
        with watched() as programs:
            if HARMLESS.fullmatch(name):
                harmless += 1
                with opened(image.path) as held:
                    sighting.look(volume, held)
            else:
                refused += 1
                assert refusal(image.path, volume), name
        assert programs == [], name
        assert image.is_untouched, name
    print(f"{refused} forged disks refused, {harmless} harmless: no program was started, no byte was changed")
    return refused


def test_no_named_forgery_brings_any_passphrase_to_any_program_nor_changes_its_image(
    three: Disk, rich_path: Path, tmp_path: Path
) -> None:
    makes = [(name, make) for name, (make, _) in ATTACKS.items()] + [*INVALID.items()]
    forged = ((name, make(three)) for name, make in makes)
    assert all_refused(forged, three, Image(rich_path, tmp_path / "disk")) == len(makes) > 90


@pytest.mark.parametrize(
    ("kind", "copies"),
    [("plain", (False, True)), ("three", (False, True)), ("plain", (False,))],
    ids=["one keyslot", "three keyslots", "one keyslot, the second copy damaged"],
)
def test_no_forged_field_brings_any_passphrase_to_any_program_nor_changes_its_image(
    kind: str, copies: tuple[bool, ...], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Every forgery that the reader and the judge are shown goes the whole way here, too."""
    good: Disk = request.getfixturevalue(kind)
    original: Path = request.getfixturevalue("plain_path" if kind == "plain" else "rich_path")
    disk = good if True in copies else good.without(second=True)
    forged = ((forgery.name, disk.with_text(forgery.text, copies=copies)) for forgery in forge(good.json()))
    assert all_refused(forged, good, Image(original, tmp_path / "disk")) > 2500
