"""A disk that is still plain: its filesystem is used as it is, by the name that it keeps when encrypted.

    0 SECTORS linear DISK 0        /dev/mapper/kb-NAME, DM UUID KEYBROKER-NAME, all of the disk

Nothing is written to the disk here, and no key is asked for. What is not exactly the declared filesystem
on an unused disk is refused: a table of partitions, RAID, LVM and LUKS all have something else to say about
the same bytes, and a filesystem that somebody has mounted would be written to by two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent import blank, devicemapper, inscription, opened, opening
from agent.devicemapper import SECTOR, Mapped
from agent.devices import OpenDevice
from agent.luks.table import LinearTable, check_linear_table
from agent.opened import Fact
from agent.plan import provision
from agent.plan.situation import Content
from agent.process import run
from keybroker.wire import names
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record

_FOUND: Final = 0
_NOTHING: Final = 2
_AMBIVALENT: Final = 8
"""blkid(8), "EXIT STATUS"."""


def look(record: Record, disk: OpenDevice) -> Content:
    """Say what is on a plain disk that nothing uses; nothing is written.

    Raises:
        KeybrokerError: IN_USE where somebody has it mounted, mapped or claimed; TOOL_FAILED.
    """
    if used := blank.used(disk):
        raise KeybrokerError(
            Problem.IN_USE,
            f"{record.name}: the plain disk is not free: {used}; it was left as it is",
            hint="unmount it, and take it out of /etc/fstab: from now on /dev/mapper/kb-NAME is mounted",
        )
    inscription.forget_cache(disk.fd)
    return Content(kind=recognised(disk), untouched=False, unfinished=False)


def recognised(disk: OpenDevice) -> str:
    """Return what ``blkid`` calls all that is on a disk; empty where it knows nothing.

    A filesystem beside a partition table is two things, and so neither (Raises: TOOL_FAILED).
    """
    done = run(
        "blkid", "--probe", "--output", "export", disk.path,
        pass_fds=[disk.fd], expect=(_FOUND, _NOTHING, _AMBIVALENT),
    )  # fmt: skip
    if done.status == _NOTHING:
        return ""
    if done.status == _AMBIVALENT:
        return "several things at once"
    lines = done.output.decode(errors="replace").splitlines()
    said = dict(line.split("=", 1) for line in lines if "=" in line)
    kind, table = said.get("TYPE", ""), said.get("PTTYPE", "")
    both = [*([kind] if kind else []), *([f"a partition table ({table})"] if table else [])]
    return " and ".join(both) or "something"


def link(record: Record, disk: OpenDevice, *, runtime: Path, now: int) -> None:
    """Make the linear device with the stable name over all of the disk, after one more look at it.

    device-mapper claims the disk for itself: what is mounted or claimed meanwhile makes the kernel refuse.

    Args:
        runtime: of the agent, where it is written down since when the volume is open.
        now: seconds since 1970.

    Raises:
        KeybrokerError: as ``look`` and ``agent.plan.provision.check_plain``; EXISTS, TOOL_FAILED.
    """
    provision.check_plain(record, look(record, disk))
    name = names.mapper_name(record.name)
    devicemapper.create_linear(
        name,
        uuid=opening.stable_uuid(record),
        below=disk.device.node,
        sectors=disk.device.size_bytes // SECTOR,
    )
    if (top := devicemapper.find(name)) is not None:
        opened.note(runtime, Fact(record.volume, top.node, now))


def check_linked(record: Record, top: Mapped, disk: OpenDevice) -> None:
    """Compare the device under the stable name with what it must be over a plain disk.

    While it is being moved that is a mirror of the disk and of a dm-crypt device under the same name.

    Raises:
        KeybrokerError: WRONG_DEVICE, with the difference.
    """
    if top.uuid != opening.stable_uuid(record):
        raise KeybrokerError(Problem.WRONG_DEVICE, f"its DM UUID is {top.uuid or 'missing'}")
    text = devicemapper.table(top.name) or ""
    if " mirror " in text:
        opening.check_mirrored(record, top, disk.device.node, text)
        return
    sectors = opening.length(text, disk.device.size_bytes // SECTOR)
    check_linear_table(text, LinearTable(sectors, disk.device.node))
