"""A new CA issues while the one before is trusted; hosts follow by themselves, then the old is refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from agent import identity, unlocking
from keybroker.ca import is_from
from tests.tls.forging import Files
from tests.tls.running import Broker, refusal, run_cli, running, unlock_request

PROGRAM = Path(sys.executable).parent / "keybroker-agent"


@dataclass
class Vm:
    directory: Path
    broker: Broker

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def files(self) -> Files:
        mine = identity.load(self.state)
        return Files(mine.certificate, mine.key)

    def run(self, verb: str, *options: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        (self.directory / "run").mkdir(exist_ok=True, parents=True)
        config = self.directory / "agent.toml"
        config.write_text(
            f'state_directory = "{self.state}"\nruntime_directory = "{self.directory}/run"\n'
            'mounts = "agent"\n'
        )
        return subprocess.run(
            [PROGRAM, verb, "--config", str(config), *options],
            input=stdin, capture_output=True, text=True, timeout=60, check=False,
            env={"PATH": os.environ["PATH"]},
        )  # fmt: skip

    def boots(self) -> bool:
        """Say whether its certificate is taken, and the broker's by it."""
        done = self.run("unlock", "--deadline", "2")
        return "No volumes" in done.stderr and done.returncode == 0

    def is_from(self, authority: Path) -> bool:
        leaf = x509.load_pem_x509_certificate(self.files.certificate.read_bytes())
        return is_from(leaf, x509.load_pem_x509_certificates(authority.read_bytes())[0])


def enrolled(broker: Broker, directory: Path) -> Vm:
    directory.mkdir()
    vm = Vm(directory, broker)
    url = f"https://127.0.0.1:{broker.enrolment}"
    done = vm.run(
        "enrol", "--broker", url, "--token-file", "-", "--deadline", "5", stdin=broker.invite("shop")
    )
    assert done.returncode == 0, done.stderr
    return vm


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    (tmp_path / "broker").mkdir()
    with running(tmp_path / "broker") as started:
        started.add_addon("shop")
        yield started


def ca(broker: Broker, *words: str, fails: bool = False) -> str:
    done = run_cli("ca", *words, "--config", str(broker.config))
    assert (done.returncode != 0) == fails, done.stderr
    broker.signal(signal.SIGHUP)
    broker.wait_for("RELOADING=1")
    assert "refused" not in broker.wait_for("READY=1")
    return done.stdout + done.stderr


def test_hosts_follow_to_a_new_ca_and_the_old_one_is_then_refused(broker: Broker, tmp_path: Path) -> None:
    old_ca = tmp_path / "old.crt"
    shutil.copy(broker.ca, old_ca)
    on, off = enrolled(broker, tmp_path / "on"), enrolled(broker, tmp_path / "off")
    ca(broker, "rotate")
    assert ca(broker, "rotate").count("unchanged") == 1
    assert on.boots(), "with what it had before"
    young = enrolled(broker, tmp_path / "young")
    assert young.boots()
    assert young.is_from(broker.ca)
    assert not on.is_from(broker.ca)
    done = on.run("settle")
    assert "renewed, for the broker's CA has changed" in done.stderr
    assert on.is_from(broker.ca)
    assert "renewed" not in on.run("settle").stderr, "once is enough"
    assert on.boots()
    said = ca(broker, "retire", fails=True)
    assert f"host {identity.load(off.state).host}" in said
    assert "operator alice" in said
    assert identity.load(on.state).host not in said
    assert off.boots(), "though it was off all the time"
    stolen = Files(tmp_path / "stolen.crt", tmp_path / "stolen.key")
    shutil.copy(off.files.certificate, stolen.certificate)
    shutil.copy(off.files.key, stolen.key)
    off.run("settle")
    off.run("settle")
    renewed = run_cli("operator", "renew", "--config", str(broker.config))
    assert renewed.returncode == 0, renewed.stderr
    assert "nobody" in ca(broker, "show")
    boot = unlocking.boot()  # of the VM's own, or else it would wait for an approver
    again = {**unlock_request(), "boot_id": boot.boot_id, "machine_id": boot.machine_id}
    assert broker.ask("POST", "/v1/unlock", again, who=stolen).status == 200
    ca(broker, "retire")
    assert "UNKNOWN_CA" in refusal(broker, stolen) or "DECRYPT" in refusal(broker, stolen)
    assert all(vm.boots() for vm in (on, off, young))
    on.run("settle")
    assert identity.load(on.state).ca == broker.ca.read_text(), "and it trusts the new one alone"
    assert on.boots()
    assert enrolled(broker, tmp_path / "last").boots()
    assert "unchanged" in ca(broker, "retire")
    assert run_cli("check", "--config", str(broker.config)).returncode == 0


def test_with_force_whoever_is_left_is_cut_off(broker: Broker, tmp_path: Path) -> None:
    off = enrolled(broker, tmp_path / "off")
    ca(broker, "rotate")
    renewed = run_cli("operator", "renew", "--config", str(broker.config))
    assert renewed.returncode == 0, renewed.stderr
    ca(broker, "retire", "--force")
    assert not off.boots()


def test_the_server_s_certificate_is_renewed_for_the_same_key_and_names(
    broker: Broker, tmp_path: Path
) -> None:
    vm = enrolled(broker, tmp_path / "vm")
    path = broker.directory / "config/server.crt"
    before = x509.load_pem_x509_certificate(path.read_bytes())
    ca(broker, "renew-server")
    after = x509.load_pem_x509_certificate(path.read_bytes())
    assert after.serial_number != before.serial_number
    assert after.public_key() == before.public_key()
    names = [
        each.extensions.get_extension_for_class(x509.SubjectAlternativeName).value for each in (before, after)
    ]
    assert names[0] == names[1]
    assert vm.boots()
    ca(broker, "rotate")
    ca(broker, "renew-server")
    assert vm.boots(), "for it is still one of the CA before"


@pytest.mark.parametrize("cut", ["next key", "both trusted", "recorded", "linked"])
def test_a_rotation_that_is_cut_locks_nobody_out_and_goes_on(
    broker: Broker, tmp_path: Path, cut: str
) -> None:
    home = broker.directory / "config"
    vm = enrolled(broker, tmp_path / "vm")
    kept = {name: (home / name).read_bytes() for name in ("ca.crt", "ca.key")}
    assert broker.stop() == 0  # so that all of the database is in the one file
    database = broker.database.read_bytes()
    broker.start()
    ca(broker, "rotate")
    new_key = (home / "ca.key").read_bytes()
    # back to where a crash would have left it
    for name, content in (("ca-next.key", new_key), ("ca.key", kept["ca.key"])):
        (home / name).unlink(missing_ok=True)
        (home / name).write_bytes(content)
        (home / name).chmod(0o400)
    if cut != "linked":
        (home / "ca-before.key").unlink()
    if cut == "next key":
        (home / "ca.crt").unlink()
        (home / "ca.crt").write_bytes(kept["ca.crt"])
        (home / "ca.crt").chmod(0o444)
    if cut in ("next key", "both trusted"):
        assert broker.stop() == 0
        broker.database.write_bytes(database)
        for each in ("-wal", "-shm"):
            Path(f"{broker.database}{each}").unlink(missing_ok=True)
        broker.start()
    else:
        broker.signal(signal.SIGHUP)
        broker.wait_for("READY=1")
    assert vm.boots()
    if cut != "next key":
        assert run_cli("check", "--config", str(broker.config)).stdout.count("cut short") == 1
        assert "cut short" in ca(broker, "retire", fails=True)
    ca(broker, "rotate")
    assert not (home / "ca-next.key").exists()
    assert (home / "ca.key").read_bytes() == new_key
    vm.run("settle")
    assert vm.is_from(broker.ca)
    assert vm.boots()
