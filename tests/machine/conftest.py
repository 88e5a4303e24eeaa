"""One machine is enrolled, provisioned and given a database; each scenario boots a copy of it."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.machine import image, story
from tests.machine.broker import HostBroker
from tests.machine.site import DATA_BYTES, MOUNT_POINT, UNLOCK, VOLUMES, Site
from tests.machine.vm import Machine

DEADLINE_SECONDS: Final = 75
"""What the machines' agents are told; long enough for a broker that comes up after 60 s."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.machine)


@dataclass(frozen=True, slots=True)
class Provisioned:
    """A site whose machine is off and has rows on its encrypted volume.

    Attributes:
        text: in each row, and nowhere else.
        control: the table's file, in the clear.
        bare: what lay below the mount point before anything was mounted there.
    """

    site: Site
    text: str
    control: Path
    bare: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """A copy of the provisioned machine and of its disks; it is off."""

    machine: Machine
    disks: dict[str, Path]
    provisioned: Provisioned

    @property
    def broker(self) -> HostBroker:
        """The broker that the machine is enrolled at; it serves when a scenario begins."""
        return self.provisioned.site.broker

    @property
    def data_serial(self) -> str:
        """Serial of the data disk."""
        return next(serial for serial, disk in self.disks.items() if disk.name == "data.raw")

    def boot(self, *, without: str | None = None, clock: str = "utc") -> None:
        """Switch it on and wait for a login, which no locked volume may hold up."""
        self.machine.start(
            disks={serial: disk for serial, disk in self.disks.items() if serial != without}, clock=clock
        )
        self.machine.wait_for_login()

    def rows(self) -> int:
        """Wait for the database and count the rows."""
        self.machine.wait_until(f"systemctl is-active {story.DATABASE}")
        return story.count_rows(self.machine, self.provisioned.text)

    def verdict(self, *, limit_seconds: float = 180) -> tuple[str, int, str]:
        """Wait until the unlock unit failed; return its state, its exit status and its journal."""
        shown = f"systemctl show {UNLOCK} --property"
        self.machine.wait_until(f"test $({shown} ExecMainStatus --value) != 0", limit_seconds=limit_seconds)
        state = self.machine.run(f"{shown} ActiveState --value").strip()
        status = int(self.machine.run(f"{shown} ExecMainStatus --value"))
        return state, status, self.machine.journal(UNLOCK)

    def assert_locked(self) -> None:
        """Hold that no volume is open, nothing is mounted or written below, and no database runs."""
        machine = self.machine
        assert machine.attempt(f"systemctl is-active {story.DATABASE}")[0] != 0
        assert machine.attempt("pgrep -x postgres")[0] != 0
        assert machine.attempt(f"findmnt {MOUNT_POINT}")[0] != 0
        assert machine.attempt("test -e /dev/mapper/kb-data")[0] != 0
        assert machine.run(f"find {MOUNT_POINT} -mindepth 1 | sort") == self.provisioned.bare


@pytest.fixture(scope="session")
def provisioned() -> Iterator[Provisioned]:
    root, tree = image.build(print)
    directory = Path(tempfile.mkdtemp(prefix="kbm-"))  # short: sockets live in it
    try:
        with Site(directory, root, tree) as site:
            yield provision(site)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def provision(site: Site, *, data_bytes: int = DATA_BYTES, checksums: bool = False) -> Provisioned:
    """Set a site up, enrol its machine, give it a database with rows, and switch it off.

    Args:
        data_bytes: size of the data volume's disk.
        checksums: of every page of the database's files.
    """
    text = f"dear diary {secrets.token_hex(16)}"
    machine = site.machine
    site.establish(data_bytes=data_bytes)
    machine.start(disks=site.disks)
    machine.wait_for_login()
    bare = machine.run(f"find {MOUNT_POINT} -mindepth 1 | sort")
    config = f"deadline_seconds = {DEADLINE_SECONDS}"
    machine.run(f"mkdir -p /etc/keybroker-agent && echo '{config}' >/etc/keybroker-agent/agent.toml")
    site.enrol()
    machine.run(f"systemctl start {VOLUMES}")
    machine.wait_until(f"findmnt {MOUNT_POINT}", limit_seconds=30)
    story.create_database(machine, checksums=checksums)
    story.write_rows(machine, text)
    control = site.directory / "control"
    control.write_bytes(story.fetch(machine, story.table_file(machine)))
    machine.power_off()
    assert "fsck failed" not in machine.console()
    return Provisioned(site, text, control, bare)


@contextmanager
def copied(provisioned: Provisioned) -> Iterator[Scenario]:
    """Copy the provisioned machine and its disks; the copy ends with the ``with``."""
    directory = Path(tempfile.mkdtemp(prefix="kbs-"))
    site = provisioned.site
    try:
        disks = {}
        for serial, disk in site.disks.items():
            disks[serial] = directory / disk.name
            subprocess.run(["cp", "--sparse=always", disk, disks[serial]], check=True)
        with site.machine.copy_to(directory / "vm") as machine:
            yield Scenario(machine, disks, provisioned)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def scenario(provisioned: Provisioned) -> Iterator[Scenario]:
    with copied(provisioned) as made:
        yield made
    if not made.broker.serves:
        made.broker.start()


@dataclass(frozen=True, slots=True)
class Forlorn:
    """Two machines that were booted while no broker was there; they wait for their deadlines side by side."""

    brokerless: Scenario
    timeless: Scenario


@pytest.fixture(scope="module")
def forlorn(provisioned: Provisioned) -> Iterator[Forlorn]:
    broker = provisioned.site.broker
    broker.stop()
    with copied(provisioned) as brokerless, copied(provisioned) as timeless:
        brokerless.machine.start(disks=brokerless.disks)
        timeless.machine.start(disks=timeless.disks, clock="1970-01-01T00:00:00")
        yield Forlorn(brokerless, timeless)
    if not broker.serves:
        broker.start()
