"""The program as it is installed, started as an operator or systemd starts it, against a real TLS server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import pytest

from agent import identity
from keybroker import __version__, ca
from keybroker.wire.problems import Problem
from tests.contract.test_agent_broker import GRANT, RECORD
from tests.contract.test_agent_enrolment import Office
from tests.contract.tls_double import (
    HOST,
    Asked,
    Listener,
    authority,
    listening,
    refusal,
    reply,
    server_papers,
    token_for,
)

PROGRAM = Path(sys.executable).parent / "keybroker-agent"
NO_VOLUMES = {"host": HOST, "addon": "shop-db", "grants": [], "receipt": {"sequence": 1, "hash": "0" * 64}}


@dataclass
class Machine:
    """A machine with directories of its own, and the two listeners of a broker."""

    directory: Path
    office: Office
    enrolment: Listener
    broker: Listener
    unlocked: Any = field(default_factory=lambda: dict(NO_VOLUMES))
    wanted: Any = field(default_factory=lambda: {"records": [], "again_seconds": 60})
    reports: list[Any] = field(default_factory=list)
    refused: bytes = b""
    settings: str = ""

    def answer(self, asked: Asked) -> bytes:
        if self.refused:
            return self.refused
        if asked.path == "/v1/report":
            self.reports.append(json.loads(asked.body))
            return reply(self.wanted)
        return reply(self.unlocked) if asked.path == "/v1/unlock" else self.office.answer(asked)

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def run(
        self,
        verb: str,
        *options: str,
        stdin: str = "",
        env: dict[str, str] | None = None,
        stderr: int | IO[str] = subprocess.PIPE,
    ) -> subprocess.CompletedProcess[str]:
        config = self.directory / "agent.toml"
        config.write_text(
            f'state_directory = "{self.state}"\nruntime_directory = "{self.directory}/run"\n'
            f'mounts = "agent"\n{self.settings}'
        )
        return subprocess.run(
            [PROGRAM, verb, "--config", str(config), *options],
            input=stdin, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60, check=False,
            env={"PATH": os.environ["PATH"], **(env or {})},
        )  # fmt: skip

    def enrol(self, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
        token = self.office.token.reveal().decode()
        urls = ("--broker", self.enrolment.url)
        return self.run("enrol", *urls, "--token-file", "-", *options, stdin=f"{token}\n", **more)


@pytest.fixture(scope="module")
def signer() -> ca.Authority:
    return authority()


@pytest.fixture
def machine(tmp_path: Path, signer: ca.Authority) -> Iterator[Machine]:
    papers = server_papers(tmp_path, signer)
    office = Office(signer, token_for(signer.pem))
    with (
        listening(office.answer, papers, None) as enrolment,
        listening(lambda asked: place.answer(asked), papers, signer.pem) as broker,
    ):
        office.change = {"brokers": [broker.url], "records": []}
        place = Machine(tmp_path, office, enrolment, broker)
        yield place


@pytest.fixture
def enrolled(machine: Machine) -> Machine:
    assert machine.enrol().returncode == 0
    return machine


# --- what the command line says ---


def test_version_is_the_projects() -> None:
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"keybroker-agent {__version__}\n"


@pytest.mark.parametrize(
    "verb",
    [
        "enrol",
        "unlock",
        "lock",
        "status",
        "doctor",
        "renew",
        "settle",
        "plan",
        "prove",
        "adopt",
        "restore-header",
    ],
)
def test_every_verb_teaches_by_example(verb: str) -> None:
    done = subprocess.run([PROGRAM, verb, "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert f"\n  keybroker-agent {verb}" in done.stdout or f"keybroker-agent {verb}\n" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 110


@pytest.mark.parametrize(
    "words",
    [[], ["frob"], ["unlock", "--deadline", "soon"], ["unlock", "--deadline", "-1"],
     ["unlock", "--dead", "1"],
     ["enrol", "--broker", "https://b.example"], ["enrol", "--token", "x"], ["status", "extra"]],
)  # fmt: skip
def test_a_wrong_command_line_says_what_and_where_to_read_on(words: list[str]) -> None:
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == Problem.USAGE.exit_status
    first, second = done.stderr.splitlines()
    assert first.startswith("keybroker-agent: ")
    assert second.startswith("keybroker-agent: hint: keybroker-agent")
    assert second.endswith("--help")


def test_a_configuration_that_is_wrong_names_the_file_and_the_key(machine: Machine) -> None:
    machine.settings = "deadline = 5\n"
    done = machine.run("status")
    assert done.returncode == Problem.CONFIGURATION.exit_status
    assert f"{machine.directory}/agent.toml: deadline: is not known" in done.stderr


# --- enrolment and renewal ---


def test_enrol_prints_who_the_machine_is_and_until_when(machine: Machine) -> None:
    done = machine.enrol()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"enrolled as {HOST}; the certificate is good until 2")
    assert identity.load(machine.state).brokers == (machine.broker.url,)


def test_enrol_takes_its_token_from_a_file_or_an_argument_too(machine: Machine) -> None:
    token = machine.office.token.reveal().decode()
    file = machine.directory / "token"
    file.write_text(token + "\n")
    urls = ("--broker", machine.enrolment.url)
    assert machine.run("enrol", *urls, "--token-file", str(file)).returncode == 0
    assert machine.run("enrol", *urls, "--token", token).returncode == 0


def test_enrol_refuses_a_broker_with_another_ca_by_its_own_status(machine: Machine) -> None:
    machine.office.token = token_for(authority("another").pem)
    done = machine.enrol()
    assert done.returncode == Problem.UNTRUSTED_BROKER.exit_status
    assert "the token was not sent" in done.stderr
    secret = machine.office.token.reveal().decode()
    assert secret not in done.stderr + done.stdout
    assert secret.encode() not in bytes(machine.enrolment.received)


def test_enrol_gives_up_at_its_deadline_with_the_temporary_status(machine: Machine) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{holder.getsockname()[1]}"
        token = machine.office.token.reveal().decode()
        done = machine.run("enrol", "--broker", url, "--token", token, "--deadline", "0.5")
    assert done.returncode == 75
    assert "Connection refused" in done.stderr
    assert token not in done.stderr + done.stdout


def test_renew_waits_until_it_is_time(enrolled: Machine) -> None:
    done = enrolled.run("renew")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"not due yet: the certificate of {HOST} is good until ")
    assert enrolled.broker.connections == 0


def test_renew_now_gets_another_certificate(enrolled: Machine) -> None:
    before = identity.load(enrolled.state).certificate.read_text()
    done = enrolled.run("renew", "--now")
    assert done.stdout.startswith("renewed: ")
    assert identity.load(enrolled.state).certificate.read_text() != before


def test_renew_on_a_machine_that_is_not_enrolled_says_so(machine: Machine) -> None:
    done = machine.run("renew")
    assert done.returncode == Problem.CERTIFICATE.exit_status
    assert "not enrolled" in done.stderr


# --- unlock ---


def test_unlock_without_volumes_asks_once_and_is_content(enrolled: Machine) -> None:
    done = enrolled.run("unlock")
    assert done.returncode == 0, done.stderr
    [asked] = enrolled.broker.asked
    assert asked.json["observations"] == []
    assert asked.json["agent_version"] == __version__
    assert asked.json["machine_id"] == Path("/etc/machine-id").read_text().strip()
    [line] = done.stderr.splitlines()
    assert line.startswith("keybroker-agent: No volumes after ")


def test_unlock_names_a_disk_that_does_not_come_and_remembers_the_volume(enrolled: Machine) -> None:
    enrolled.unlocked["grants"] = [GRANT | {"keys": {}, "record": RECORD | {"stage": "new", "device": None}}]
    done = enrolled.run("unlock", "--deadline", "0")
    assert done.returncode == Problem.NO_DEVICE.exit_status, done.stderr
    assert "keybroker-agent: data: closed: no-device" in done.stderr
    assert "0 of 1 volume open after " in done.stderr
    seen = json.loads(enrolled.run("status", "--json").stdout)
    assert [(volume["name"], volume["state"]) for volume in seen["volumes"]] == [("data", "closed")]


def test_unlock_on_a_machine_that_is_not_enrolled_says_so(machine: Machine) -> None:
    done = machine.run("unlock")
    assert done.returncode == Problem.CERTIFICATE.exit_status
    assert "not enrolled" in done.stderr
    assert "hint: keybroker host enrol ADDON" in done.stderr


@pytest.mark.parametrize(
    ("problem", "status"), [(Problem.REVOKED, 78), (Problem.NO_IDENTITY, 77), (Problem.NOT_ALLOWED, 77)]
)
def test_a_refusal_ends_unlock_at_once_with_its_own_status(
    enrolled: Machine, problem: Problem, status: int
) -> None:
    enrolled.refused = refusal(problem, "host: it is so")
    done = enrolled.run("unlock", "--deadline", "50")
    assert done.returncode == status
    assert "host: it is so" in done.stderr
    assert len(enrolled.broker.asked) == 1


def test_a_broker_that_is_down_ends_unlock_at_the_deadline_and_can_be_retried(enrolled: Machine) -> None:
    enrolled.refused = refusal(Problem.UNAVAILABLE, "starting", retry_after="1")
    done = enrolled.run("unlock", "--deadline", "4")
    assert done.returncode == 75
    assert len(enrolled.broker.asked) >= 2


def test_an_expired_certificate_is_told_and_not_shown_to_anybody(machine: Machine) -> None:
    machine.office.lifetime = timedelta(seconds=0)
    machine.enrol()
    done = machine.run("unlock", "--deadline", "30")
    assert done.returncode == Problem.CERTIFICATE.exit_status
    assert "certificate: has ended" in done.stderr
    assert machine.broker.connections == 0


def test_systemd_hears_how_far_unlock_is_and_how_long_it_may_take(enrolled: Machine) -> None:
    path = enrolled.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(path))
        heard.settimeout(5)
        done = enrolled.run("unlock", "--deadline", "1000", env={"NOTIFY_SOCKET": str(path)})
        assert done.returncode == 0
        assert heard.recv(4096) == b"STATUS=Opening volumes\nEXTEND_TIMEOUT_USEC=1900000000"
        assert heard.recv(4096) == b"STATUS=No volumes"


def test_a_notify_socket_that_is_gone_stops_nothing(enrolled: Machine) -> None:
    assert enrolled.run("unlock", env={"NOTIFY_SOCKET": "/nowhere/at/all"}).returncode == 0


def test_lines_carry_their_priority_where_the_journal_reads_them(machine: Machine) -> None:
    with (machine.directory / "journal").open("w+") as journal:
        about = os.fstat(journal.fileno())
        for stream, prefix in ((f"{about.st_dev}:{about.st_ino}", "<3>"), ("8:12345", "")):
            journal.seek(0)
            journal.truncate()
            machine.run("unlock", env={"JOURNAL_STREAM": stream}, stderr=journal)
            journal.seek(0)
            assert journal.readline().startswith(f"{prefix}keybroker-agent: ")


def test_unlock_imports_nothing_that_boot_does_not_need() -> None:
    story = "import sys, agent.cli, agent.unlocking; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", story], capture_output=True, text=True, timeout=60, check=True
    )
    slow = {
        "argparse", "cryptography", "requests", "urllib3", "pyudev", "systemd", "logging", "tomllib",
        "concurrent.futures", "asyncio", "sqlite3", "flask", "click", "agent.grammar", "agent.enrolment",
    }  # fmt: skip
    assert slow & set(done.stdout.split()) == set()


def test_a_process_that_holds_keys_leaves_no_core_and_no_open_memory() -> None:
    story = (
        "import resource, ctypes; from agent import hygiene; failed = hygiene.harden();"
        "print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), failed);"
        "print(open('/proc/self/status').read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", story], capture_output=True, text=True, timeout=60, check=True
    )
    first, *rest = done.stdout.splitlines()
    assert first == "(0, 0) 0 ()"
    locked = next(line for line in rest if line.startswith("VmLck:"))
    assert int(locked.split()[1]) > 1000


# --- lock, status, doctor ---


def test_lock_with_nothing_open_is_content(enrolled: Machine) -> None:
    assert enrolled.run("lock").returncode == 0


def test_status_of_a_machine_that_is_not_enrolled_is_no_error(machine: Machine) -> None:
    done = machine.run("status")
    assert (done.returncode, done.stdout) == (0, "not enrolled\nno volumes are known\n")


def test_status_as_json_names_the_host_and_its_certificate(enrolled: Machine) -> None:
    seen = json.loads(enrolled.run("status", "--json").stdout)
    assert seen["host"] == HOST
    assert seen["certificate_until"].endswith("Z")
    assert seen["volumes"] == []


def findings(machine: Machine) -> dict[str, dict[str, str]]:
    done = machine.run("doctor", "--json")
    found = {row["subject"]: row for row in json.loads(done.stdout)["findings"]}
    assert done.returncode == (1 if any(row["result"] == "bad" for row in found.values()) else 0)
    return found


def test_doctor_finds_a_good_broker_a_good_clock_and_a_good_certificate(enrolled: Machine) -> None:
    found = findings(enrolled)
    for subject in (enrolled.broker.url, "clock", "certificate", "state", "cryptsetup"):
        assert found[subject]["result"] == "good", found[subject]
    assert enrolled.broker.asked[0].json["observations"] == [], "no key leaves the broker for a doctor"


def test_doctor_finds_what_the_broker_would_refuse(enrolled: Machine) -> None:
    enrolled.refused = refusal(Problem.REVOKED, "host: revoked by alice")
    row = findings(enrolled)[enrolled.broker.url]
    assert row["result"] == "bad"
    assert "revoked by alice" in row["detail"]


def test_doctor_finds_a_broker_whose_name_nobody_knows(enrolled: Machine) -> None:
    enrolment = identity.load(enrolled.state).directory / "enrolment.json"
    said = json.loads(enrolment.read_text())
    enrolment.write_text(json.dumps(said | {"brokers": ["https://broker.invalid:8443"]}))
    row = findings(enrolled)["https://broker.invalid:8443"]
    assert row["result"] == "bad"
    assert "its name is not known" in row["detail"]
    assert row["hint"] == "getent hosts broker.invalid"


def test_doctor_finds_a_key_that_others_can_read(enrolled: Machine) -> None:
    key = identity.load(enrolled.state).key
    key.chmod(0o644)
    row = findings(enrolled)["state"]
    assert row["result"] == "bad"
    assert str(key) in row["detail"]


def test_doctor_finds_a_machine_that_was_never_enrolled(machine: Machine) -> None:
    row = findings(machine)["identity"]
    assert row["result"] == "bad"
    assert "keybroker-agent enrol" in row["hint"]


def test_doctor_finds_a_disk_that_is_not_there(enrolled: Machine) -> None:
    enrolled.unlocked["grants"] = [GRANT | {"keys": {}}]
    enrolled.run("unlock", "--deadline", "0")
    assert findings(enrolled)["disk of data"]["result"] == "bad"


def test_doctor_prints_what_is_wrong_last_with_its_hint(machine: Machine) -> None:
    done = machine.run("doctor")
    assert done.returncode == 1
    last, hint = done.stdout.splitlines()[-2:]
    assert last.startswith("bad ")
    assert hint.strip().startswith("hint: ")
