"""Where each volume's disk is: by the serial in its record, or where the configuration says.

The override is for platforms that cannot set serials, and for tests on loop devices; it names a path for one
volume, and the disk there then counts as having the record's serial.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agent import devices
from agent.devices import Finder, OpenDevice
from agent.search import Search
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.values import dataclass, field


@dataclass(frozen=True, slots=True)
class Places:
    """Where the disks are.

    Attributes:
        overrides: paths for volumes whose disks do not report the serial.
        find: looks for a serial.
    """

    overrides: Mapping[VolumeId, Path] = field(default_factory=dict)
    find: Finder = devices.find

    @contextmanager
    def open(self, record: Record, *, writable: bool = False) -> Iterator[OpenDevice]:
        """Open a volume's disk and hold it.

        Raises:
            KeybrokerError: NO_DEVICE; WRONG_DEVICE where it is ambiguous, in use (``writable``), or another.
        """
        if writable:
            self._forget()  # a clone of it that came since must be seen before anything is written
        path = self._path(record)
        if path is None:
            raise KeybrokerError(
                Problem.NO_DEVICE,
                f"{record.name}: no disk with serial {serial(record)} appeared",
                hint="lsblk --nodeps --output NAME,SERIAL,SIZE",
            )
        overridden = record.volume in self.overrides
        with ExitStack() as held:
            try:
                disk = held.enter_context(
                    devices.open_device(path, serial=serial(record), overridden=overridden, writable=writable)
                )
            except KeybrokerError:
                self._forget()  # it is there no more
                raise
            yield disk

    def _forget(self) -> None:
        if isinstance(self.find, Search):
            self.find.forget()

    def wait(self, records: Sequence[Record], *, deadline: float) -> None:
        """Return when a disk of one of ``records`` is there, or at the deadline (of ``time.monotonic``)."""
        by_serial = {serial(record): record for record in records}
        devices.wait(set(by_serial), deadline=deadline, find=lambda name: self._opens(by_serial[name]))

    def _opens(self, record: Record) -> Path | None:
        """Return where the disk is once it can be opened: sysfs tells of it before /dev does."""
        path = self._path(record)
        try:
            if path is not None:
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            return None
        return path

    def _path(self, record: Record) -> Path | None:
        override = self.overrides.get(record.volume)
        if override is not None:
            return override if override.exists() else None
        return self.find(serial(record))


def serial(record: Record) -> str:
    """Return the serial that the volume's disk has: the claimed one, or the one that it is to have."""
    return record.device.serial if record.device is not None else record.serial
