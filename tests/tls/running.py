"""A real installation, a real broker in a process of its own, and plain clients to attack it with.

Everything is in one temporary directory and on loopback, and starts through ``python -m keybroker.cli``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from tests.tls import described
from tests.tls.forging import Files, Signer, private_pem, signing_request

CLI: Final = (sys.executable, "-m", "keybroker.cli")
LOOPBACK: Final = "127.0.0.1"
OPERATOR: Final = "alice"
GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The problem's slug; an assertion fails here unless the reply is a problem document."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        slug = self.document["type"]
        assert self.document["status"] == self.status
        assert isinstance(slug, str)
        return slug


def free_ports(count: int) -> list[int]:
    held = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def run_cli(
    *arguments: str, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, with an environment that holds nothing of ours."""
    clean = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    return subprocess.run(
        [*CLI, *arguments], input=stdin, env=clean | environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


@dataclass(slots=True)
class Broker:
    """An installation and, while it runs, its server."""

    directory: Path
    main: int
    enrolment: int
    process: subprocess.Popen[bytes] | None = None
    _notify: socket.socket | None = None
    notified: list[str] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.directory / "config/keybroker.toml"

    @property
    def ca(self) -> Path:
        return self.directory / "config/ca.crt"

    @property
    def health(self) -> Path:
        return self.directory / "health.sock"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def database(self) -> Path:
        return self.directory / "state/keybroker.db"

    @property
    def operator(self) -> Files:
        own = self.directory / "config/operators"
        return Files(own / f"{OPERATOR}.crt", own / f"{OPERATOR}.key")

    @property
    def signer(self) -> Signer:
        """The installation's own CA, key and all: what only a thief of it could do."""
        return Signer.load(self.ca, self.directory / "config/ca.key")

    def start(self, *, pass_fds: Sequence[int] = (), inside: Sequence[str] = (), **environment: str) -> None:
        """Start the server and wait until it says that it is ready.

        Args:
            inside: a command that becomes the server, with what is to be run as its last arguments.
        """
        path = self.directory / "notify"
        path.unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(path))
        clean = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "NOTIFY_SOCKET": str(path)} | environment
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*inside, *CLI, "serve", "--config", str(self.config)],
                env=clean,
                stderr=log,
                pass_fds=pass_fds,
            )
        self.wait_for("READY=1")

    def wait_for(self, word: str, seconds: float = 30) -> str:
        """Wait for a notification (sd_notify(3)) that has ``word`` in it."""
        assert self._notify is not None
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._notify.settimeout(0.2)
            try:
                said = self._notify.recv(4096).decode()
            except TimeoutError:
                assert self.process.poll() is None, f"the server ended: {self.log.read_text()[-2000:]}"
                continue
            self.notified.append(said)
            if word in said:
                return said
        raise AssertionError(f"no {word} in {seconds} s: {self.log.read_text()[-2000:]}")

    def drain(self) -> None:
        """Take all notifications that are there: the kernel keeps about ten, and then holds up the sender."""
        assert self._notify is not None
        self._notify.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self.notified.append(self._notify.recv(4096).decode())

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """Stop the server as systemd does, and return its status."""
        assert self.process is not None
        if self._notify is not None:
            self.drain()
        self.process.terminate()
        status = self.process.wait(40)
        self.process = None
        if self._notify is not None:
            self._notify.close()
        return status

    def kill(self) -> None:
        """End the server as a crash does (SIGKILL)."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.process = None
        if self._notify is not None:
            self._notify.close()

    def abort(self) -> int:
        """End the server as a failed assertion does (SIGABRT); return its status as wait(2) has it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGABRT)
        _pid, status = os.waitpid(self.process.pid, 0)
        self.process.returncode = -signal.SIGABRT
        self.process = None
        if self._notify is not None:
            self._notify.close()
        return status

    # asking

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        who: Files | None = None,
        port: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Send one request over a connection of its own; ``body`` is JSON unless it is bytes."""
        with self.connect(who, port) as connection:
            reply = ask(connection, method, path, body, headers)
        at = {"enrolment": port == self.enrolment}
        described.check(method, path, body, reply.status, reply.headers, reply.body, **at)
        return reply

    @contextmanager
    def connect(self, who: Files | None = None, port: int | None = None) -> Iterator[HTTPSConnection]:
        connection = HTTPSConnection(
            LOOPBACK, port or self.main, timeout=20, context=client_context(self.ca, who)
        )
        try:
            yield connection
        finally:
            connection.close()

    def probe(self, path: str) -> Reply:
        """Ask the health listener."""
        connection = HTTPConnection("health", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(10)
        connection.sock.connect(str(self.health))
        try:
            return ask(connection, "GET", path)
        finally:
            connection.close()

    def appoint(self, name: str, *roles: str) -> Files:
        """Add an operator with these roles, and return its files."""
        key = ec.generate_private_key(ec.SECP256R1())
        body = {"roles": sorted(roles), "csr": signing_request(key)}
        reply = self.ask("PUT", f"/v1/operators/{name}", body, who=self.operator)
        assert reply.status == 201, reply.body
        own = self.directory / "people"
        own.mkdir(exist_ok=True)
        files = Files(own / f"{name}.crt", own / f"{name}.key")
        files.certificate.write_text(reply.document["certificate"])
        files.key.write_bytes(private_pem(key))
        return files

    # the way to a key

    def add_addon(self, name: str) -> None:
        reply = self.ask("PUT", f"/v1/addons/{name}", {"engine": "postgresql"}, who=self.operator)
        assert reply.status in (200, 201), reply.body

    def add_volume(self, addon: str, name: str) -> dict[str, Any]:
        spec = {
            "size_bytes": GIB,
            "cipher": "aes-xts-plain64",
            "mount": f"/srv/{name}",
            "filesystem": "ext4",
            "serial": None,
        }
        reply = self.ask("PUT", f"/v1/addons/{addon}/volumes/{name}", spec, who=self.operator)
        assert reply.status in (200, 201), reply.body
        volume: dict[str, Any] = reply.document
        return volume

    def invite(self, addon: str) -> str:
        reply = self.ask(
            "POST", f"/v1/addons/{addon}/enrolments", {"lifetime_seconds": 600}, who=self.operator
        )
        assert reply.status == 201, reply.body
        token: str = reply.document["token"]
        return token

    def enrol(self, addon: str) -> Host:
        key = ec.generate_private_key(ec.SECP256R1())
        body = {"token": self.invite(addon), "csr": signing_request(key)}
        reply = self.ask("POST", "/v1/enrolment", body, port=self.enrolment)
        assert reply.status == 200, reply.body
        document = reply.document
        own = self.directory / "hosts" / document["host"]
        own.mkdir(parents=True)
        files = Files(own / "host.crt", own / "host.key")
        files.certificate.write_text(document["certificate"])
        files.key.write_bytes(private_pem(key))
        return Host(document["host"], files)

    def change_policy(self, addon: str, **policy: Any) -> None:
        reply = self.ask("PUT", f"/v1/addons/{addon}/policy", policy, who=self.operator)
        assert reply.status == 200, reply.body

    def claim(self, host: Host, volume: dict[str, Any]) -> str:
        """Claim a blank disk for a new volume and return the passphrase that comes with it."""
        body = {"revision": volume["revision"], "device": device(volume)}
        reply = self.ask("PUT", f"/v1/volumes/{volume['volume']}/device", body, who=host.files)
        assert reply.status == 200, reply.body
        passphrase: str = reply.document["keys"]["1"]
        assert len(passphrase) == 43
        return passphrase

    def make_ready(self, host: Host, volume: dict[str, Any]) -> str:
        """Take a new volume all the way to ready, and return its passphrase."""
        passphrase = self.claim(host, volume)
        path = f"/v1/volumes/{volume['volume']}"
        deposit = {"revision": 2, "header": header(volume), "copy": "S0JIMQ==", "proof": None}
        for part, body in (("header", deposit), ("ready", {"revision": 3})):
            reply = self.ask("PUT", f"{path}/{part}", body, who=host.files)
            assert reply.status == 200, reply.body
        return passphrase


@dataclass(frozen=True, slots=True)
class Host:
    id: str
    files: Files


def header(volume: dict[str, Any], sequence: int = 3) -> dict[str, Any]:
    """Return a header that fits a volume, as an agent would describe it."""
    pin = {
        "uuid": volume["luks_uuid"],
        "digest": "sha256:" + "ab" * 32,
        "data_offset": 4 << 20,
        "sector_size": 4096,
    }
    return {"pin": pin, "sequence": sequence, "requirements": [], "degraded": False, "others": []}


def device(volume: dict[str, Any]) -> dict[str, Any]:
    return {"serial": volume["serial"], "size_bytes": GIB}


BOOT: Final = "00000000-0000-4000-8000-000000000000"
MACHINE: Final = "0" * 32


def unlock_request(*volumes: dict[str, Any], boot: str = BOOT, machine: str = MACHINE) -> dict[str, Any]:
    """Return a boot's request, in which all volumes' disks are blank."""
    return {
        "boot_id": boot,
        "machine_id": machine,
        "agent_version": "0.1.0",
        "observations": [
            {
                "volume": volume["volume"],
                "sight": "blank",
                "device": device(volume),
                "header": None,
                "detail": "",
            }
            for volume in volumes
        ],
    }


def ask(
    connection: HTTPConnection,
    method: str,
    path: str,
    body: object = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    """Send one request over a connection that may live on."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    fields = {"Content-Type": "application/json"} if data is not None else {}
    connection.request(method, path, body=data, headers=fields | (headers or {}))
    reply = connection.getresponse()
    return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())


def client_context(ca: Path, who: Files | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as curl does: what it is given is the end
    if who is not None:
        context.load_cert_chain(who.certificate, who.key)
    return context


def refusal(broker: Broker, who: Files | None, port: int | None = None) -> str:
    """Return the TLS alert that a connection is refused with; an assertion fails if it is let in."""
    try:
        reply = broker.ask("POST", "/v1/unlock", unlock_request(), who=who, port=port)
    except ssl.SSLError as error:
        return error.reason or str(error)
    raise AssertionError(f"let in: {reply.status} {reply.body!r}")


def install(directory: Path, *, limits: str = "", options: Sequence[str] = (), **environment: str) -> Broker:
    """Make an installation below ``directory``, with ``keybroker init`` and further options of it."""
    main, enrolment = free_ports(2)
    made = run_cli(
        "init",
        "--ip", LOOPBACK,
        "--operator", OPERATOR,
        "--trust-domain", "test.internal",
        "--config-dir", str(directory / "config"),
        "--state-dir", str(directory / "state"),
        "--listen", LOOPBACK,
        "--main-port", str(main),
        "--enrolment-port", str(enrolment),
        "--health", f"unix:{directory / 'health.sock'}",
        *options,
        **environment,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    broker = Broker(directory, main, enrolment)
    if limits:
        with broker.config.open("a") as file:
            file.write(f"\n[limits]\n{limits}\n")
    return broker


@contextmanager
def running(directory: Path, *, limits: str = "") -> Iterator[Broker]:
    """Install and start a broker; it is stopped at the end, and must then have ended well."""
    broker = install(directory, limits=limits)
    broker.start()
    try:
        yield broker
    finally:
        if broker.process is not None:
            assert broker.stop() == 0


def openssl(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run openssl(1ssl), a client that is not ours."""
    return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, timeout=30, check=False)


def curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run curl(1), another client that is not ours."""
    return subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "20", *arguments],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        timeout=30,
        check=False,
    )
