"""Looking at all disks once for all volumes, instead of once for each use of each.

With eight volumes that was a quarter of the agent's time: a virtio disk is itself asked for its serial.
"""

from __future__ import annotations

import threading
from pathlib import Path

from agent import devices
from keybroker.wire.problems import KeybrokerError


class Search:
    """A ``Finder`` that remembers, for one run.

    Where a disk was found is only a hint the next time: whoever opens it (``devices.open_device``) has the
    disk itself say its serial again.

    Args:
        sys, dev: where sysfs and the devices are.
    """

    def __init__(self, *, sys: Path = devices.SYS, dev: Path = devices.DEV) -> None:
        self._sys = sys
        self._dev = dev
        self._turn = threading.Lock()
        self._disks: tuple[tuple[str, str], ...] = ()
        self._known: dict[str, Path] = {}

    def __call__(self, serial: str) -> Path | None:
        """Return as ``devices.find`` (Raises: as it does); what is not known is looked for anew."""
        with self._turn:
            if serial in self._known:
                return self._known[serial]
            if all(other != serial for _, other in self._disks):
                self._disks = tuple(devices.serials(self._sys))
            try:
                path = devices.choose(serial, self._disks, sys=self._sys, dev=self._dev)
            except KeybrokerError:
                self._disks = ()
                raise
            if path is not None:
                self._known[serial] = path
            return path

    def forget(self) -> None:
        """Look at all disks again the next time."""
        with self._turn:
            self._disks = ()
            self._known.clear()
