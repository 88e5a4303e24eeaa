"""The two servers that are compared: a broker that hands out a key, and nginx that answers as many bytes.

Both use the same certificates, demand the same client certificate, speak TLS 1.3 without tickets, close after
each reply, and are pinned to the same core; the load comes from another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.tls.running import Broker, Host, free_ports, unlock_request

ROOT: Final = Path(__file__).parents[2]
CORES: Final = sorted(os.sched_getaffinity(0))
SERVER_CORE: Final = CORES[0]
LOAD_CORE: Final = CORES[-1]
TICKS: Final = os.sysconf("SC_CLK_TCK")

NGINX: Final = """\
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
user root;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  keepalive_timeout 0;
  server {{
    listen 127.0.0.1:{port} ssl backlog=2048;
    ssl_certificate {config}/server.crt;
    ssl_certificate_key {config}/server.key;
    ssl_client_certificate {config}/ca.crt;
    ssl_verify_client on;
    ssl_protocols TLSv1.3;
    ssl_session_tickets off;
    root {directory};
    default_type application/json;
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One load: deliveries per second as seen by the clients, and the server's own seconds for each."""

    per_second: float
    server_seconds: float
    p99_seconds: float


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it listens, its processes, and what is asked of it.

    Attributes:
        body: of each request, None where each has its own or none.
        asks: whether a request has a body at all.
    """

    port: int
    processes: tuple[int, ...]
    path: str
    body: Path | None
    asks: bool = True


def cpu_seconds(processes: tuple[int, ...]) -> float:
    """Return the user and system time that processes and the children that they waited for have used so far.

    proc(5), stat, fields 14 to 17.
    """
    used = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        used += sum(int(field) for field in fields[11:15])
    return used / TICKS


def load(server: Server, broker: Broker, host: Host, *, count: int, at_once: int = 8) -> Measured:
    """Have another process make ``count`` deliveries, each with a full handshake, and fail if one fails."""
    command = [
        "taskset", "--cpu-list", str(LOAD_CORE), sys.executable, "-m", "tests.bench.load",
        "--port", str(server.port), "--path", server.path, "--count", str(count), "--at-once", str(at_once),
        "--ca", str(broker.ca), "--cert", str(host.files.certificate), "--key", str(host.files.key),
        *(("--body", str(server.body)) if server.body else ()),
    ]  # fmt: skip
    before = cpu_seconds(server.processes)
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300)
    used = cpu_seconds(server.processes) - before
    outcome = json.loads(done.stdout)
    assert outcome["failures"] == [], outcome["failures"][:3]
    ordered = sorted(outcome["latencies"])
    return Measured(count / outcome["seconds"], used / count, ordered[int(len(ordered) * 0.99)])


def keyed(broker: Broker, directory: Path) -> tuple[Host, Server, int]:
    """Return a host with a claimed volume, the broker as a server of its key, and the size of its reply."""
    assert broker.process is not None
    subprocess.run(
        ["taskset", "--all-tasks", "--pid", "--cpu-list", str(SERVER_CORE), str(broker.process.pid)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    broker.add_addon("shop")
    free = broker.ask("PUT", "/v1/addons/shop/policy", {"rate": 0, "addon_rate": 0}, who=broker.operator)
    assert free.status == 200, free.body
    volume = broker.add_volume("shop", "data")
    host = broker.enrol("shop")
    broker.claim(host, volume)
    body = directory / "request.json"
    body.write_text(json.dumps(unlock_request(volume)))
    reply = broker.ask("POST", "/v1/unlock", body.read_bytes(), who=host.files)
    assert reply.status == 200, reply.body
    assert reply.document["grants"][0]["keys"], "a delivery without a key would be no delivery"
    return host, Server(broker.main, (broker.process.pid,), "/v1/unlock", body), len(reply.body)


@contextmanager
def nginx(broker: Broker, directory: Path, size: int) -> Iterator[Server]:
    """Serve ``size`` bytes from a file, with the broker's own certificates."""
    (port,) = free_ports(1)
    directory.mkdir()
    (directory / "reply").write_bytes(b"x" * size)
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(directory=directory, port=port, config=broker.config.parent))
    process = subprocess.Popen(
        ["taskset", "--cpu-list", str(SERVER_CORE), "nginx", "-p", str(directory), "-c", str(config)],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until = time.monotonic() + 20
        while not children.read_text():
            assert time.monotonic() < until, (directory / "nginx.log").read_text()
            time.sleep(0.05)
        workers = tuple(int(word) for word in children.read_text().split())
        yield Server(port, (process.pid, *workers), "/reply", None, asks=False)
    finally:
        process.terminate()
        process.wait(20)
