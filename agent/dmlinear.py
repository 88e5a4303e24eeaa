"""A linear device of device-mapper, made by three ioctls, and its path made without waiting for udev.

    create("kb-data", uuid="KEYBROKER-kbv-q3m5x7abcdef", below="254:0", sectors=40960)

``dmsetup create`` is a process a volume, and returns when udev's rules have run to their end, which with
eight volumes was a third of a boot. udev hears of the device all the same, and runs the same rules, which
whoever waits for the .device unit waits for. Only the agent does not: it makes the link under /dev/mapper
itself, to the very place where udev's would lead, and udev leaves a link alone that is right already.

Source: linux/dm-ioctl.h; libdevmapper.h, for the flags in what it calls the cookie.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent import dmcontrol
from agent.dmcontrol import TARGET, aligned
from keybroker.wire.problems import KeybrokerError, Problem

_DEV_CREATE: Final = dmcontrol.REQUEST | 3
_DEV_REMOVE: Final = dmcontrol.REQUEST | 4
_DEV_SUSPEND: Final = dmcontrol.REQUEST | 6
_TABLE_LOAD: Final = dmcontrol.REQUEST | 9

_FOR_UDEV: Final = 0x40 << 16
"""DM_UDEV_PRIMARY_SOURCE_FLAG over a cookie of 0: the rules take it for an activation and remember it, or
``udevadm trigger`` would take the links away again; and they notify nobody (dmsetup.c, ``_udevcomplete``)."""


def create(name: str, *, uuid: str, below: str, sectors: int) -> str:
    """Make a device that is the first sectors of another one.

    Args:
        uuid: the DM UUID it gets.
        below: ``major:minor`` of the other device.
        sectors: of 512 bytes.

    Returns:
        Its ``major:minor``.

    Raises:
        KeybrokerError: EXISTS where name or UUID is taken; TOOL_FAILED. Nothing is left of it then.
    """
    try:
        made = dmcontrol.command(_DEV_CREATE, name, uuid=uuid)
    except OSError as error:
        problem = Problem.EXISTS if error.errno == errno.EBUSY else Problem.TOOL_FAILED
        raise _failed("create", name, error, problem) from error
    try:
        dmcontrol.command(_TABLE_LOAD, name, target=_target(sectors, f"{below} 0".encode()))
        dmcontrol.command(_DEV_SUSPEND, name, event=_FOR_UDEV)  # without the flag that suspends, it resumes
    except OSError as error:
        with suppress(OSError):
            dmcontrol.command(_DEV_REMOVE, name, event=_FOR_UDEV)
        raise _failed("load", name, error, Problem.TOOL_FAILED) from error
    return dmcontrol.node_of(made)


def _target(sectors: int, parameters: bytes) -> bytes:
    size = aligned(TARGET.size + len(parameters) + 1)
    return (TARGET.pack(0, sectors, 0, size, b"linear") + parameters).ljust(size, b"\0")


def _failed(what: str, name: str, error: OSError, problem: Problem) -> KeybrokerError:
    return KeybrokerError(
        problem,
        f"device-mapper: {what} {name}: {error.strerror}",
        hint="dmsetup info; dmesg | tail",
    )


def lead(place: Path, node: str) -> None:
    """Have a path under /dev/mapper lead to a device, at once: no moment without it, or with another.

    Args:
        node: ``major:minor``.

    Raises:
        OSError: it cannot be made.
    """
    to = f"../dm-{node.partition(':')[2]}"
    beside = place.with_name(f".#{place.name}")  # no device has such a name (``devicemapper.NAME``)
    beside.unlink(missing_ok=True)
    os.symlink(to, beside)
    os.replace(beside, place)
