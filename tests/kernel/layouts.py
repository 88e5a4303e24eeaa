"""Disks that are not blank, or not the right one: each a way to lose data if the agent ever wrote to it.

A layout says how its image is made, how it is attached, what holds it meanwhile, and what the agent must
say of it. Those that need device-mapper, md or mounts run inside User-Mode Linux, the others on the host too.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.swap import Mark
from keybroker.wire.names import VolumeId
from tests.kernel.disks import MIB, image, loop

SIZE: Final = 32 * MIB
VOLUME: Final = VolumeId("kbv-q3m5x7abcdef")
ANOTHER: Final = VolumeId("kbv-othersother2")
SERIAL: Final = "kbv-q3m5x7abcdef"

Build = Callable[[Path], object]
Hold = Callable[[Path, Path], AbstractContextManager[object]]
"""Takes the device and an empty directory."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One disk.

    Attributes:
        name: of the test.
        reason: a pattern of what ``blank.look`` says.
        build: writes the image.
        options: losetup's.
        hold: what has the device meanwhile.
        least_bytes: what the volume wants.
        sight: what ``sighting.look`` calls it for a data volume.
        only_looking_tells: nothing on the disk itself would keep a header from being written, so that all
            depends on the look before the claim.
        inside: needs a kernel of its own.
    """

    name: str
    reason: str
    build: Build
    options: tuple[str, ...] = ()
    hold: Hold = lambda device, directory: nullcontext()
    least_bytes: int = SIZE
    sight: str = "other"
    only_looking_tells: bool = False
    inside: bool = False


def tool(*arguments: str | Path, stdin: bytes = b"") -> None:
    """Run a real program; its output only counts when it fails."""
    subprocess.run([str(word) for word in arguments], check=True, capture_output=True, input=stdin)


def holding(pieces: dict[int, bytes], size: int = SIZE) -> Build:
    """Build zeros with some bytes in some places, from the end where the place is negative."""
    return lambda path: image(path, size, {at % size: piece for at, piece in pieces.items()})


def made_by(*command: str, size: int = SIZE, stdin: bytes = b"") -> Build:
    """Build by running a tool on zeros; its last argument is the image."""

    def build(path: Path) -> None:
        tool(*command, image(path, size), stdin=stdin)

    return build


def luks(*options: str, size: int = SIZE, wipe: tuple[tuple[int, int], ...] = (), with_: int = 0) -> Build:
    """Build a foreign LUKS volume, and overwrite some stretches (offset, length) of it."""

    def build(path: Path) -> None:
        made_by(
            "cryptsetup", "luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
            "--key-file", "-", *options, size=size, stdin=b"foreign",
        )(path)  # fmt: skip
        with path.open("r+b") as file:
            for offset, length in wipe:
                file.seek(offset)
                file.write(bytes([with_]) * length)

    return build


def then(*steps: Build) -> Build:
    """Build in several steps."""

    def build(path: Path) -> None:
        for step in steps:
            step(path)

    return build


def on(*command: str) -> Build:
    """Run a tool on what was built."""
    return lambda path: tool(*command, path)


def patch(offset: int, piece: bytes) -> Build:
    """Overwrite a few bytes of what was built."""

    def build(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
            file.write(piece)

    return build


def mbr(path: Path) -> None:
    """Write a DOS partition table with one partition to what was built."""
    tool("parted", "--script", path, "mklabel", "msdos", "mkpart", "primary", "1MiB", "8MiB")


def fat16() -> bytes:
    """The boot sector of a FAT16 filesystem (ECMA-107)."""
    bios = struct.pack("<HBHBHHBHHHII", 512, 4, 1, 2, 512, 0, 0xF8, 64, 63, 255, 0, SIZE // 512)
    head = b"\xeb\x3c\x90MSDOS5.0" + bios + struct.pack("<BBBI", 0x80, 0, 0x29, 0x1234ABCD)
    return (head + b"NO NAME    FAT16   ").ljust(510, b"\0") + b"\x55\xaa"


def ntfs() -> bytes:
    """The boot sector of an NTFS filesystem."""
    bios = struct.pack("<HBHBHHBHHHII", 512, 8, 0, 0, 0, 0, 0xF8, 0, 63, 255, 0, 0)
    extended = struct.pack("<IQQQbxxxbxxxQ", 0x800080, SIZE // 512 - 1, 4, 2, -10, 1, 0x1122334455667788)
    return (b"\xeb\x52\x90NTFS    " + bios + extended).ljust(510, b"\0") + b"\x55\xaa"


def lvm_label() -> bytes:
    """The label of an LVM physical volume, in sector 1 (lvm2, lib/label/label.h), with its checksum."""
    body = struct.pack("<I8s", 32, b"LVM2 001") + b"abcdefghijklmnopqrstuvwxyz012345" + bytes(448)
    checksum = 0xF597A6CF
    for byte in struct.pack("<I8s", 32, b"LVM2 001") + body[12:]:
        checksum ^= byte
        for _ in range(8):
            checksum = (checksum >> 1) ^ (0xEDB88320 if checksum & 1 else 0)
    return b"LABELONE" + struct.pack("<QI", 1, checksum) + body


def marked(
    volume: VolumeId = VOLUME, serial: str = SERIAL, size: int = SIZE, flip: int | None = None
) -> Build:
    """Build a swap disk's mark, perhaps with one bit of it wrong."""
    block = bytearray(Mark(volume, serial, size).block())
    if flip is not None:
        block[flip] ^= 1
    return holding({0: bytes(block)})


@contextmanager
def mapped(device: Path, directory: Path, *, sectors: int = 2048) -> Iterator[None]:
    tool("dmsetup", "create", "layout", "--table", f"0 {sectors} linear {device} 0")
    try:
        yield
    finally:
        tool("dmsetup", "remove", "layout")


@contextmanager
def mounted(device: Path, directory: Path) -> Iterator[None]:
    tool("mount", "-o", "ro,noload", device, directory)
    try:
        yield
    finally:
        tool("umount", directory)


@contextmanager
def mounted_elsewhere(device: Path, directory: Path) -> Iterator[None]:
    """Mount it in another mount namespace, whose table we do not see."""
    script = 'mount -o ro,noload "$0" "$1" && echo there && read -r line'
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, device, directory],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as elsewhere:  # fmt: skip
        assert elsewhere.stdout is not None
        assert elsewhere.stdout.readline() == b"there\n"
        yield
        elsewhere.communicate(b"\n")


@contextmanager
def swapped_on(device: Path, directory: Path) -> Iterator[None]:
    tool("swapon", device)
    try:
        yield
    finally:
        tool("swapoff", device)


@contextmanager
def claimed(device: Path, directory: Path) -> Iterator[None]:
    fd = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def under_a_loop(device: Path, directory: Path) -> Iterator[None]:
    with loop(device):
        yield


@contextmanager
def lvm(device: Path, directory: Path) -> Iterator[None]:
    """Make it a physical volume with an active logical one."""
    options = ("--devices", str(device), "--config", "global/event_activation=0 activation/udev_sync=0")
    tool("vgcreate", *options, "layout", device)
    tool("lvcreate", *options, "-y", "-Wn", "-Zn", "-n", "data", "-L", "4m", "layout")
    try:
        yield
    finally:
        tool("vgchange", *options, "-an", "layout")


@contextmanager
def raid(device: Path, directory: Path) -> Iterator[None]:
    """Make it the one member of a running array, its superblock at the end."""
    tool(
        "mdadm", "--create", "/dev/md9", "--run", "--force", "--level=1", "--raid-devices=1",
        "--metadata=1.0", "--bitmap=none", device,
    )  # fmt: skip
    try:
        yield
    finally:
        tool("mdadm", "--stop", "/dev/md9")


@contextmanager
def encrypted(device: Path, directory: Path) -> Iterator[None]:
    """Open plain dm-crypt on it: nothing on the disk shows it."""
    tool(
        "cryptsetup", "open", "-q", "--type", "plain", "--cipher", "aes-xts-plain64", "--key-size", "512",
        "--key-file", "/dev/urandom", device, "layout",
    )  # fmt: skip
    try:
        yield
    finally:
        tool("cryptsetup", "close", "layout")


ZEROED_START = ((0, MIB),)
BTRFS = {0x10040: b"_BHRfS_M", 0x10000 + 0x90: struct.pack("<II", 4096, 16384)}
GPT = ("sgdisk", "--clear")

LAYOUTS: Final = (
    # one byte is enough
    Layout("a byte at the very start", "first MiB is not zero", holding({0: b"\1"})),
    Layout("a byte at the end of the first sector", "first MiB is not zero", holding({511: b"\x80"})),
    Layout("a byte amid the first MiB", "first MiB is not zero", holding({MIB // 2: b"\1"})),
    Layout("the last byte of the first MiB", "first MiB is not zero", holding({MIB - 1: b"\1"})),
    Layout("the first byte of the last MiB", "last MiB is not zero", holding({-MIB: b"\1"})),
    Layout("a byte amid the last MiB", "last MiB is not zero", holding({-MIB // 2: b"\1"})),
    Layout("the very last byte", "last MiB is not zero", holding({-1: b"\1"})),
    # contents without a name
    Layout("erased flash, all ones", "first MiB is not zero", holding({0: b"\xff" * SIZE})),
    Layout("text from the start", "first MiB is not zero", holding({0: b"rows of a table\n" * 9999})),
    Layout("data in the last MiB only", "last MiB is not zero", holding({-MIB: b"rows\n" * 20000})),
    Layout("data everywhere but in the first and last MiB", "at .* is not zero",
           holding({MIB: b"rows\n" * ((SIZE - 2 * MIB) // 5)})),
    Layout("a PostgreSQL page", "first MiB is not zero",
           holding({0: struct.pack("<QHHHHH", 9, 0, 0, 40, 8000, 8192)})),
    Layout("a tar archive", "first MiB is not zero",
           holding({0: b"etc/passwd".ljust(257, b"\0") + b"ustar  \0"})),
    Layout("a qcow2 image", "first MiB is not zero", holding({0: b"QFI\xfb\0\0\0\3"})),
    # filesystems
    Layout("ext4", "signature of ext4", made_by("mkfs.ext4", "-q", "-F")),
    Layout("ext2", "signature of ext2", made_by("mke2fs", "-q", "-F", "-t", "ext2")),
    Layout("ext4 whose superblock alone was wiped", "is not zero",
           then(made_by("mkfs.ext4", "-q", "-F"), patch(1024, bytes(1024)))),
    Layout("ext4 with a large file whose first MiB was wiped", "at .* is not zero",
           then(made_by("mkfs.ext4", "-q", "-F"), patch(0, bytes(MIB)), patch(12 * MIB, b"row\n" * MIB)),
           only_looking_tells=True),
    Layout("xfs", "signature of xfs", made_by("mkfs.xfs", "-q", size=320 * MIB)),
    Layout("btrfs", "is not zero|signature of btrfs", holding(BTRFS)),
    Layout("vfat", "signature of vfat", holding({0: fat16()})),
    Layout("ntfs", "signature of (ntfs|dos)", holding({0: ntfs()})),
    Layout("iso9660", "signature of iso9660", holding({32768: b"\1CD001\1", 34816: b"\xffCD001\1"})),
    Layout("squashfs", "signature of squashfs", holding({0: b"hsqs" + bytes(24) + struct.pack("<HH", 4, 0)})),
    Layout("f2fs", "signature of f2fs|first MiB", holding({1024: struct.pack("<IHH", 0xF2F52010, 1, 15)})),
    Layout("zfs", "is not zero|signature of zfs",
           holding({at + slot * 1024: struct.pack("<Q", 0x00BAB10C)
                    for at in (131072, 393216, -393216, -131072) for slot in range(8)})),
    Layout("bcache", "signature of bcache|first MiB", holding(
        {4096 + 24: bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")})),
    Layout("ceph bluestore", "signature of ceph_bluestore", holding({0: b"bluestore block device\n"})),
    Layout("an Oracle ASM disk", "signature of oracleasm", holding({32: b"ORCLDISKDATA01"})),
    Layout("BitLocker", "signature of BitLocker|first MiB", holding({0: b"\xeb\x58\x90-FVE-FS-"})),
    # swap
    Layout("swap", "signature of swap", made_by("mkswap", "-q")),
    Layout("a hibernated system", "signature of swsuspend",
           then(made_by("mkswap", "-q"), patch(4086, b"S1SUSPEND\0"))),
    # partition tables
    Layout("a GPT with a partition", "signature of gpt",
           then(holding({}), on(*GPT, "--new=1:2048:+4M"))),
    Layout("a GPT without partitions", "signature of gpt", then(holding({}), on(*GPT))),
    Layout("a GPT of which only the backup is left", "last MiB is not zero|signature of gpt",
           then(holding({}), on(*GPT, "--new=1:2048:+4M"), patch(0, bytes(MIB)))),
    Layout("a GPT that the kernel has read", "has the partition loop",
           then(holding({}), on(*GPT, "--new=1:2048:+4M")), options=("--partscan",), inside=True),
    Layout("an MBR with a partition", "signature of dos", then(holding({}), mbr)),
    Layout("an MBR without partitions", "signature of|first MiB", holding({510: b"\x55\xaa"})),
    Layout("an MBR that the kernel has read", "has the partition loop",
           then(holding({}), mbr), options=("--partscan",), inside=True),
    # LUKS
    Layout("LUKS1", "signature of crypto_LUKS", luks("--type", "luks1")),
    Layout("a foreign LUKS2", "signature of crypto_LUKS", luks("--type", "luks2"), sight="luks2"),
    Layout("a foreign LUKS2 with large metadata", "signature of crypto_LUKS",
           luks("--type", "luks2", "--luks2-metadata-size", "4m", size=64 * MIB), sight="luks2"),
    Layout("a LUKS2 whose first header was wiped", "signature of crypto_LUKS",
           luks("--type", "luks2", wipe=((0, 4096),)), sight="luks2"),
    Layout("a LUKS2 whose second header was wiped", "signature of crypto_LUKS",
           luks("--type", "luks2", wipe=((16384, 4096),)), sight="luks2"),
    Layout("a LUKS2 with both headers damaged", "first MiB is not zero",
           luks("--type", "luks2", wipe=((0, 4096), (16384, 4096)), with_=0xA5)),
    Layout("a LUKS2 with both headers wiped", "first MiB is not zero",
           luks("--type", "luks2", wipe=((0, 32768),))),
    Layout("a LUKS2 with both checksums wrong", "is not zero|signature of crypto_LUKS",
           luks("--type", "luks2", wipe=((448, 8), (16384 + 448, 8)))),
    Layout("a LUKS2 whose first MiB was wiped", "at .* is not zero",
           luks("--type", "luks2", wipe=ZEROED_START)),
    Layout("a LUKS2 of which only the header at 4 MiB is left", "signature of crypto_LUKS|at .* is not zero",
           luks("--type", "luks2", "--luks2-metadata-size", "4m", size=64 * MIB, wipe=((0, 4 * MIB),)),
           sight="luks2"),
    # LVM and RAID
    Layout("the label of an LVM physical volume", "signature of LVM2_member", holding({512: lvm_label()})),
    Layout("the superblock of an md member at 4 KiB", "signature of linux_raid_member|first MiB",
           holding({4096: struct.pack("<III", 0xA92B4EFC, 1, 0)})),
    Layout("the superblock of an md member at the end", "signature of linux_raid_member|last MiB",
           holding({-65536: struct.pack("<IIIII", 0xA92B4EFC, 0, 90, 0, 0)})),
    Layout("an LVM member with an active volume", "held by dm-", holding({}), hold=lvm, inside=True),
    Layout("a member of a running array", "held by md9", holding({}), hold=raid, inside=True),
    # in use, with nothing on it that would show it
    Layout("a holder: dm-linear over a blank disk", "held by dm-", holding({}), hold=mapped, inside=True),
    Layout("a holder: dm-crypt over a blank disk", "held by dm-", holding({}), hold=encrypted, inside=True),
    Layout("claimed by another process", "claimed it", holding({}), hold=claimed),
    Layout("a loop device over a blank disk", "the loop device loop", holding({}), hold=under_a_loop,
           only_looking_tells=True),
    Layout("mounted", "is mounted on", made_by("mkfs.ext4", "-q", "-F"), hold=mounted, inside=True),
    Layout("mounted in another namespace", "claimed it", made_by("mkfs.ext4", "-q", "-F"),
           hold=mounted_elsewhere, inside=True),
    Layout("swap in use", "is swap in use", made_by("mkswap", "-q"), hold=swapped_on, inside=True),
    # the wrong one
    Layout("smaller than its volume", "less than 33554432", holding({}, SIZE - 512),
           sight="blank", only_looking_tells=True),
    Layout("smaller than any volume", "less than 16777216", holding({}, 8 * MIB), least_bytes=0,
           only_looking_tells=True),
    Layout("read-only", "is read-only", holding({}), options=("--read-only",)),
    Layout("the swap of another volume", "is not zero", marked(volume=ANOTHER)),
    Layout("a mark made on another disk", "is not zero", marked(serial="kbv-anotherdisk2")),
    Layout("a mark made when the disk had another size", "is not zero", marked(size=SIZE + 4096)),
    Layout("a mark with a wrong checksum", "is not zero", marked(flip=500)),
    Layout("a mark with something behind it", "is not zero", marked(flip=4000)),
    Layout("half a mark", "is not zero", then(marked(), patch(256, bytes(256)))),
)  # fmt: skip
