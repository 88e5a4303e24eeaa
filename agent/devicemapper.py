"""What is mapped under /dev/mapper: asked of the kernel itself, made by it, and removed by ``dmsetup``.

dmsetup says status 1 for everything, so nothing is asked of it; but it removes devices in step with udev, by
a semaphore that udev's rules release, which is not worth doing again.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from agent import dmcontrol, dmlinear
from agent.dmcontrol import Mapped as Mapped
from agent.mountinfo import mounts
from agent.process import ToolFailed, run
from keybroker.wire.problems import KeybrokerError, Problem

MAPPER: Final = Path("/dev/mapper")
SYS: Final = Path("/sys")
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,126}")
"""Fewer characters than device-mapper takes (DM_NAME_LEN 128): none that udev or dmsetup would escape."""

DM_UUID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
UDEV_RUNS: Final = Path("/run/udev/control")
NODE_SECONDS: Final = 10.0
LET_GO_SECONDS: Final = 3.0
"""For how long a device that is to go may still be looked into by udev, which nobody waited for."""

SECTOR: Final = 512
"""Bytes; the unit of every table, whatever the device's own sector size."""


def path(name: str) -> Path:
    """Return where the device of that name is, or would be."""
    return MAPPER / _checked(name)


def device(name: str) -> Path:
    """Return the path of a mapped device, made sure of: whatever is written to it goes to that very device.

    A name under /dev/mapper can lead elsewhere: where no udev runs, Debian's dmsetup (1.02.185) neither takes
    a node away with its device nor corrects it for the next of that name, and it then leads to whichever
    volume has got the number meanwhile. Where udev runs, the link may come a moment late.

    Raises:
        KeybrokerError: NO_DEVICE where nothing of that name is mapped; WRONG_DEVICE where the path leads
            elsewhere and cannot be put right; TOOL_FAILED.
    """
    there = dmcontrol.device(_checked(name))
    if there is None:
        raise KeybrokerError(Problem.NO_DEVICE, f"{MAPPER / name}: is not mapped")
    deadline = time.monotonic() + (NODE_SECONDS if UDEV_RUNS.exists() else 0.0)
    while not _leads_to(path(name), there.node):
        if time.monotonic() >= deadline:
            run("dmsetup", "mknodes", name)
            if _leads_to(path(name), there.node):
                break
            raise KeybrokerError(
                Problem.WRONG_DEVICE,
                f"{MAPPER / name}: does not lead to the device {there.node} of that name",
            )
        time.sleep(0.05)
    return path(name)


def _leads_to(place: Path, node: str) -> bool:
    try:
        number = place.stat().st_rdev
    except OSError:
        return False
    return f"{os.major(number)}:{os.minor(number)}" == node


def mapped() -> dict[str, Mapped]:
    """Return every device there is now, by name.

    Raises:
        KeybrokerError: TOOL_FAILED.
    """
    return {device.name: device for device in dmcontrol.devices()}


def holders(device: Mapped, *, sys: Path = SYS) -> tuple[str, ...]:
    """Return the kernel's names of the devices that are mapped from a device."""
    try:
        return tuple(sorted(os.listdir(sys / "dev/block" / device.node / "holders")))
    except FileNotFoundError:  # it is gone
        return ()


def find(name: str) -> Mapped | None:
    """Return the device of that name, None where there is no such device.

    Raises:
        KeybrokerError: TOOL_FAILED.
    """
    return dmcontrol.device(_checked(name))


def uuid(name: str) -> str | None:
    """Return the DM UUID of the device of that name, None where there is no such device.

    Raises:
        KeybrokerError: TOOL_FAILED.
    """
    there = find(name)
    return there.uuid if there else None


def table(name: str) -> str | None:
    """Return the live table of a device, a line a target, keys shown as zeros; None where there is none.

    Raises:
        KeybrokerError: TOOL_FAILED.
    """
    return dmcontrol.table(_checked(name))


def create_linear(name: str, *, uuid: str, below: str, sectors: int) -> None:
    """Map ``name`` onto the first ``sectors`` (of 512 bytes) of another device.

    Args:
        uuid: the DM UUID it gets, which makes a second device of the same purpose impossible.
        below: ``major:minor`` of the device, because a path can come to mean another one.

    Raises:
        KeybrokerError: EXISTS where name or UUID is taken; TOOL_FAILED.
    """
    if DM_UUID.fullmatch(uuid) is None or re.fullmatch(r"\d+:\d+", below) is None or sectors <= 0:
        raise ValueError(f"no linear device is made of {uuid!r}, {below!r}, {sectors}")
    _checked(name)
    node = dmlinear.create(name, uuid=uuid, below=below, sectors=sectors)
    if not _leads_to(path(name), node):
        with suppress(OSError):  # where /dev is another file system's than the kernel's
            dmlinear.lead(path(name), node)
    device(name)


def status(name: str) -> str | None:
    """Return what a device's targets say of themselves, a line each; None where there is no device.

    Raises:
        KeybrokerError: TOOL_FAILED.
    """
    return dmcontrol.status(_checked(name))


def exchange(name: str, table: str) -> None:
    """Put another table under a device that is in use; whoever writes to it waits for a moment.

    One ioctl(2) suspends, exchanges and resumes (``do_resume`` in linux/drivers/md/dm-ioctl.c), so that no
    kill of ours leaves the device suspended. What was begun under the old table ends before it goes, flags
    or no flags; the two that are given are for the rest:

    * without a flush, a write that dm-mirror holds back because a leg failed is written again through the
      new table; with one it would fail, under a database that has done nothing wrong;
    * without freezing the filesystem: both tables lead to the same bytes, so there is nothing for it to put
      in order, and it would first write all that it has in memory, for as long as that takes.

    Args:
        table: one line, of the device's present length or more.

    Raises:
        KeybrokerError: TOOL_FAILED, and the old table is live.
    """
    run("dmsetup", "load", _checked(name), "--table", table)
    try:
        run("dmsetup", "resume", "--noflush", "--nolockfs", name)
    finally:
        clear(name)


def clear(name: str) -> None:
    """Take away a table that was loaded and never made live: it would hold devices open, and be next.

    Raises:
        KeybrokerError: TOOL_FAILED.
    """
    if dmcontrol.has_inactive_table(_checked(name)):
        run("dmsetup", "clear", name)


@contextmanager
def suspended(name: str) -> Iterator[None]:
    """Let what was begun on a device end, and hold back all else while the block runs; keep it short.

    Raises:
        KeybrokerError: TOOL_FAILED.
    """
    clear(name)  # or the resume would make it live
    # A polite end (SIGTERM, ^C) waits; for the impolite ones there is ``revive``.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        run("dmsetup", "suspend", "--noflush", "--nolockfs", _checked(name))
        try:
            yield
        finally:
            run("dmsetup", "resume", name)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def revive(name: str) -> None:
    """Resume a device that an agent left suspended because it was killed; any other is left as it is.

    Raises:
        KeybrokerError: TOOL_FAILED.
    """
    if dmcontrol.is_suspended(_checked(name)):
        clear(name)
        run("dmsetup", "resume", name)


def remove(name: str) -> None:
    """Unmap ``name``; where there is no such device, all is as it should be.

    Raises:
        KeybrokerError: WRONG_DEVICE where it is in use, naming by whom as far as that can be known;
            TOOL_FAILED.
    """
    there = dmcontrol.device(_checked(name))
    if there is None:
        return
    if holders(there):
        raise in_use(name)
    _let_go(there)
    try:
        run("dmsetup", "remove", name)
    except ToolFailed as error:
        if name not in mapped():
            return
        if dmcontrol.open_count(name):
            raise in_use(name) from error
        raise


def _let_go(there: Mapped) -> None:
    """Wait for those who open a device for a moment: udev looks into every new one, and into changed ones."""
    until = time.monotonic() + LET_GO_SECONDS
    while dmcontrol.open_count(there.name) and time.monotonic() < until:
        if any(mount.node == there.node for mount in mounts()):
            return
        time.sleep(0.02)


def in_use(name: str) -> KeybrokerError:
    """Return, to be raised, that a device cannot go because somebody has it, and who that is."""
    there = mapped().get(name)
    who = [f"/dev/{holder}" for holder in holders(there)] if there else []
    if there:
        who += [f"the mount on {mount.point}" for mount in mounts() if mount.node == there.node]
    return KeybrokerError(
        Problem.WRONG_DEVICE,
        f"{MAPPER / name}: is in use by {', '.join(who) or 'an open file'}",
        hint=f"lsblk {MAPPER / name}; fuser --mount {MAPPER / name}",
    )


def _checked(name: str) -> str:
    if NAME.fullmatch(name) is None:
        raise ValueError(f"{name[:140]!r} is not a name under {MAPPER}")
    return name
