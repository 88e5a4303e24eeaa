"""Whether a disk is blank: the one state in which the agent may ever write to a disk that is not its own yet.

All conditions of DESIGN section 4, "First format", as far as the disk can answer them; the one-use
authorisation is the broker's part. Two wiped header copies look like an empty disk to every tool, so what
could not be read or probed is never blank.

| what is asked | whom | refuses |
|---|---|---|
| big enough, writable | the descriptor | another disk than the one that was meant |
| no partitions, no holders, no loop device over it | sysfs | partition tables, LVM, RAID, dm, bcache |
| not mounted, no swap | mountinfo, /proc/swaps | what this system uses |
| nobody has claimed it | open(2) with O_EXCL | what any other namespace uses |
| no signature | ``blkid --probe`` | what it knows, wherever the magic lies (a header copy at 4 MiB) |
| first and last MiB are zero | the disk | damaged LUKS, unknown formats, metadata at the end |
| 256 samples between them are zero | the disk | a disk in use whose first MiB was wiped |
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from agent.devices import SYS, BlockDevice, OpenDevice
from agent.mountinfo import PROC, mounts, swaps
from agent.process import run

MIB: Final = 1 << 20
LEAST_BYTES: Final = 16 * MIB
"""A header of 4 MiB and the smallest useful filesystem."""

SAMPLES: Final = 256
_SAMPLE_BYTES: Final = 4096

_NOTHING: Final = 2
_FOUND: Final = 0
_AMBIVALENT: Final = 8
"""blkid(8), "EXIT STATUS". 2 is also said of a device that cannot be opened: alone it proves nothing."""


def look(disk: OpenDevice, *, least_bytes: int = LEAST_BYTES) -> str | None:
    """Return why the disk is not blank, in words, or None where all conditions hold; nothing is written.

    Args:
        disk: held open by the caller, so that every answer is about the same disk.
        least_bytes: what its volume needs.

    Raises:
        KeybrokerError: TOOL_FAILED where blkid cannot be asked.
    """
    device = disk.device
    if device.size_bytes < max(least_bytes, LEAST_BYTES):
        return f"it has {device.size_bytes} bytes, less than {max(least_bytes, LEAST_BYTES)}"
    if device.read_only:
        return "it is read-only"
    return used(disk) or _signature(disk) or _touched(disk)


def used(disk: OpenDevice) -> str | None:
    """Return who uses a disk or a part of it, in words, or None where nobody does."""
    try:
        in_use = _in_use(disk.device)
    except OSError as error:  # ENOENT, ENODEV or EINVAL of its entry in sysfs
        return f"it went away while it was looked at: {error.strerror}"
    return in_use or _claimed(disk)


def _in_use(device: BlockDevice, *, sys: Path = SYS, proc: Path = PROC) -> str | None:
    entry = sys / "dev/block" / device.node
    for child in sorted(entry.iterdir()):
        if (child / "partition").exists():
            return f"it has the partition {child.name}"
    if holders := sorted(os.listdir(entry / "holders")):
        return f"it is held by {', '.join(holders)}"
    if loop := _loop_over(device, sys):
        return f"the loop device {loop} stands on it"
    for mount in mounts(proc=proc):
        # some filesystems (btrfs) show a number that is no device's
        if mount.node == device.node or _is(Path(mount.source), device):
            return f"it is mounted on {mount.point}"
    if any(_is(path, device) for path in swaps(proc=proc)):
        return "it is swap in use"
    return None


def _loop_over(device: BlockDevice, sys: Path) -> str | None:
    """Name a loop device that was attached to the device: it is no holder, and claims nothing."""
    for file in sorted((sys / "class/block").glob("loop*/loop/backing_file")):
        try:
            if _is(Path(file.read_text().strip()), device):
                return file.parts[-3]
        except OSError:  # detached meanwhile
            continue
    return None


def _is(path: Path, device: BlockDevice) -> bool:
    """Say whether a path as the kernel remembers it is this device."""
    if not path.is_absolute():  # "tmpfs", "server:/export"
        return False
    try:
        number = os.stat(path).st_rdev
    except OSError:
        return False
    return (os.major(number), os.minor(number)) == device.devno


def _claimed(disk: OpenDevice) -> str | None:
    """Try to claim it; read-only, because closing a writable descriptor makes udev look at the disk anew."""
    if disk.exclusive:
        return None
    try:
        os.close(os.open(disk.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return "somebody has claimed it"
        return f"it cannot be claimed: {error.strerror}"
    return None


def _touched(disk: OpenDevice) -> str | None:
    size = disk.device.size_bytes
    stretches = [("its first MiB", 0, MIB), ("its last MiB", size - MIB, MIB)]
    # Not asked for by the design, and no proof: but a full disk whose start was wiped is not taken for blank.
    step = size // (SAMPLES + 1) // _SAMPLE_BYTES * _SAMPLE_BYTES
    stretches += [(f"what it holds at {step * i}", step * i, _SAMPLE_BYTES) for i in range(1, SAMPLES + 1)]
    for where, offset, length in stretches:
        try:
            held = disk.read(offset, length)
        except OSError as error:
            return f"{where} cannot be read: {error.strerror}"
        if held != bytes(length):
            return f"{where} is not zero"
    return None


def _signature(disk: OpenDevice) -> str | None:
    done = run(
        "blkid", "--probe", "--output", "export", disk.path,
        pass_fds=[disk.fd], expect=(_FOUND, _NOTHING, _AMBIVALENT),
    )  # fmt: skip
    if done.status == _NOTHING:
        return None
    if done.status == _AMBIVALENT:
        return "it has several signatures that contradict each other"
    found = dict(
        line.split("=", 1) for line in done.output.decode(errors="replace").splitlines() if "=" in line
    )
    return f"it has the signature of {found.get('TYPE') or found.get('PTTYPE') or 'something'}"
