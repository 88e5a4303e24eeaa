"""README.md's two installations, typed on one fresh machine: both packages, under a real systemd and dpkg.

One machine is both: the agent's requests go over TLS to the broker's unit. Each test leaves it serving. Then
both packages get a later version, and in the end they are removed, with the volumes open all the while.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.machine import image, packages, readme
from tests.machine.vm import Machine

ADDRESS: Final = "192.0.2.10"
NAME: Final = "broker.example"
UNIT: Final = "keybroker.service"
READY: Final = "curl -fsS --unix-socket /run/keybroker/health.sock http://localhost/readyz"
EXCLUDES: Final = "/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
"""What keeps documentation off the test machines; here it is part of what is installed."""

HOLD: Final = ("keybroker-agent-unlock.service", "keybroker-volumes.target", "var-lib-postgresql.mount")
PURGE: Final = "DEBIAN_FRONTEND=noninteractive apt-get purge -y keybroker keybroker-agent"
EXPOSURE: Final = 1.5
"""What systemd-analyze may say of the unit as it runs; tests/unit holds the same for the file."""


@dataclass(slots=True)
class House:
    """A machine on which README.md's first installation was typed."""

    machine: Machine
    disks: dict[str, Path]
    said: dict[str, str]

    def type(self, command: str) -> str:
        """Run one of README.md's commands where its reader is."""
        self.said[command] = self.machine.run(f"cd /{image.CHECKOUT} && {command}", limit_seconds=180)
        return self.said[command]

    def shown(self, name: str) -> str:
        """Return a property of the broker's unit."""
        return self.machine.run(f"systemctl show {UNIT} --property={name} --value").strip()

    def volumes(self) -> str:
        """Return what the broker knows of the volumes, but for when their host last reported."""
        return re.sub(r'"[^"]+Z"', "TIME", self.machine.run("keybroker volume list --json"))

    def opened(self) -> str:
        """Return what would be another if volumes, or what holds them, had been closed and come back."""
        return self.machine.run(
            f"systemctl show -p InvocationID,ActiveEnterTimestampMonotonic {' '.join(HOLD)};"
            " stat -c '%n %t:%T' $(readlink -f /dev/mapper/kb-data);"
            " findmnt -no ID,SOURCE /var/lib/postgresql; cat /proc/swaps"
        )


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    root, tree = image.build_bare(print)
    directory = Path(tempfile.mkdtemp(prefix="kbb-"))  # short: sockets live in it
    try:
        with Machine(directory / "vm", root, tree) as machine:
            machine.start()
            machine.wait_for_login(limit_seconds=240)
            _give_name_and_address(machine)
            machine.run(f"rm {EXCLUDES}")
            house = House(machine, {}, {})
            for command in readme.commands("Install a broker"):
                if not readme.is_done(command):
                    house.type(command)
            yield house
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _give_name_and_address(machine: Machine) -> None:
    """Be broker.example at 192.0.2.10, also after a reboot."""
    drop_in = "/etc/systemd/network/10-machine.network.d"
    machine.run(
        f"echo '{ADDRESS} {NAME}' >>/etc/hosts && mkdir -p {drop_in}"
        f" && printf '[Network]\\nAddress={ADDRESS}/32\\n' >{drop_in}/broker.conf && networkctl reload"
    )
    machine.wait_until(f"ip -o address | grep -qF {ADDRESS}")


def test_what_the_readme_says_makes_a_broker_that_is_ready_and_closed(house: House) -> None:
    assert '"ready"' in house.machine.run(READY)
    assert READY.replace(" -fsS", "") in readme.README.read_text()
    assert house.shown("StatusText") == "serving"
    assert house.machine.run(f"stat -c %U /proc/{house.shown('MainPID')}").strip() == "keybroker"
    assert " wrong " not in house.said["keybroker check"]
    house.machine.run("test -e /usr/share/man/man1/keybroker-volume-add.1.gz && cd / && keybroker --version")
    journal = house.machine.journal(UNIT)
    assert "main: refuses clients without a certificate" in journal.splitlines()
    assert "WARNING" not in journal
    rated = house.machine.run(f"systemd-analyze security --no-pager {UNIT} | tail -1")
    overall = re.search(r"exposure level for \S+: ([0-9.]+)", rated)
    assert overall is not None, rated
    assert float(overall[1]) <= EXPOSURE


def test_a_reload_takes_a_good_certificate_and_leaves_a_bad_one(house: House) -> None:
    process, machine = house.shown("MainPID"), house.machine
    machine.run(f"systemctl reload {UNIT}")
    machine.wait_until(f"journalctl -b -u {UNIT} | grep -q 'certificates are read again'", limit_seconds=60)
    machine.run(f"cd /etc/keybroker && mv server.crt away && cp ca.crt server.crt && systemctl reload {UNIT}")
    machine.wait_until(
        f"systemctl show {UNIT} -p StatusText | grep -q 'the last reload was refused'", limit_seconds=60
    )
    assert '"ready"' in machine.run(READY)
    machine.run(f"cd /etc/keybroker && mv -f away server.crt && systemctl reload {UNIT}")
    machine.wait_until(f"systemctl show {UNIT} -p StatusText | grep -qx StatusText=serving", limit_seconds=60)
    assert house.shown("MainPID") == process


def test_what_the_readme_says_makes_an_agent_that_opens_its_disks(house: House) -> None:
    machine = house.machine
    for volume in json.loads(machine.run("keybroker volume list --json"))["volumes"]:
        disk = house.machine.directory / f"{volume['name']}.raw"
        subprocess.run(["truncate", "--size", str(volume["size_bytes"]), disk], check=True)
        house.disks[volume["serial"]] = disk
        machine.plug(volume["serial"], disk)
    invited = house.said["keybroker host enrol shop-db"]
    token = re.search(r"^token +(kbe1\.\S+)$", invited, re.MULTILINE)
    assert token is not None, invited
    for command in readme.commands("Install an agent"):
        if not readme.is_done(command):
            house.type(f"echo {token[1]} | {command}" if command.endswith("--token-file -") else command)
    states = {
        one["name"]: one["state"]
        for one in json.loads(machine.run("keybroker-agent status --json"))["volumes"]
    }
    assert states == {"data": "open", "swap": "open"}
    assert machine.run("findmnt -no SOURCE /var/lib/postgresql").strip() == "/dev/mapper/kb-data"
    assert "released" in machine.run("keybroker audit tail")


def _install(*names: str) -> str:
    files = " ".join(f"/{image.CHECKOUT}/later/{name}_*.deb" for name in names)
    return f"DEBIAN_FRONTEND=noninteractive apt-get install -y {files}"


def test_an_upgrade_that_cannot_be_leaves_the_former_version_serving(house: House) -> None:
    process = house.shown("MainPID")
    status, said = house.machine.attempt(_install(f"keybroker_{packages.BROKEN}"), limit_seconds=300)
    assert status != 0
    assert "keybroker: the database cannot be upgraded, and is as it was" in said
    assert house.shown("MainPID") == process
    assert '"ready"' in house.machine.run(READY)
    assert "rehearsal" not in house.machine.run("ls /var/lib/keybroker")


def test_an_upgrade_keeps_the_database_and_the_open_volumes(house: House) -> None:
    machine = house.machine
    volumes, opened, process = house.volumes(), house.opened(), house.shown("MainPID")
    names = [f"{name}_{packages.LATER}" for name in ("keybroker", "keybroker-agent")]
    machine.run(_install(*names), limit_seconds=300)
    machine.wait_until(READY, limit_seconds=180)
    assert house.shown("MainPID") != process
    shown = machine.run("dpkg-query -W -f '${Version} ${db:Status-Status}\n' keybroker keybroker-agent")
    assert set(shown.splitlines()) == {f"{packages.LATER} installed"}
    assert house.volumes() == volumes
    assert house.opened() == opened
    assert json.loads(machine.run("keybroker upgrade --json"))["before"] == "later"
    assert re.fullmatch(r"\d{4}\.db\n", machine.run("ls /var/lib/keybroker/before-upgrade"))
    assert machine.run("stat -c '%U %a' /var/lib/keybroker/before-upgrade/*").strip() == "keybroker 600"
    for verb in ("settle", "renew", "prove"):
        machine.run(f"systemctl is-active keybroker-agent-{verb}.timer")
    machine.run("keybroker-agent status && keybroker-agent unlock")


def test_the_master_key_moves_into_a_credential_as_the_drop_in_says(house: House) -> None:
    """Encrypted by the real systemd-creds(1), given to the unit by the real systemd; the file goes."""
    drop_in = readme.README.parent / "systemd/keybroker.service.d/master-key-credential.conf.example"
    for heading in ("An installation with master.key beside its configuration:", "Then, in both cases:"):
        for command in readme.said_in(drop_in, heading):
            house.type(command)
    house.type("shred -u /etc/keybroker/master.key")
    house.machine.run(f"systemctl restart {UNIT}")
    assert '"ready"' in house.machine.run(READY)
    (check,) = (line[4:] for line in drop_in.read_text().splitlines() if line.endswith(" keybroker check"))
    assert "master key and schema are right" in house.type(check)
    house.machine.run("keybroker-agent unlock")
    house.machine.run("! keybroker check")


def test_a_broker_that_hangs_is_started_again(house: House) -> None:
    process = house.shown("MainPID")
    house.machine.run(f"kill -STOP {process}")
    house.machine.wait_until(
        f"test $(systemctl show {UNIT} -p NRestarts --value) -ge 1 && {READY}", limit_seconds=180
    )
    assert house.shown("MainPID") != process
    assert "Watchdog timeout" in house.machine.run(f"journalctl -b --no-pager -u {UNIT}")


def test_after_a_reboot_both_are_there_with_nobody_typing(house: House) -> None:
    house.machine.power_off()
    house.machine.start(disks=house.disks)
    house.machine.wait_for_login(limit_seconds=240)
    house.machine.wait_until(READY, limit_seconds=180)
    house.machine.wait_until("findmnt /var/lib/postgresql", limit_seconds=180)
    assert house.shown("NRestarts") == "0"


def test_removing_both_packages_closes_nothing_and_costs_no_key_and_no_byte(house: House) -> None:
    machine, opened = house.machine, house.opened()
    (disk,) = (disk for disk in house.disks.values() if disk.name == "data.raw")
    machine.run("sync && fsfreeze --freeze /var/lib/postgresql")  # whoever else would write is held up
    before = _digest(disk)
    said = machine.run(PURGE, limit_seconds=300)
    assert _digest(disk) == before
    machine.run("fsfreeze --unfreeze /var/lib/postgresql && date >/var/lib/postgresql/written && sync")
    assert "/var/lib/keybroker is kept" in said
    assert machine.attempt("command -v keybroker keybroker-agent")[0] != 0
    machine.run("test -s /var/lib/keybroker/keybroker.db && test -e /var/lib/keybroker-agent/identity")
    assert house.opened() == opened
    machine.run(
        _install(f"keybroker_{packages.LATER}", f"keybroker-agent_{packages.LATER}"), limit_seconds=300
    )
    machine.wait_until(READY, limit_seconds=180)
    machine.run("keybroker-agent unlock")
    assert house.opened() == opened


def _digest(disk: Path) -> str:
    """Return a digest of what was ever written to a sparse disk, by place."""
    digest = hashlib.sha256()
    with disk.open("rb") as file:
        place = 0
        while True:
            try:
                place = os.lseek(file.fileno(), place, os.SEEK_DATA)
            except OSError:  # no data beyond
                return digest.hexdigest()
            end = os.lseek(file.fileno(), place, os.SEEK_HOLE)
            file.seek(place)
            digest.update(f"{place} {end}".encode() + file.read(end - place))
            place = end
