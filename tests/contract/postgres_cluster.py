"""A PostgreSQL of a test run's own, on a unix socket, without fsync; and empty databases in it."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from keybroker.store import schema
from keybroker.store.places import Cluster

_PROGRAMS = Path("/usr/lib/postgresql/15/bin")
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "200",
    "autovacuum": "off",
    "logging_collector": "off",
}


@dataclass
class PostgresServer:
    """A server that runs."""

    home: Path
    process: subprocess.Popen[bytes]
    _shared: Cluster | None = None
    _names: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def uri(self, name: str, user: str = "broker") -> str:
        return f"postgresql+psycopg://{user}@/{name}?host={self.home}"

    def database(self) -> Cluster:
        """Make an empty database that belongs to ``broker``."""
        name = f"b{next(self._names)}"
        with psycopg.connect(host=str(self.home), user="postgres", autocommit=True) as connection:
            connection.execute(
                f"CREATE DATABASE {name} OWNER broker TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'"
            )
        return Cluster(self.uri(name))

    def with_tables(self) -> Cluster:
        """Return a database with all tables and no rows; it is the same one again, emptied."""
        if self._shared is None:
            self._shared = self.database()
            schema.create(self._shared)
        with self.as_superuser(self._shared) as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            names = [name for (name,) in tables if name != "alembic_version"]
            connection.execute("SET session_replication_role = replica")  # no guard, no foreign key
            connection.execute("; ".join(f"DELETE FROM {name}" for name in names))  # noqa: S608
        return self._shared

    def as_superuser(self, database: Cluster) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as whom no permission stops."""
        return psycopg.connect(
            host=str(self.home), user="postgres", dbname=name_of(database), autocommit=True
        )

    def end_connections(self, database: Cluster) -> None:
        """End all connections to a database, as a failover does."""
        with self.as_superuser(database) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = %s AND usename = 'broker'",
                (name_of(database),),
            )

    def stand_still(self) -> None:
        """Stop every process of the server, as a paused machine does."""
        self._signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let them go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, which: signal.Signals) -> None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (self.process.pid, *map(int, children)):
            os.kill(pid, which)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)
        shutil.rmtree(self.home, ignore_errors=True)


def name_of(database: Cluster) -> str:
    """Return what PostgreSQL calls a database."""
    return database.uri.partition("@/")[2].partition("?")[0]


def _as_postgres() -> dict[str, object]:
    """Return the arguments that make a child the user ``postgres``: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def start_server() -> PostgresServer:
    """Make a cluster and start it: the socket is in its directory, whose path is short."""
    home = Path(tempfile.mkdtemp(prefix="kb-pg-", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(home, "postgres", "postgres")
    home.chmod(0o755)
    data = home / "data"
    initdb = [str(_PROGRAMS / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres"]
    subprocess.run(
        [*initdb, "--locale=C", "-N", "-E", "UTF8"], check=True, capture_output=True, **_as_postgres()
    )  # type: ignore[call-overload]
    settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(  # type: ignore[call-overload]
            [str(_PROGRAMS / "postgres"), "-D", str(data), "-k", str(home), *settings],
            stdout=log,
            stderr=log,
            **_as_postgres(),
        )
    server = PostgresServer(home, process)
    until = time.monotonic() + 30
    while True:
        try:
            with psycopg.connect(host=str(home), user="postgres", autocommit=True) as connection:
                connection.execute("CREATE ROLE broker LOGIN")
            return server
        except psycopg.OperationalError:
            if time.monotonic() > until:
                server.stop()
                raise
            time.sleep(0.05)
