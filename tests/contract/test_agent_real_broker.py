"""The installed agent against a real broker: init, serve, enrol, unlock, the way of a new volume, revoke."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent import contact, identity, layout, unlocking
from agent.broker import BrokerClient, Limits
from agent.receipts import Receipts
from keybroker.wire.messages import ClaimRequest, DepositRequest, ReadyRequest
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin
from keybroker.wire.records import Device, Observation, Record, SeenHeader
from keybroker.wire.secret import Secret
from tests.tls.ended import ended
from tests.tls.forging import private_pem
from tests.tls.running import Broker, free_ports, running

PROGRAM = Path(sys.executable).parent / "keybroker-agent"
BOOT = unlocking.boot().request(())


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running(tmp_path_factory.mktemp("broker")) as started:
        started.add_addon("shop")
        started.add_volume("shop", "data")
        yield started


@dataclass
class Vm:
    """A machine's directories, and the program."""

    directory: Path
    broker: Broker
    more: str = ""

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def run(
        self, verb: str, *options: str, stdin: str = "", inside: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        config = self.directory / "agent.toml"
        config.write_text(
            f'state_directory = "{self.state}"\nruntime_directory = "{self.directory}/run"\n'
            f'mounts = "agent"\n{self.more}'
        )
        return subprocess.run(
            [*inside, PROGRAM, verb, "--config", str(config), *options],
            input=stdin, capture_output=True, text=True, timeout=60, check=False,
            env={"PATH": os.environ["PATH"]},
        )  # fmt: skip

    def enrol(self, token: str) -> subprocess.CompletedProcess[str]:
        url = f"https://127.0.0.1:{self.broker.enrolment}"
        return self.run("enrol", "--broker", url, "--token-file", "-", "--deadline", "5", stdin=token)

    @contextmanager
    def client(self, *before: str) -> Iterator[BrokerClient]:
        mine = identity.load(self.state)
        deadline = time.monotonic() + 10
        limits = Limits(connect=1.0, whole=10.0)
        shown = contact.credentials(mine)
        with closing(
            BrokerClient((*before, *mine.brokers), shown, deadline=deadline, limits=limits)
        ) as client:
            yield client


@pytest.fixture
def vm(tmp_path: Path, broker: Broker) -> Vm:
    vm = Vm(tmp_path, broker)
    done = vm.enrol(broker.invite("shop"))
    assert done.returncode == 0, done.stderr
    return vm


def test_an_enrolled_machine_knows_its_volumes_and_is_trusted(vm: Vm) -> None:
    assert [record.name for record in layout.load(vm.state).records] == ["data"]
    done = vm.run("unlock", "--deadline", "0")
    assert done.returncode == Problem.NO_DEVICE.exit_status, done.stderr
    assert "data: closed: no-device" in done.stderr


def test_a_machine_keeps_its_receipt_and_sees_a_broker_that_was_set_back(vm: Vm, broker: Broker) -> None:
    vm.run("unlock", "--deadline", "0")
    kept = Receipts(vm.state, lambda line, priority: None)
    first = kept.last()
    assert first is not None
    vm.run("settle")
    second = kept.last()
    assert second is not None
    assert second.sequence >= first.sequence
    # as if the broker had forgotten what it told this machine
    (vm.state / "receipt.json").write_text(json.dumps({"sequence": 1 << 40, "hash": "ab" * 32}))
    done = vm.run("unlock", "--deadline", "0")
    assert f"its database was set back: its trail ended at record {second.sequence + 3}," in done.stderr
    trail = broker.ask("GET", "/v1/audit?after=-1&limit=4", who=broker.operator).document["audit"]
    (noted,) = [one for one in trail if one["detail"].get("problem") == "set-back"]
    assert (noted["verb"], noted["detail"]["sequence"]) == ("unlock", 1 << 40)
    assert "set back" in broker.log.read_text()


def test_a_token_enrols_one_machine(vm: Vm, tmp_path: Path, broker: Broker) -> None:
    token = broker.invite("shop")
    assert vm.enrol(token).returncode == 0
    (tmp_path / "other").mkdir()
    done = Vm(tmp_path / "other", broker).enrol(token)
    assert done.returncode == Problem.TOKEN_REFUSED.exit_status
    assert token not in done.stderr


def test_a_machine_that_lost_the_reply_gets_the_same_certificate_again(vm: Vm, broker: Broker) -> None:
    token = broker.invite("shop")
    assert vm.enrol(token).returncode == 0
    mine = identity.load(vm.state)
    certificate, key = mine.certificate.read_text(), mine.key.read_bytes()
    # as if the machine had been cut off before it stored what came
    (vm.state / identity.LINK).unlink()
    (vm.state / identity.PENDING_KEY).write_bytes(key)
    assert vm.enrol(token).returncode == 0
    assert identity.load(vm.state).certificate.read_text() == certificate


def test_a_new_volume_goes_its_way_and_then_gives_its_key_at_each_boot(vm: Vm, broker: Broker) -> None:
    """The calls of a first boot, each made twice: a reply may be lost anywhere."""
    broker.add_addon("blog")
    broker.add_volume("blog", "data")
    vm.directory.joinpath("blog").mkdir()
    own = Vm(vm.directory / "blog", broker)
    assert own.enrol(broker.invite("blog")).returncode == 0
    with own.client() as client:
        [grant] = client.unlock(BOOT).grants
        record: Record = grant.record
        device = Device(record.serial, record.size_bytes)
        for _ in range(2):
            grant = client.claim(record.volume, ClaimRequest(record.revision, device))
        [key] = grant.keys.values()
        pin = Pin(record.luks_uuid, "sha256:" + "1" * 64, 4 << 20, 4096)
        header, copy = SeenHeader(pin, 3), Secret(b"KBH1" + os.urandom(300_000))
        claimed = grant.record
        for _ in range(2):
            deposited = client.deposit(record.volume, DepositRequest(claimed.revision, header, copy))
        assert client.header_copy(record.volume).copy == copy
        for _ in range(2):
            ready = client.ready(record.volume, ReadyRequest(deposited.revision))
        assert (ready.stage, ready.pin) == ("ready", pin)
        seen = Observation(record.volume, "luks2", device, header)
        [grant] = client.unlock(replace(BOOT, observations=(seen,))).grants
        assert list(grant.keys.values()) == [key]
        other = SeenHeader(replace(pin, digest="sha256:" + "2" * 64), 3)
        [grant] = client.unlock(replace(BOOT, observations=(replace(seen, header=other),))).grants
        assert grant.keys == {}
        assert grant.refused is not None
        assert grant.refused.problem is Problem.HEADER_REFUSED


def test_what_is_to_be_destroyed_is_said_in_the_machines_journal_until_it_is_called_off(
    vm: Vm, broker: Broker
) -> None:
    body, who = {"reason": "TICKET-1"}, broker.operator
    for path, words in (
        (
            "/v1/addons/shop/volumes/data/deletion",
            "the volume is to be destroyed after",
        ),
        ("/v1/addons/shop/deletion", "add-on shop: is to be destroyed after"),
    ):
        assert broker.ask("PUT", path, body, who=who).status == 201
        done = vm.run("unlock", "--deadline", "0")
        assert words in done.stderr
        assert "undelete shop" in done.stderr
        assert done.returncode == Problem.DELETED.exit_status
        assert broker.ask("DELETE", path, who=who).status == 200
    assert vm.run("unlock", "--deadline", "0").returncode == Problem.NO_DEVICE.exit_status


def test_a_second_broker_answers_when_the_first_is_down(vm: Vm) -> None:
    [dead] = free_ports(1)
    with vm.client(f"https://127.0.0.1:{dead}") as client:
        assert len(client.unlock(BOOT).grants) == 1


def test_a_renewed_certificate_is_taken_and_so_is_the_one_before(vm: Vm) -> None:
    with vm.client() as before:
        assert vm.run("renew", "--now").stdout.startswith("renewed: ")
        assert len(before.unlock(BOOT).grants) == 1
    with vm.client() as after:
        assert len(after.unlock(BOOT).grants) == 1


def expire(vm: Vm, broker: Broker, *, days: float) -> None:
    """Leave the machine as one that was off until so many days after its certificate's end."""
    mine = identity.load(vm.state)
    key = load_pem_private_key(mine.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    old = ended(broker, mine.host, vm.directory / "old", key, days=days)
    mine.certificate.write_bytes(old.certificate.read_bytes())
    about = json.loads((mine.directory / identity.ABOUT).read_text())
    about["not_before"], about["not_after"] = (int(time.time() - each * 86400) for each in (days + 90, days))
    (mine.directory / identity.ABOUT).write_text(json.dumps(about))


@pytest.mark.parametrize("verb", ["unlock", "renew", "settle"])
def test_a_machine_that_was_off_for_long_renews_and_boots_with_nobody_typing(
    vm: Vm, broker: Broker, verb: str
) -> None:
    expire(vm, broker, days=20)
    done = vm.run(verb, "--deadline", "5")
    if verb == "settle":
        assert done.returncode == 0, done.stderr
        assert "certificate: renewed" in done.stderr
    elif verb == "unlock":
        assert "certificate: renewed" in done.stderr
        assert "data: closed: no-device" in done.stderr, "which the broker's records were needed for"
    else:
        assert done.stdout.startswith("renewed: "), done.stderr
    assert identity.load(vm.state).not_after > time.time()
    with vm.client() as client:
        assert len(client.unlock(BOOT).grants) == 1
    assert "renewed" not in vm.run("unlock", "--deadline", "0").stderr


FULL = """
state=$1 full=$2; shift 2
mkdir "$full"; mount -t tmpfs -o size=128k none "$full"; cp -a "$state/." "$full/"
dd if=/dev/zero of="$full/filler" bs=4k 2>/dev/null || true
mount --bind "$full" "$state"
"$@" || echo "status $?"
ls -A "$state" >&2
"""


def full(vm: Vm) -> tuple[str, ...]:
    """Return what runs a program beside whose files there is no room for another byte."""
    return ("unshare", "--mount", "sh", "-ec", FULL, "sh", str(vm.state), str(vm.directory / "full"))


@pytest.mark.parametrize("waiting", [False, True], ids=["same key", "a waiting key that is the newest"])
@pytest.mark.parametrize("verb", ["unlock", "settle"])
def test_a_machine_with_a_full_var_boots_and_reports_with_a_certificate_in_memory(
    vm: Vm, broker: Broker, verb: str, waiting: bool
) -> None:
    expire(vm, broker, days=20)
    if waiting:  # a renewal whose reply was lost
        key = ec.generate_private_key(ec.SECP256R1())
        (vm.state / identity.PENDING_KEY).write_bytes(private_pem(key))
        ended(broker, identity.load(vm.state).host, vm.directory / "newer", key, days=1)
    before = sorted(path.name for path in vm.state.iterdir())
    done = vm.run(verb, "--deadline", "5", inside=full(vm))
    assert "certificate: renewed, but only for this run: No space left on device" in done.stderr
    assert f"hint: make room in {vm.state}" in done.stderr
    if verb == "settle":
        assert "status" not in done.stdout, done.stderr
    else:
        assert "data: closed: no-device" in done.stderr, "which the broker's records were needed for"
    assert done.stderr.split("\n")[-len(before) - 2 : -1] == sorted([*before, "filler"]), "and no debris"
    assert identity.load(vm.state).not_after < time.time()
    assert vm.run("renew", "--deadline", "5").stdout.startswith("renewed: "), "once there is room"


def test_renew_says_that_there_is_no_room(vm: Vm, broker: Broker) -> None:
    done = vm.run("renew", "--now", "--deadline", "5", inside=full(vm))
    assert f"status {Problem.CERTIFICATE.exit_status}" in done.stdout, done.stderr
    assert "certificate: the next one cannot be stored: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    shutil.rmtree(vm.directory / "full")
    expire(vm, broker, days=1)
    done = vm.run("renew", "--deadline", "5", inside=full(vm))
    assert f"status {Problem.CERTIFICATE.exit_status}" in done.stdout, done.stderr
    assert "certificate: the next one cannot be stored: No space left on device" in done.stderr


def test_a_machine_whose_certificate_has_ended_hears_that_it_is_to_lock(vm: Vm, broker: Broker) -> None:
    for days in (20, 40):  # within the grace, and after it
        expire(vm, broker, days=days)
        host = identity.load(vm.state).host
        body = {"reason": "stolen", "lock": True}
        assert broker.ask("PUT", f"/v1/hosts/{host}/revocation", body, who=broker.operator).status == 200
        done = vm.run("settle", "--deadline", "5")
        assert "is revoked, and is to close its volumes: closing all volumes" in done.stderr
        assert done.returncode == Problem.LOCK.exit_status


def test_a_machine_that_cannot_renew_is_told_at_its_report_what_it_will_not_hear(
    vm: Vm, broker: Broker
) -> None:
    expire(vm, broker, days=40)
    done = vm.run("settle", "--deadline", "5")
    assert done.returncode == Problem.CERTIFICATE.exit_status
    assert "is renewed for 30 days after that" in done.stderr
    assert "report: not made: what is open stays open, and nothing is heard from the broker" in done.stderr


def test_a_machine_that_was_off_for_too_long_is_told_what_to_do(vm: Vm, broker: Broker) -> None:
    expire(vm, broker, days=31)
    done = vm.run("unlock", "--deadline", "1")
    assert "is renewed for 30 days after that" in done.stderr
    assert "keybroker host enrol" in done.stderr
    assert done.returncode != 0


def test_a_machine_that_knows_no_enrolment_listener_takes_it_from_its_configuration(
    vm: Vm, broker: Broker
) -> None:
    expire(vm, broker, days=1)
    (identity.load(vm.state).directory / identity.ENROLMENT).unlink()
    done = vm.run("renew", "--deadline", "1")
    assert done.returncode == Problem.CERTIFICATE.exit_status
    assert "no enrolment listener is known" in done.stderr
    vm.more = f'enrolment = ["https://127.0.0.1:{broker.enrolment}"]\n'
    assert vm.run("renew", "--deadline", "5").stdout.startswith("renewed: ")


def test_doctor_is_content_with_the_broker_and_takes_no_key(vm: Vm) -> None:
    found = json.loads(vm.run("doctor", "--json").stdout)["findings"]
    [url] = identity.load(vm.state).brokers
    assert {row["subject"]: row["result"] for row in found}[url] == "good"


def test_a_revoked_machine_is_told_so_at_once(vm: Vm, broker: Broker) -> None:
    host = identity.load(vm.state).host
    reply = broker.ask("PUT", f"/v1/hosts/{host}/revocation", {"reason": "sold"}, who=broker.operator)
    assert reply.status == 200, reply.body
    done = vm.run("unlock", "--deadline", "1")
    assert done.returncode == Problem.REVOKED.exit_status
    assert "revoked" in done.stderr
    with vm.client() as client, pytest.raises(KeybrokerError) as caught:
        client.unlock(BOOT)
    assert caught.value.problem is Problem.REVOKED
