"""Closing: unmount, take the linear device away, close the dm-crypt device; then swap off. All repeatable.

What is ours is known by the kernel's own words, not by a list that may be lost: a linear device by its DM
UUID ``KEYBROKER-<volume name>``, the dm-crypt device by standing right below it or by being a known volume's
by name *and* DM UUID, swap by being a known swap volume's. Nothing else is touched, whatever it is called.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from agent import devicemapper, opened, opening, swap
from agent.devicemapper import Mapped
from agent.luks import cryptsetup
from agent.mountinfo import PROC, mounts
from agent.parallel import at_once
from agent.process import ToolFailed, run
from agent.turn import turn
from keybroker.wire import names
from keybroker.wire.names import VolumeId, VolumeName
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record

_STABLE_UUID: Final = re.compile(rf"KEYBROKER-({names.VOLUME_NAME.pattern})")
_UMOUNT_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Closed:
    """What became of one volume.

    Attributes:
        volume: None for one that is open and not known.
        name: of its device under /dev/mapper.
        error: who holds it, or what failed; None where it is closed now.
    """

    volume: VolumeId | None
    name: str
    result: Literal["closed", "already", "held"]
    error: KeybrokerError | None = None


@dataclass(slots=True)
class _Ours:
    """The devices of one volume: what is to be closed, from the top down."""

    volume: VolumeId | None
    name: str
    top: Mapped | None = None
    crypts: list[Mapped] = field(default_factory=list)
    error: KeybrokerError | None = None

    def result(self) -> Closed:
        if self.error is not None:
            return Closed(self.volume, self.name, "held", self.error)
        there = self.top is not None or self.crypts
        return Closed(self.volume, self.name, "closed" if there else "already")


def lock(records: Sequence[Record], *, runtime: Path) -> tuple[Closed, ...]:
    """Close every volume of ours that is open, and take encrypted swap out of use.

    Args:
        records: the volumes as last heard of; what is open and not among them is closed too, swap apart.
        runtime: where facts about opened volumes are.

    Returns:
        One outcome a volume. An error stops that volume only: what holds it stays usable.
    """
    data = _data(records)
    at_once(lambda ours: _close(ours, runtime), data)
    # After the volumes: unmounting gives back the memory that swapping in needs.
    swaps = [_swap_off(record, runtime) for record in records if record.is_swap]
    return (*(ours.result() for ours in data), *swaps)


def _data(records: Sequence[Record]) -> list[_Ours]:
    there = devicemapper.mapped()
    found: dict[str, _Ours] = {}
    # The holder last: of the volumes of a migration, which have one name, it is the one that is told of.
    for record in sorted(records, key=lambda record: record.role == "holder"):
        if record.is_swap:
            continue
        name = names.mapper_name(record.name)
        ours = found.setdefault(name, _Ours(record.volume, name))
        ours.volume = record.volume
        ours.crypts += [crypt for crypt in (_crypt_of(record, there),) if crypt is not None]
    for name, device in there.items():
        if match := _STABLE_UUID.fullmatch(device.uuid):
            ours = found.setdefault(names.mapper_name(VolumeName(match[1])), _Ours(None, name))
            ours.name, ours.top = name, device
            ours.crypts += [below for below in _below(device, there) if below not in ours.crypts]
    for ours in found.values():
        stranger = there.get(ours.name) if ours.top is None else None
        if stranger is not None:
            ours.error = KeybrokerError(
                Problem.WRONG_DEVICE,
                f"{devicemapper.path(ours.name)}: is not ours, so it is left alone",
                hint=f"dmsetup info {ours.name}",
            )
    return list(found.values())


def _crypt_of(record: Record, there: dict[str, Mapped]) -> Mapped | None:
    name = names.crypt_name(record.name, record.luks_uuid)
    device = there.get(name)
    return (
        device if device is not None and device.uuid == opening.crypt_uuid(record.luks_uuid, name) else None
    )


def _below(top: Mapped, there: dict[str, Mapped]) -> Iterator[Mapped]:
    """Name the dm-crypt devices that a stable device of ours stands on: one, or two while it is moved."""
    kernel_name = f"dm-{top.node.partition(':')[2]}"
    for device in there.values():
        ours = device.uuid.startswith("CRYPT-LUKS2-") and device.name.startswith(f"{top.name}-")
        if ours and kernel_name in devicemapper.holders(device):
            yield device


def _close(ours: _Ours, runtime: Path) -> None:
    if ours.error is not None:
        return
    try:
        with turn(runtime, ours.volume or ours.name):
            if ours.top is not None:
                _unmount(ours.top)
                devicemapper.remove(ours.top.name)
            for crypt in ours.crypts:
                cryptsetup.close(crypt.name)
            if ours.volume is not None:
                opened.forget(runtime, ours.volume)
    except KeybrokerError as error:
        ours.error = error


def _unmount(device: Mapped) -> None:
    """Unmount it everywhere, the last mount first.

    Raises:
        KeybrokerError: WRONG_DEVICE where somebody uses it, naming the processes; TOOL_FAILED.
    """
    for mount in reversed(mounts()):
        if mount.node != device.node:
            continue
        try:
            run("umount", "--", mount.point, timeout_seconds=_UMOUNT_SECONDS)
        except ToolFailed as error:
            users = sorted(set(processes(device.node)))
            if not users:
                raise
            raise KeybrokerError(
                Problem.WRONG_DEVICE,
                f"{mount.point}: is in use by {', '.join(users[:8])}{' and others' if users[8:] else ''}",
                hint=f"stop them, or look: fuser --verbose --mount {mount.point}",
            ) from error


def processes(node: str, *, proc: Path = PROC) -> Iterator[str]:
    """Name each process that has a file open, is, or is rooted on a device.

    Args:
        node: the device, ``major:minor``.

    Returns:
        ``name (pid)``; a process may come several times.
    """
    major, _, minor = node.partition(":")
    number = os.makedev(int(major), int(minor))
    for entry in proc.glob("[0-9]*"):
        try:
            links = [entry / "cwd", entry / "root", entry / "exe", *(entry / "fd").iterdir()]
        except OSError:  # it has ended, or it is a zombie
            continue
        if any(_is_on(link, number) for link in links):
            yield f"{_command(entry)} ({entry.name})"


def _is_on(link: Path, number: int) -> bool:
    try:
        status = link.stat()
    except OSError:
        return False
    return number in (status.st_dev, status.st_rdev)


def _command(entry: Path) -> str:
    try:
        return (entry / "comm").read_text().strip()
    except OSError:
        return "a process"


def _swap_off(record: Record, runtime: Path) -> Closed:
    name = names.swap_crypt_name(record.name)
    try:
        uuid = devicemapper.uuid(name)
        if uuid is None:
            return Closed(record.volume, name, "already")
        if uuid != f"CRYPT-PLAIN-{name}":
            raise KeybrokerError(
                Problem.WRONG_DEVICE,
                f"{devicemapper.path(name)}: is not ours, so it is left alone",
                hint=f"dmsetup info {name}",
            )
        with turn(runtime, record.volume):
            swap.turn_off(name)
            opened.forget(runtime, record.volume)
    except KeybrokerError as error:
        return Closed(record.volume, name, "held", error)
    return Closed(record.volume, name, "closed")
