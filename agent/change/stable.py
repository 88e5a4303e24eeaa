"""What stands under a stable name now: one disk, or a mirror of two, read strictly from the kernel."""

from __future__ import annotations

import re
from typing import Final

from agent import devicemapper, dmcontrol, opening
from agent.devicemapper import Mapped
from agent.luks import mirror
from agent.luks.mirror import MirrorStatus
from agent.mountinfo import mounts
from keybroker.wire import names
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.values import dataclass

_LINEAR: Final = re.compile(r"0 ([0-9]+) linear ([0-9]+:[0-9]+) 0 ?\n?")


@dataclass(frozen=True, slots=True)
class Standing:
    """What the kernel says of the stable device.

    Attributes:
        nodes: ``major:minor`` of what it stands on: one device, or the legs of a mirror.
        status: None unless it is a mirror.
    """

    top: Mapped
    sectors: int
    nodes: tuple[str, ...]
    status: MirrorStatus | None


def read(record: Record) -> Standing | None:
    """Return what stands under a volume's stable name, None where nothing does.

    Raises:
        KeybrokerError: WRONG_DEVICE for anything that is not ours, or of a form that we never make.
    """
    name = names.mapper_name(record.name)
    top = devicemapper.mapped().get(name)
    if top is None:
        return None
    if top.uuid != opening.stable_uuid(record):
        raise KeybrokerError(
            Problem.WRONG_DEVICE, f"{devicemapper.path(name)}: its DM UUID is {top.uuid or 'missing'}"
        )
    text = devicemapper.table(name) or ""
    if mirror.is_mirror(text):
        table = mirror.read_table(text)
        status = mirror.read_status(devicemapper.status(name) or "")
        if status.legs != table.legs:
            raise KeybrokerError(Problem.WRONG_DEVICE, f"{name}: its table changed while it was read")
        return Standing(top, table.sectors, table.legs, status)
    linear = _LINEAR.fullmatch(text)
    if linear is None:
        raise KeybrokerError(
            Problem.WRONG_DEVICE, f"{devicemapper.path(name)}: is neither linear nor a mirror of ours"
        )
    return Standing(top, int(linear[1]), (linear[2],), None)


def needed(record: Record) -> Standing:
    """Return what stands there (Raises: as ``read``, and NO_DEVICE where nothing does)."""
    standing = read(record)
    if standing is None:
        raise KeybrokerError(Problem.NO_DEVICE, f"{record.name}: its stable device is not there")
    return standing


def users(device: Mapped) -> str:
    """Say who has a device mounted, mapped or open; empty where nobody has."""
    who = [f"the mount on {mount.point}" for mount in mounts() if mount.node == device.node]
    who += [f"/dev/{holder}" for holder in devicemapper.holders(device)]
    if not who and dmcontrol.open_count(device.name):
        who = ["an open file"]
    return ", ".join(who)


def elsewhere(record: Record, standing: Standing) -> KeybrokerError:
    """Return, to be raised, that it stands on other devices than a change takes for granted."""
    return KeybrokerError(
        Problem.WRONG_DEVICE,
        f"{record.name}: {standing.top.name} stands on {', '.join(standing.nodes)}; nothing was changed",
        hint=f"dmsetup table {standing.top.name}",
    )
