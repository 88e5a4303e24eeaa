"""Mounting without systemd: the filesystem is checked, then mounted, on an empty directory and nothing else.

Where systemd runs it mounts (``agent.mountunits``), so that databases can wait for a mount as for any other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from agent import devicemapper
from agent.mountinfo import PROC, Mounted, mounts
from agent.process import ToolFailed, run
from keybroker.wire import names
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.values import dataclass

OPTIONS: Final = "nodev,nosuid"
"""A database's files are neither devices nor set-uid programs; on a tampered disk there may be both."""

FSCK_SECONDS: Final = 3600.0
MOUNT_SECONDS: Final = 300.0

CHECKS: Final = {"ext4": ("e2fsck", "-p")}
"""xfs has none: it replays its journal when it is mounted (fsck.xfs(8))."""

_CLEAN: Final = (0, 1)
"""e2fsck(8), "EXIT CODE": no errors, or all of them corrected."""


@dataclass(frozen=True, slots=True)
class Mounts:
    """Mounts below ``/``, as ``proc`` shows them."""

    proc: Path = PROC

    def mounted(self, record: Record) -> bool:
        """Say whether the volume is what is mounted at its mount point."""
        top = self._at(record.mount)
        return top is not None and top.node == _node(record)

    def mount(self, record: Record) -> None:
        """Check the filesystem and mount it; one that is mounted stays.

        Raises:
            KeybrokerError: NOT_BLANK where something else is mounted there or the directory holds files;
                TOOL_FAILED where the check or the mount fails.
        """
        if record.mount is None or self.mounted(record):
            return
        top = self._at(record.mount)
        if top is not None:
            raise _not_blank(record, f"a {top.kind} is mounted there already")
        _prepare(record, Path(record.mount))
        device = devicemapper.device(names.mapper_name(record.name))
        _check(record, device)
        run(
            "mount", "-t", record.filesystem, "-o", OPTIONS, "--", device, record.mount,
            timeout_seconds=MOUNT_SECONDS,
        )  # fmt: skip

    def _at(self, point: str | None) -> Mounted | None:
        """Return what one sees at ``point``: of several mounts, the last."""
        return next((each for each in reversed(mounts(proc=self.proc)) if each.point == point), None)


def _node(record: Record) -> str | None:
    there = devicemapper.mapped().get(names.mapper_name(record.name))
    return there.node if there is not None else None


def _prepare(record: Record, point: Path) -> None:
    try:
        point.mkdir(mode=0o755, parents=True, exist_ok=True)
        if point.resolve() != point:
            raise _not_blank(record, "a symbolic link is on the way there")
        if os.listdir(point):
            raise _not_blank(record, "the directory is not empty, and mounting would hide what is in it")
    except OSError as error:
        raise _not_blank(record, error.strerror or str(error)) from error


def _check(record: Record, device: Path) -> None:
    command = CHECKS.get(record.filesystem)
    if command is None:
        return
    try:
        run(*command, device, expect=_CLEAN, timeout_seconds=FSCK_SECONDS)
    except ToolFailed as error:
        raise KeybrokerError(
            Problem.TOOL_FAILED,
            f"{record.name}: its filesystem does not pass its check: {error.detail}",
            hint=f"e2fsck {device}",
        ) from error


def _not_blank(record: Record, what: str) -> KeybrokerError:
    return KeybrokerError(
        Problem.NOT_BLANK,
        f"{record.name}: cannot be mounted on {record.mount}: {what}",
        hint=f"ls -la {record.mount}",
    )
