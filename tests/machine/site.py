"""One add-on as an operator sets it up: a broker, a virtual machine, a data disk and a swap disk.

with Site(directory, image, tree) as site:
    site.establish()                # broker, add-on, volumes, blank disks with the right serials
    site.machine.start(disks=site.disks)
    site.machine.wait_for_login()
    site.enrol()
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.machine.broker import HostBroker
from tests.machine.tree import Tree
from tests.machine.vm import Machine

ADDON: Final = "shop-db"
MOUNT_POINT: Final = "/var/lib/postgresql"
DATA_BYTES: Final = 512 << 20
SWAP_BYTES: Final = 128 << 20
UNLOCK: Final = "keybroker-agent-unlock.service"
VOLUMES: Final = "keybroker-volumes.target"
CHUNK: Final = 16 << 20


class Site:
    """The broker, the machine and its disks; all of it ends with the ``with``."""

    def __init__(self, directory: Path, image: Path, tree: Tree) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.machine = Machine(directory / "vm", image, tree)
        self.broker = HostBroker(directory / "broker")
        self.disks: dict[str, Path] = {}
        self.host = ""
        self._ends = ExitStack()
        self._ends.enter_context(self.broker)
        self._ends.enter_context(self.machine)

    def establish(self, *, data_bytes: int = DATA_BYTES) -> None:
        """Start the broker, declare the add-on and its volumes, and make a blank disk for each."""
        self.broker.start()
        self.broker.operate("addon", "add", ADDON, "--engine", "postgresql")
        self._volume("data", data_bytes, "--mount", MOUNT_POINT)
        self._volume("swap", SWAP_BYTES, "--fs", "swap")

    def _volume(self, name: str, size_bytes: int, *options: str) -> None:
        size = f"{size_bytes >> 20}M"
        volume = self.broker.operate("volume", "add", ADDON, name, "--size", size, *options)
        disk = self.directory / f"{name}.raw"
        subprocess.run(["truncate", "--size", size, disk], check=True)
        self.disks[volume["serial"]] = disk

    def disk(self, name: str) -> Path:
        """Return the image file of a volume's disk."""
        return self.directory / f"{name}.raw"

    def enrol(self) -> str:
        """Invite the running machine and have it enrol; return what its agent printed."""
        invitation = self.broker.operate("host", "enrol", ADDON)
        self.host = invitation["host"]
        address, token = invitation["enrolment"], invitation["token"]
        return self.machine.run(f"keybroker-agent enrol --broker {address} --token {token}")

    def revoke(self, reason: str, *options: str) -> None:
        """Turn the machine away."""
        self.broker.operate("host", "revoke", self.host, "--reason", reason, *options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()


def occurrences(text: bytes, file: Path) -> int:
    """Count where ``text`` is in a file of any size, also across the borders of what is read at a time."""
    return sum(window.count(text) for window in _windows(file, len(text) - 1))


def _windows(file: Path, overlap: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        tail = b""
        while chunk := stream.read(CHUNK):
            window = tail + chunk
            yield window
            tail = window[-overlap:] if overlap else b""
