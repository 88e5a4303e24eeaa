"""Three machines with PostgreSQL under Patroni, which agree by etcd on who is the primary.

Synchronous replication to one standby: what the primary acknowledged is on a second machine, and that one
follows it. The times are as short as Patroni's own rule allows (loop_wait + 2 * retry_timeout <= ttl).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

from tests.failover.wires import NETWORK, Machine, switch

BINARIES: Final = Path("/usr/lib/postgresql/15/bin")
USER: Final = "postgres"
DATABASE: Final = "keybroker"
USER_OF_BROKERS: Final = "keybroker"
TTL_SECONDS: Final = 8
"""How long a primary stays one without a word from it."""

_LOOP_SECONDS: Final = 1
_RETRY_SECONDS: Final = 3
_PARAMETERS: Final = {
    "shared_buffers": "16MB",
    "max_connections": 120,
    "wal_keep_size": "128MB",
    "max_wal_size": "256MB",
    "wal_sender_timeout": "4s",
    "wal_receiver_timeout": "4s",
    "wal_receiver_status_interval": "1s",
}


def wait(what: str, is_so: Callable[[], Any], seconds: float) -> Any:
    """Wait until something is so, and return what it came to."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := is_so():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not in {seconds} s: {what}")


@dataclass(slots=True)
class Cluster:
    """The machines, and what stands on their disks."""

    directory: Path
    machines: tuple[Machine, ...]

    @property
    def url(self) -> str:
        """How a broker names the database: all hosts, and of them the one that takes writes."""
        return self.url_of(DATABASE)

    def url_of(self, name: str) -> str:
        """Return the same of another database."""
        hosts = ",".join(f"{machine.address}:5432" for machine in self.machines)
        options = "target_session_attrs=read-write&sslmode=disable"
        return f"postgresql+psycopg://{USER_OF_BROKERS}@{hosts}/{name}?{options}"

    def boot(self, machine: Machine, *, first: bool = False) -> None:
        """Start a machine with everything on it; what is on its disk stays."""
        own = self.directory / machine.name
        if first:
            own.mkdir()
            shutil.chown(own, USER, USER)
            (own / "patroni.json").write_text(json.dumps(self._patroni(machine)))
        machine.power_on()
        self._start_etcd(machine, own)
        machine.start(own / "patroni.log", "/usr/bin/patroni", str(own / "patroni.json"))

    def _start_etcd(self, machine: Machine, own: Path) -> None:
        peers = ",".join(f"{one.name}=http://{one.address}:2380" for one in self.machines)
        options = {
            "name": machine.name,
            "data-dir": str(own / "etcd"),
            "listen-peer-urls": f"http://{machine.address}:2380",
            "initial-advertise-peer-urls": f"http://{machine.address}:2380",
            "listen-client-urls": f"http://{machine.address}:2379",
            "advertise-client-urls": f"http://{machine.address}:2379",
            "initial-cluster": peers,
            "heartbeat-interval": "200",
            "election-timeout": "1500",
            "enable-v2": "true",
        }
        machine.start(
            own / "etcd.log", "/usr/bin/etcd", *(f"--{name}={said}" for name, said in options.items())
        )

    def _patroni(self, machine: Machine) -> dict[str, Any]:
        own = self.directory / machine.name
        trusted = f"host all all {NETWORK}.0/24 trust"
        return {
            "scope": "failover",
            "name": machine.name,
            "restapi": {
                "listen": f"{machine.address}:8008",
                "connect_address": f"{machine.address}:8008",
            },
            # Not etcd3: with it Patroni 3.0.2 renews the leader's key without a condition. A primary that was
            # frozen just then takes it back from the one after it, and what that acknowledged is lost.
            "etcd": {"hosts": [f"{one.address}:2379" for one in self.machines]},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_SECONDS,
                    "loop_wait": _LOOP_SECONDS,
                    "retry_timeout": _RETRY_SECONDS,
                    "master_start_timeout": 0,
                    "synchronous_mode": True,
                    "synchronous_mode_strict": True,
                    "postgresql": {"use_pg_rewind": True, "parameters": _PARAMETERS},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"{machine.address}:5432",
                "connect_address": f"{machine.address}:5432",
                "data_dir": str(own / "data"),
                "bin_dir": str(BINARIES),
                "pgpass": str(own / "pgpass"),
                "pg_hba": [trusted, f"host replication all {NETWORK}.0/24 trust", "local all all trust"],
                "authentication": {
                    "superuser": {"username": "postgres"},
                    "replication": {"username": "replicator"},
                },
                "parameters": {"unix_socket_directories": str(own)},
                "basebackup": [{"checkpoint": "fast"}],
            },
            "watchdog": {"mode": "off"},
        }

    def ask(self, machine: Machine, path: str) -> tuple[int, Any]:
        """Ask a machine's Patroni; status 0 where it does not answer."""
        connection = HTTPConnection(machine.address, 8008, timeout=1)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read() or b"null")
        except (OSError, HTTPException, ValueError):
            return 0, None
        finally:
            connection.close()

    def roles(self) -> dict[str, str]:
        """Return what each machine says that it is, by name: the ones that run and have answered."""
        said = {}
        for machine in self.machines:
            _status, document = self.ask(machine, "/patroni")
            if document and document.get("state") == "running":
                kind = document["role"]
                if document.get("sync_standby"):
                    kind = "sync_standby"
                said[machine.name] = "primary" if kind == "master" else kind
        return said

    def primary(self) -> Machine | None:
        """Return the machine that says that it is the primary; None where none does, or two do."""
        names = [name for name, role in self.roles().items() if role == "primary"]
        return next((one for one in self.machines if names == [one.name]), None)

    def wait_for_primary(self, seconds: float, *, other_than: Machine | None = None) -> Machine:
        """Wait for a primary that takes writes."""

        def found() -> Machine | None:
            one = self.primary()
            return one if one is not other_than and one is not None and self._takes_writes(one) else None

        one: Machine = wait(f"a primary: {self.roles()}", found, seconds)
        return one

    def _takes_writes(self, machine: Machine) -> bool:
        return self.sql(machine, "select not pg_is_in_recovery()", may_fail=True) == "t"

    def wait_until_whole(self, seconds: float) -> None:
        """Wait for all three, one of them the primary and one its synchronous standby."""
        expected = ["primary", "replica", "sync_standby"]
        wait("three machines in their places", lambda: sorted(self.roles().values()) == expected, seconds)

    def sql(
        self, machine: Machine, statement: str, *, database: str = "postgres", may_fail: bool = False
    ) -> str:
        """Run a statement on one machine as the superuser, and return what it prints."""
        done = subprocess.run(
            [
                *(str(BINARIES / "psql"), "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1"),
                f"host={machine.address} user=postgres dbname={database} connect_timeout=2",
                *("-c", statement),
            ],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert may_fail or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def make_database(self, name: str) -> None:
        """Make an empty database of the brokers'."""
        self.sql(self.wait_for_primary(30), f"create database {name} owner {USER_OF_BROKERS}")

    def logs(self) -> str:
        """Return the ends of what the machines said."""
        files = sorted(self.directory.glob("*/*.log"))
        return "\n".join(f"--- {file}\n{file.read_text(errors='replace')[-1500:]}" for file in files)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a cluster with an empty database for the brokers, on a switch that this thread is on, too."""
    directory = Path(tempfile.mkdtemp(prefix="keybroker-failover-"))
    directory.chmod(0o755)
    machines = tuple(Machine(number, USER) for number in (1, 2, 3))
    made = Cluster(directory, machines)
    with switch():
        try:
            for machine in machines:
                made.boot(machine, first=True)
            primary = made.wait_for_primary(60)
            made.wait_until_whole(60)
            made.sql(primary, f"create role {USER_OF_BROKERS} login")
            made.make_database(DATABASE)
            yield made
        except BaseException:
            print(made.logs())
            raise
        finally:
            for machine in machines:
                if machine.holder is not None:
                    with suppress(OSError, AssertionError, subprocess.TimeoutExpired):
                        machine.power_off()
            shutil.rmtree(directory, ignore_errors=True)
