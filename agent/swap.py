"""Encrypted swap: plain dm-crypt under a key of one boot, only on a disk that was marked for it.

A mark is one block in the MiB before the encrypted part. It says which volume the disk was given to, so that
nothing is ever swapped onto because of its name; a copy of it on another disk fails by serial or size.

    "KEYBROKER-SWAP1\\n" 16 | volume id 16 | size in bytes u64 | serial's length u8 | serial | zeros up to 480
    | SHA-256 of those 480 bytes 32 | zeros up to 4096

Integers are big-endian. All that matters is in the first 512 bytes, which a disk writes whole or not at
all, so a cut never leaves half a mark, which would be neither blank nor ours.

Swap needs no broker: the key comes from the kernel and dies with it, and no program ever sees it.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Final

from agent import blank, devicemapper
from agent.devices import SYS, OpenDevice
from agent.luks import cryptsetup
from agent.mountinfo import PROC, swaps
from agent.process import run
from keybroker.wire import names
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.values import dataclass

MAGIC: Final = b"KEYBROKER-SWAP1\n"
BLOCK_BYTES: Final = 4096

_SUMMED: Final = 480
_SUM: Final = 32
_FIELDS: Final = struct.Struct(">16s16sQB")


@dataclass(frozen=True, slots=True)
class Mark:
    """Whose swap a disk is.

    Attributes:
        serial, size_bytes: of the disk that was marked.
    """

    volume: VolumeId
    serial: str
    size_bytes: int

    def block(self) -> bytes:
        """Return its 4096 bytes."""
        serial = self.serial.encode()
        summed = _FIELDS.pack(MAGIC, self.volume.encode(), self.size_bytes, len(serial)) + serial
        summed = summed.ljust(_SUMMED, b"\0")
        return (summed + hashlib.sha256(summed).digest()).ljust(BLOCK_BYTES, b"\0")

    @classmethod
    def parse(cls, block: bytes) -> Mark | None:
        """Read a block strictly; None for anything that ``block`` would not have written."""
        if len(block) != BLOCK_BYTES:
            return None
        magic, volume, size_bytes, length = _FIELDS.unpack_from(block)
        serial = block[_FIELDS.size : _FIELDS.size + length]
        try:
            mark = cls(VolumeId(volume.decode("ascii")), serial.decode("ascii"), size_bytes)
        except UnicodeDecodeError:
            return None
        if magic != MAGIC or not names.VOLUME_ID.fullmatch(mark.volume):
            return None
        if not names.SERIAL.fullmatch(mark.serial):
            return None
        return mark if mark.block() == block else None


def read_mark(disk: OpenDevice) -> Mark | None:
    """Return the mark on a disk, or None where there is none that is whole."""
    try:
        return Mark.parse(disk.read(0, BLOCK_BYTES))
    except OSError:
        return None


def check(disk: OpenDevice, volume: VolumeId) -> None:
    """Make sure that a disk bears the mark of this volume, made on this disk.

    Raises:
        KeybrokerError: WRONG_DEVICE.
    """
    found = read_mark(disk)
    device = disk.device
    if found is None:
        raise _wrong(disk, "bears no mark of a swap volume")
    if found.volume != volume:
        raise _wrong(disk, f"is marked as swap of {found.volume}, not of {volume}")
    if found.serial != device.serial:
        raise _wrong(disk, f"bears a mark that was made on the disk {found.serial}, not on {device.serial}")
    if found.size_bytes != device.size_bytes:
        raise _wrong(disk, f"was marked with {found.size_bytes} bytes and has {device.size_bytes}")
    # Nothing of ours writes there. MD's superblock and others begin behind the mark, and leave it as it is.
    if any(disk.read(BLOCK_BYTES, cryptsetup.SWAP_OFFSET - BLOCK_BYTES)):
        raise _wrong(disk, "bears the mark, but something else was written behind it")


def mark(disk: OpenDevice, volume: VolumeId, *, least_bytes: int = blank.LEAST_BYTES) -> None:
    """Mark a blank disk as a volume's swap; one that bears this very mark already is left alone.

    Args:
        disk: opened ``writable``, so that nobody else can claim it between the look and the write.
        least_bytes: what the volume needs.

    Raises:
        KeybrokerError: NOT_BLANK, and nothing was written; WRONG_DEVICE where it did not keep what was
            written.
    """
    if not disk.exclusive:
        raise ValueError("a disk is marked through an exclusive descriptor only")
    meant = Mark(volume, disk.device.serial, disk.device.size_bytes)
    if read_mark(disk) == meant:
        return
    if reason := blank.look(disk, least_bytes=least_bytes):
        raise KeybrokerError(Problem.NOT_BLANK, f"{disk.device.path}: {reason}")
    os.pwrite(disk.fd, meant.block(), 0)
    os.fsync(disk.fd)
    os.posix_fadvise(disk.fd, 0, BLOCK_BYTES, os.POSIX_FADV_DONTNEED)  # or the next read is of our own memory
    check(disk, volume)


def sector_size(size_bytes: int) -> int:
    """Return the encryption sector size in bytes: 4096 if it fits, for a torn page is lost with its boot."""
    return 4096 if size_bytes % 4096 == 0 else 512


def table(disk: OpenDevice) -> str:
    """Return the device-mapper table that its mapping must have, its key shown as zeros."""
    offset = cryptsetup.SWAP_OFFSET // devicemapper.SECTOR
    sectors = disk.device.size_bytes // devicemapper.SECTOR - offset
    size = sector_size(disk.device.size_bytes)
    options = f" 1 sector_size:{size}" if size != devicemapper.SECTOR else ""
    return f"0 {sectors} crypt aes-xts-plain64 {'0' * 128} 0 {disk.device.node} {offset}{options}"


def is_mapped(disk: OpenDevice, name: str) -> bool:
    """Say whether ``name`` is this disk's swap mapping already, as after a restart of the agent.

    Raises:
        KeybrokerError: WRONG_DEVICE where the name stands for anything else.
    """
    uuid = devicemapper.uuid(name)
    if uuid is None:
        return False
    found = devicemapper.table(name)
    if uuid != f"CRYPT-PLAIN-{name}" or found != table(disk):
        raise KeybrokerError(
            Problem.WRONG_DEVICE,
            f"{devicemapper.path(name)}: is mapped already, and not as swap on {disk.device.path}",
            hint=f"dmsetup table {name}",
        )
    return True


def is_on(name: str, *, proc: Path = PROC) -> bool:
    """Say whether the kernel pages to the mapping of that name."""
    there = devicemapper.mapped().get(name)
    return there is not None and any(_node(path) == there.node for path in swaps(proc=proc))


def _node(path: Path) -> str | None:
    """Return the ``major:minor`` of what /proc/swaps names; None for what is not there: a removed file.

    The kernel names a device by its path as seen from here. One that was turned on in a mount namespace which
    has ended since (our unit has one) is on no path from here any more, and shows as /dm-0: without its /dev.
    """
    for candidate in (path, Path("/dev") / path.relative_to("/")):
        try:
            number = os.stat(candidate).st_rdev
        except FileNotFoundError:
            continue
        return f"{os.major(number)}:{os.minor(number)}"
    return None


def turn_on(disk: OpenDevice, name: str, volume: VolumeId, *, sys: Path = SYS) -> None:
    """Map a marked disk under a new key, check what the kernel made of it, and swap on it.

    What is on already stays as it is.

    Args:
        disk: not exclusive, or cryptsetup could not claim it.
        name: of the mapping.

    Raises:
        KeybrokerError: WRONG_DEVICE where mark or mapping are not this volume's; CONFIGURATION where the
            system would hibernate onto a disk; EXISTS, TOOL_FAILED.
    """
    check(disk, volume)
    _no_hibernation(sys)
    if not is_mapped(disk, name):
        cryptsetup.open_swap(disk, name, sector_size=sector_size(disk.device.size_bytes))
        try:
            is_mapped(disk, name)
        except KeybrokerError:
            cryptsetup.close(name)
            raise
    elif is_on(name):
        return
    run("mkswap", devicemapper.device(name))
    run("swapon", devicemapper.device(name))


def turn_off(name: str) -> None:
    """Take the swap out of use and forget its key; what is off already stays so.

    Raises:
        KeybrokerError: TOOL_FAILED, where memory cannot take what is swapped out; WRONG_DEVICE where the
            mapping is in use otherwise.
    """
    if is_on(name):
        run("swapoff", devicemapper.device(name), timeout_seconds=600.0)
    cryptsetup.close(name)


def _no_hibernation(sys: Path) -> None:
    """Refuse where memory, keys and all, could be written out to a disk that is read at the next boot."""
    try:
        resume = (sys / "power/resume").read_text().strip()
    except FileNotFoundError:  # this kernel cannot hibernate
        return
    if resume != "0:0":
        raise KeybrokerError(
            Problem.CONFIGURATION,
            f"hibernation: this system would hibernate onto the device {resume}",
            hint="take resume= from the kernel's command line, and write RESUME=none"
            " into /etc/initramfs-tools/conf.d/resume",
        )


def _wrong(disk: OpenDevice, what: str) -> KeybrokerError:
    return KeybrokerError(Problem.WRONG_DEVICE, f"{disk.device.path}: {what}")
