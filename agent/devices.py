"""Disks: found by the serial they report themselves, waited for, and held open by descriptor.

The kernel's own word decides (sysfs); udev's links in /dev/disk/by-id are only asked whether they
contradict it, because at boot they may not be there yet. A serial is read from

| disk | file below /sys/class/block/NAME | set by |
|---|---|---|
| virtio | ``serial`` | the hypervisor, 20 bytes at most |
| NVMe | ``device/serial`` | the controller; its namespaces share it, and are then ambiguous |
| SCSI, SATA, USB | ``device/vpd_pg80`` (SPC-4, "Unit Serial Number"), after 4 bytes of head | the disk |

Partitions, and what is mapped from other devices (dm, md, loop), have no serial of their own and are
never found.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol

from keybroker.wire import names
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.values import dataclass

SYS: Final = Path("/sys")
DEV: Final = Path("/dev")
UDEV_RUNS: Final = Path("/run/udev/control")

# linux/fs.h; the sizes in the numbers are those of 64-bit kernels
_BLKROGET: Final = 0x125E
_BLKSSZGET: Final = 0x1268
_BLKPBSZGET: Final = 0x127B
_BLKGETSIZE64: Final = 0x80081272

_PLACES: Final = (("/serial", 0), ("/device/serial", 0), ("/device/vpd_pg80", 4))
"""Files below a disk's directory, and the bytes of head before the serial in them."""

_LARGEST_SERIAL: Final = 4096
_MAPPED: Final = ("dm-", "loop", "md", "ram", "zram")
_LARGEST_READ: Final = 16 << 20

RESCAN_SECONDS: Final = 0.5
"""How often to look where the kernel's events cannot be heard."""

LONGEST_SILENCE_SECONDS: Final = 5.0
"""After which to look without an event: one that was lost must not cost a boot its whole deadline."""


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """One disk, as the kernel described the descriptor that is open on it.

    Attributes:
        serial: as reported by the disk, or the one an override stands for.
        logical_block: bytes; the least the device reads or writes.
        physical_block: bytes; the least it writes in one piece.
        devno: major and minor number, which no other device has while this one is open.
    """

    path: Path
    serial: str
    size_bytes: int
    logical_block: int
    physical_block: int
    devno: tuple[int, int]
    read_only: bool

    @property
    def encryption_sector(self) -> int:
        """The sector size in bytes that dm-crypt may use on it: 4096 where the device allows, else 512.

        It allows it where a sector of 4096 bytes is written in one piece; elsewhere a power cut could
        leave half of one, which filesystems that were told of 4096-byte sectors do not expect
        (cryptsetup(8), ``--sector-size``).
        """
        whole = self.size_bytes % 4096 == 0
        return 4096 if whole and self.logical_block <= 4096 <= self.physical_block else 512

    @property
    def node(self) -> str:
        """``major:minor``, as device-mapper tables and sysfs have it."""
        return f"{self.devno[0]}:{self.devno[1]}"


@dataclass(frozen=True, slots=True)
class OpenDevice:
    """A disk that is held open: whatever happens to its name, this stays the same disk.

    Attributes:
        exclusive: nobody else has it mounted, mapped or claimed while this is open.
    """

    device: BlockDevice
    fd: int
    exclusive: bool

    @property
    def path(self) -> str:
        """A name for programs that this descriptor is passed to; it cannot come to mean another disk."""
        return f"/proc/self/fd/{self.fd}"

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``, both in bytes; fewer only where the disk ends.

        Raises:
            OSError: what pread(2) says, so that a reader of headers can turn to the other copy.
        """
        pieces: list[bytes] = []
        while length > 0 and (piece := os.pread(self.fd, min(length, _LARGEST_READ), offset)):
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return b"".join(pieces)


class Finder(Protocol):
    """What looks for a disk by its serial; ``find`` is one."""

    def __call__(self, serial: str) -> Path | None:
        """Return the disk's path, None where there is none, or raise WRONG_DEVICE."""


def find(serial: str, *, sys: Path = SYS, dev: Path = DEV) -> Path | None:
    """Return the path of the one disk with that serial, None where there is none (Raises: as ``choose``)."""
    return choose(serial, serials(sys), sys=sys, dev=dev)


def choose(serial: str, disks: Iterable[tuple[str, str]], *, sys: Path = SYS, dev: Path = DEV) -> Path | None:
    """Return the path of the one disk with that serial among ``disks`` (``serials`` names them), or None.

    Raises:
        KeybrokerError: WRONG_DEVICE, several have it, or udev says that another disk has it; MALFORMED.
    """
    if names.SERIAL.fullmatch(serial) is None:
        raise KeybrokerError(Problem.MALFORMED, f"serial {serial[:80]!r}: must match {names.SERIAL.pattern}")
    found = sorted(name for name, other in disks if other == serial)
    if len(found) > 1:
        raise KeybrokerError(
            Problem.WRONG_DEVICE,
            f"serial {serial}: {' and '.join(str(dev / name) for name in found)} both have it",
            hint="lsblk --nodeps --output NAME,SERIAL,SIZE",
        )
    if not found:
        return None
    _check_links(serial, found[0], sys, dev)
    return dev / found[0]


def serials(sys: Path = SYS) -> Iterator[tuple[str, str]]:
    """Name each whole disk that tells a serial, and the serial."""
    block = f"{sys}/class/block"
    try:
        disks = sorted(os.listdir(block))
    except FileNotFoundError:
        return
    for name in disks:
        serial = "" if name.startswith(_MAPPED) else _serial_of(f"{block}/{name}")
        if serial:
            yield name, serial


def _serial_of(disk: str) -> str:
    """Return the serial that a disk's directory in sysfs tells, or nothing.

    With plain strings and descriptors: this is asked of every disk for every volume, and a path object and a
    buffered file each cost more than the kernel takes to answer.
    """
    for place, head in _PLACES:
        try:
            fd = os.open(disk + place, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # not this kind of disk
            continue
        try:
            raw = os.read(fd, _LARGEST_SERIAL)[head:]
        except OSError:  # it is just going away
            continue
        finally:
            os.close(fd)
        serial = raw.strip(b"\0 \t\n").decode("ascii", "replace")
        if serial:
            # a partition's "device" is the disk's, and would tell the disk's serial
            return "" if os.path.exists(disk + "/partition") or _is_hidden(disk) else serial
    return ""


def _is_hidden(disk: str) -> bool:
    """Say whether it is one of several paths to an NVMe disk: the same serial, and no node in /dev."""
    try:
        with open(disk + "/hidden", "rb") as file:
            return file.read().strip() == b"1"
    except OSError:
        return False


def _check_links(serial: str, name: str, sys: Path, dev: Path) -> None:
    """Refuse where a link of udev's gives this serial to a disk that does not deny having it."""
    try:
        links = os.listdir(dev / "disk/by-id")
    except FileNotFoundError:
        return
    for link in links:
        if link != f"virtio-{serial}" and not link.endswith(f"_{serial}"):
            continue
        target = (dev / "disk/by-id" / link).resolve().name
        # A longer serial can end like ours; a stale virtio link cannot be explained that way.
        another = _serial_of(f"{sys}/class/block/{target}") not in ("", serial)
        if target != name and not (another and link != f"virtio-{serial}"):
            raise KeybrokerError(
                Problem.WRONG_DEVICE,
                f"serial {serial}: is on {dev / name}, but {link} leads to {dev / target}",
                hint="udevadm trigger --subsystem-match=block --settle",
            )


def wait(
    serials: Collection[str],
    *,
    deadline: float,
    find: Finder = find,
    listen: Callable[[], AbstractContextManager[Callable[[float], object]]] | None = None,
) -> dict[str, Path | KeybrokerError]:
    """Wait until one of ``serials`` is there, or until the deadline; one monitor for all of them.

    Args:
        deadline: of the clock ``time.monotonic``, in seconds; one that is past means one look.
        find: what looks.
        listen: what wakes it, ``events`` by default.

    Returns:
        All that was found, and instead of a path the error where ``find`` raised one.
    """
    found = _scan(serials, find)
    if found or time.monotonic() >= deadline:
        return found
    with (listen or events)() as next_event:
        # Listening started before this look, so a disk that comes now is either seen or heard.
        while not (found := _scan(serials, find)):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            next_event(min(left, LONGEST_SILENCE_SECONDS))
    return found


def _scan(serials: Collection[str], find: Finder) -> dict[str, Path | KeybrokerError]:
    found: dict[str, Path | KeybrokerError] = {}
    for serial in serials:
        try:
            path = find(serial)
        except KeybrokerError as error:
            found[serial] = error
        else:
            if path is not None:
                found[serial] = path
    return found


@contextmanager
def events() -> Iterator[Callable[[float], object]]:
    """Listen for block devices that come; give a function that waits for the next, some seconds at most.

    Where udevd runs, its events come after its rules ran; elsewhere (an initramfs, User-Mode Linux) the
    kernel's own are heard. Where neither can be (no libudev, no right to the socket), it naps.
    """
    try:
        import pyudev  # 40 ms, and a boot whose disks are all there does not need it

        monitor = pyudev.Monitor.from_netlink(
            pyudev.Context(), source="udev" if UDEV_RUNS.exists() else "kernel"
        )
        monitor.filter_by("block")
        monitor.start()
    except (ImportError, OSError):
        with naps() as nap:
            yield nap
        return

    def poll(left: float) -> None:
        try:
            monitor.poll(timeout=left)
        except OSError:  # ENOBUFS: so many events that some were lost; the next look finds what they told
            time.sleep(min(left, RESCAN_SECONDS))

    yield poll


@contextmanager
def naps() -> Iterator[Callable[[float], object]]:
    """Give a function that waits for half a second, as ``events`` does where there is nothing to hear."""
    yield lambda left: time.sleep(min(left, RESCAN_SECONDS))


@contextmanager
def open_device(
    path: Path, *, serial: str, overridden: bool = False, writable: bool = False, sys: Path = SYS
) -> Iterator[OpenDevice]:
    """Open a disk and hold it: to read, or exclusively to write.

    Args:
        serial: that it must report; what is reported instead of it where ``overridden`` says that the
            configuration gives this path for it.
        writable: also claim it (open(2), ``O_EXCL`` on a block device): refused while anybody has it mounted,
            mapped, in a RAID or as swap, and keeps them from doing so.

    Raises:
        KeybrokerError: NO_DEVICE where nothing opens; WRONG_DEVICE where it is no block device, reports
            another serial, is in use, or is read-only where it is to be written.
    """
    flags = (os.O_RDWR | os.O_EXCL if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except OSError as error:
        in_use = error.errno == errno.EBUSY
        problem = Problem.WRONG_DEVICE if in_use else Problem.NO_DEVICE
        said = "is in use" if in_use else f"cannot be opened: {error.strerror}"
        hint = f"lsblk {path}" if in_use else None
        raise KeybrokerError(problem, f"{path}: {said}", hint=hint) from error
    try:
        device = _describe(fd, path, serial, overridden, sys)
        if writable and device.read_only:  # open(2) does not mind
            raise KeybrokerError(Problem.WRONG_DEVICE, f"{path}: is read-only")
        yield OpenDevice(device, fd, exclusive=writable)
    finally:
        os.close(fd)


def _describe(fd: int, path: Path, serial: str, overridden: bool, sys: Path) -> BlockDevice:
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode):
        raise KeybrokerError(Problem.WRONG_DEVICE, f"{path}: is not a block device")
    devno = os.major(status.st_rdev), os.minor(status.st_rdev)
    if not overridden:
        # Between finding and opening the name may have passed to another disk.
        reported = _serial_of(f"{sys}/dev/block/{devno[0]}:{devno[1]}")
        if reported != serial:
            raise KeybrokerError(
                Problem.WRONG_DEVICE, f"{path}: reports the serial {reported or '(none)'}, not {serial}"
            )
    return BlockDevice(
        path=path,
        serial=serial,
        size_bytes=_ask(fd, _BLKGETSIZE64, "Q"),
        logical_block=_ask(fd, _BLKSSZGET, "i"),
        physical_block=_ask(fd, _BLKPBSZGET, "I"),
        devno=devno,
        read_only=bool(_ask(fd, _BLKROGET, "i")),
    )


def _ask(fd: int, request: int, form: str) -> int:
    answer = fcntl.ioctl(fd, request, bytes(struct.calcsize(form)))
    return int(struct.unpack(form, answer)[0])
