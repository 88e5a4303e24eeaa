"""What is mapped under /dev/mapper: looked up in sysfs, changed by ``dmsetup``.

Existence, UUID and open count are read from sysfs, which takes no process and is never in doubt; of
dmsetup, which says status 1 for everything, only the table is asked and only changes are made.
"""

from __future__ import annotations

import errno
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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

SECTOR: Final = 512
"""Bytes; the unit of every table, whatever the device's own sector size."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """One device of device-mapper.

    Attributes:
        uuid: the DM UUID, by which a device says whose it is; empty where its maker gave none.
        node: ``major:minor``.
        holders: kernel names of the devices mapped from it.
    """

    name: str
    uuid: str
    node: str
    holders: tuple[str, ...]


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
    there = mapped().get(_checked(name))
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


def mapped(*, sys: Path = SYS) -> dict[str, Mapped]:
    """Return every device there is now, by name."""
    found: dict[str, Mapped] = {}
    for entry in sorted((sys / "class/block").glob("dm-*")):
        try:
            name = (entry / "dm/name").read_text().strip()
            found[name] = Mapped(
                name=name,
                uuid=(entry / "dm/uuid").read_text().strip(),
                node=(entry / "dev").read_text().strip(),
                holders=tuple(sorted(os.listdir(entry / "holders"))),
            )
        except OSError as error:
            # removed while we read; the kernel says EINVAL between the device's end and its directory's
            # (drivers/md/dm-sysfs.c, dm_attr_show)
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                raise
    return found


def uuid(name: str, *, sys: Path = SYS) -> str | None:
    """Return the DM UUID of the device of that name, None where there is no such device."""
    there = mapped(sys=sys).get(_checked(name))
    return there.uuid if there else None


def table(name: str) -> str | None:
    """Return the live table of a device, a line a target, keys shown as zeros; None where there is none.

    Raises:
        KeybrokerError: TOOL_FAILED.
    """
    if _checked(name) not in mapped():
        return None
    return run("dmsetup", "table", name).output.decode().strip()


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
    for other in mapped().values():
        if name == other.name or uuid == other.uuid:
            raise KeybrokerError(
                Problem.EXISTS, f"{MAPPER / name}: is mapped already", hint=f"dmsetup info {other.name}"
            )
    run("dmsetup", "create", name, "--uuid", uuid, "--table", f"0 {sectors} linear {below} 0")
    device(name)


def remove(name: str) -> None:
    """Unmap ``name``; where there is no such device, all is as it should be.

    Raises:
        KeybrokerError: WRONG_DEVICE where it is in use, naming by whom as far as that can be known;
            TOOL_FAILED.
    """
    there = mapped().get(_checked(name))
    if there is None:
        return
    if there.holders:
        raise in_use(name)
    try:
        run("dmsetup", "remove", name)
    except ToolFailed as error:
        if name not in mapped():
            return
        if _open_count(name):
            raise in_use(name) from error
        raise


def in_use(name: str) -> KeybrokerError:
    """Return, to be raised, that a device cannot go because somebody has it, and who that is."""
    there = mapped().get(name)
    who = [f"/dev/{holder}" for holder in there.holders] if there else []
    if there:
        who += [f"the mount on {mount.point}" for mount in mounts() if mount.node == there.node]
    return KeybrokerError(
        Problem.WRONG_DEVICE,
        f"{MAPPER / name}: is in use by {', '.join(who) or 'an open file'}",
        hint=f"lsblk {MAPPER / name}; fuser --mount {MAPPER / name}",
    )


def _open_count(name: str) -> int:
    done = run("dmsetup", "info", "--columns", "--noheadings", "-o", "open", name)
    return int(done.output)


def _checked(name: str) -> str:
    if NAME.fullmatch(name) is None:
        raise ValueError(f"{name[:140]!r} is not a name under {MAPPER}")
    return name
