"""Unlocking in a virtual machine, by the agent's unit and by units that do the least that opens its volumes.

The least is: curl asks the same broker for the same keys, then ``cryptsetup open`` of the same volumes, all
at once, the keys being in files. All are oneshot units, and systemd's clock says when one began to start and
when it had started. The broker runs on this machine. In between, all is closed again and udev has settled.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

from keybroker.wire.messages import UnlockRequest
from keybroker.wire.names import VolumeId
from keybroker.wire.profile import Pin
from keybroker.wire.records import Device, Observation, SeenHeader
from tests.machine.broker import HostBroker
from tests.machine.site import UNLOCK
from tests.machine.vm import Machine

ADDON: Final = "shop-db"
BYTES: Final = 24 << 20
BARE: Final = "bare.service"
BOXED: Final = "boxed.service"
PLACE: Final = "/opt/bare"
IDENTITY: Final = "/var/lib/keybroker-agent/identity"

BARE_UNIT: Final = f"""\
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={PLACE}/open
ExecStop={PLACE}/close
"""

CONFINED: Final = f"""\
sed -e 's|^ExecStart=.*|ExecStart={PLACE}/open|; s|^ExecStop=.*|ExecStop={PLACE}/close|' \\
    -e 's|^ReadWritePaths=|&{PLACE} |; /^RuntimeDirectory/d; /^StateDirectory/d' \\
    /etc/systemd/system/{UNLOCK} >/etc/systemd/system/{BOXED}"""
"""Our unit with the other's commands: what systemd takes to confine it is then in both."""


class Unlocking:
    """Both ways to open the volumes of one machine.

    Args:
        directory: for the disks.
        machine: is off.
    """

    def __init__(self, directory: Path, broker: HostBroker, machine: Machine) -> None:
        self._directory = directory
        self._broker = broker
        self._machine = machine
        self._names: list[str] = []

    def prepare(self, count: int) -> None:
        """Declare the volumes, boot with blank disks, enrol, provision, and install the bare unit."""
        self._broker.start()
        self._broker.operate("addon", "add", ADDON, "--engine", "postgresql")
        disks = {}
        for number in range(count):
            name = f"data{number}"
            volume = self._broker.operate(
                "volume", "add", ADDON, name, "--size", f"{BYTES >> 20}M", "--fs", "none"
            )
            disks[volume["serial"]] = self._directory / f"{name}.raw"
            subprocess.run(["truncate", "--size", str(BYTES), disks[volume["serial"]]], check=True)
            self._names.append(name)
        self._machine.start(disks=disks)
        self._machine.wait_for_boot()
        invited = self._broker.operate("host", "enrol", ADDON)
        self._machine.run(f"keybroker-agent enrol --broker {invited['enrolment']} --token {invited['token']}")
        self._machine.run(f"systemctl start {UNLOCK}")
        self._machine.run(f"systemctl stop {UNLOCK}")
        self._install_bare()

    def ours(self) -> float:
        """Have the agent's unit open the volumes; return its seconds."""
        return self._start(UNLOCK, [f"kb-{name}" for name in self._names])

    def boxed(self) -> float:
        """Have curl and cryptsetup open the volumes, confined as the agent is; return their seconds."""
        return self._start(BOXED, [f"bare-{name}" for name in self._names])

    def bare(self) -> float:
        """Have curl and cryptsetup open the volumes; return their seconds."""
        return self._start(BARE, [f"bare-{name}" for name in self._names])

    def _start(self, unit: str, names: list[str]) -> float:
        paths = " -a ".join(f"-b /dev/mapper/{name}" for name in names)
        properties = "ActiveState,InactiveExitTimestampMonotonic,ActiveEnterTimestampMonotonic"
        said = self._machine.run(
            f"udevadm settle; systemctl start {unit}; test {paths} && echo Open=yes; "
            f"systemctl show --property={properties} {unit}; systemctl stop {unit}; ls /dev/mapper"
        )
        values = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        assert values["ActiveState"] == "active", said
        assert values["Open"] == "yes", said
        assert said.splitlines()[-1] == "control", said  # and everything is closed again
        took = int(values["ActiveEnterTimestampMonotonic"]) - int(values["InactiveExitTimestampMonotonic"])
        return took / 1e6

    def _install_bare(self) -> None:
        volumes = [self._broker.operate("volume", "show", ADDON, name) for name in self._names]
        enrolment = json.loads(self._machine.run(f"cat {IDENTITY}/enrolment.json"))
        curl = (
            f"curl --silent --fail --tlsv1.3 --cacert {IDENTITY}/ca.crt --cert {IDENTITY}/host.crt"
            f" --key {IDENTITY}/host.key --header 'Content-Type: application/json'"
            f" --data @{PLACE}/request.json --output {PLACE}/reply.json {enrolment['brokers'][0]}/v1/unlock"
        )
        opening = [
            f"cryptsetup open --key-file {PLACE}/{volume['name']}.key"
            f" /dev/disk/by-id/virtio-{volume['serial']} bare-{volume['name']} & one{number}=$!"
            for number, volume in enumerate(volumes)
        ]
        waiting = [f"wait $one{number}" for number in range(len(volumes))]
        closing = [f"cryptsetup close bare-{name}" for name in self._names]
        self._machine.run(f"mkdir -m 700 {PLACE}")
        boot_id, machine_id = self._machine.run("cat /proc/sys/kernel/random/boot_id /etc/machine-id").split()
        self._write(f"{PLACE}/request.json", json.dumps(_request(volumes, boot_id, machine_id)))
        self._write(f"{PLACE}/open", "\n".join(["#!/bin/sh", "set -e", curl, *opening, *waiting, ""]))
        self._write(f"{PLACE}/close", "\n".join(["#!/bin/sh", *closing, ""]))
        self._write(f"/etc/systemd/system/{BARE}", BARE_UNIT)
        self._machine.run(
            f"chmod 700 {PLACE}/open {PLACE}/close; {CONFINED}; systemctl daemon-reload; {curl}"
        )
        for grant in json.loads(self._machine.run(f"cat {PLACE}/reply.json"))["grants"]:
            self._write(f"{PLACE}/{grant['record']['name']}.key", grant["keys"]["1"])

    def _write(self, path: str, text: str) -> None:
        """Write a file into the machine; here-documents end with a newline, which a key must not."""
        self._machine.run(f"head --bytes=-1 >{path} <<'END'\n{text}\nEND")


def _request(volumes: list[dict[str, Any]], boot_id: str, machine_id: str) -> dict[str, Any]:
    """Return the very request that the agent sends at a boot; of another boot it would be a clone's."""
    observations = tuple(
        Observation(
            VolumeId(volume["volume"]),
            "luks2",
            Device(**volume["device"]),
            SeenHeader(Pin(**volume["pin"]), volume["sequence"], (), degraded=False),
        )
        for volume in volumes
    )
    return UnlockRequest(boot_id, machine_id, "0.1.0", observations).as_json()
