"""The drill of docs/cold-start.md: a broker alone on a machine, and what it lacks comes piece by piece."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import time
from pathlib import Path
from threading import Thread
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)

from tests.tls.forging import SERVER, issue
from tests.tls.running import CLI, Broker, install

ADDRESS: Final = "192.0.2.10"
NAME: Final = "broker.example"
ALONE: Final = ("unshare", "--net", "--mount", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces")


def at_home(broker: Broker, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the broker's machine."""
    assert broker.process is not None
    inside = ["nsenter", "--target", str(broker.process.pid), "--net", "--mount"]
    return subprocess.run(
        [*inside, *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )


def states(broker: Broker) -> dict[str, str]:
    """Return what ``keybroker check`` says there, but for what is good."""
    done = at_home(broker, *CLI, "check", "--json", "--config", str(broker.config))
    checks = json.loads(done.stdout)["checks"]
    assert {"clock", "disk space", "files and database"} <= {one["check"] for one in checks}
    found = {one["check"]: one["state"] for one in checks if one["state"] != "good"}
    assert done.returncode == (0 if "wrong" not in found.values() else done.returncode)
    return found


def served(broker: Broker) -> int:
    """Ask for the add-ons by name, as an operator would; return curl's status."""
    own = broker.operator
    return at_home(
        broker, "curl", "-fsS", "--max-time", "5", "--cacert", str(broker.ca), "--cert", str(own.certificate),
        "--key", str(own.key), f"https://{NAME}:{broker.main}/v1/addons",
    ).returncode  # fmt: skip


def be_certified(broker: Broker, key: EllipticCurvePrivateKey, *, from_now: dt.timedelta) -> None:
    """Give the broker a server certificate that is good from then on."""
    fresh = issue(
        broker.directory, broker.signer, usages=(SERVER,), dns=["localhost", NAME],
        begins=from_now, ends=dt.timedelta(days=100), key=key,
    )  # fmt: skip
    for file, name in ((fresh.key, "server.key"), (fresh.certificate, "server.crt")):
        file.replace(broker.directory / "config" / name)


def set_the_clock(broker: Broker, key: EllipticCurvePrivateKey) -> None:
    """Once the broker waits for it, have its certificate begin: what it sees when its clock is set."""
    until = time.monotonic() + 60
    while time.monotonic() < until and "not yet valid" not in (
        broker.log.read_text() if broker.log.exists() else ""
    ):
        time.sleep(0.05)
    be_certified(broker, key, from_now=dt.timedelta(hours=-1))


def test_a_broker_comes_up_by_itself_as_clock_address_and_names_do(tmp_path: Path) -> None:
    broker = install(tmp_path, options=("--listen", ADDRESS, "--name", NAME))
    key = generate_private_key(SECP256R1())
    be_certified(broker, key, from_now=dt.timedelta(hours=1))
    clock = Thread(target=set_the_clock, args=(broker, key))
    clock.start()
    broker.start(inside=ALONE)
    clock.join()
    try:
        # the clock was set while it waited, in one process, and said so
        waits = [said for said in broker.notified if said.startswith("STATUS=waiting: ")]
        assert waits
        assert "not yet valid" in waits[0]
        assert broker.log.read_text().count("not yet valid") == 1, "each reason is said once"
        assert f"main: this machine has no {ADDRESS} yet" in broker.log.read_text()
        assert json.loads(broker.probe("/readyz").body)["status"] == "ready"
        assert states(broker).keys() >= {"address", "name"}
        assert "wrong" not in states(broker).values()

        assert at_home(broker, "ip", "address", "add", f"{ADDRESS}/32", "dev", "lo").returncode == 0
        assert "address" not in states(broker)
        assert served(broker) == 6  # could not resolve host: the name is what is missing still

        (tmp_path / "hosts").write_text(f"127.0.0.1 localhost\n{ADDRESS} {NAME}\n")
        assert at_home(broker, "mount", "--bind", str(tmp_path / "hosts"), "/etc/hosts").returncode == 0
        assert states(broker) == {}
        assert served(broker) == 0
    finally:
        assert broker.stop() == 0
