"""A boot storm: processes full of agents against one server, and what came of it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.serving import LOAD_CORE, ROOT, SERVER_CORE, Server, cpu_seconds
from tests.tls.running import free_ports

PROCESSES: Final = 4
_TANGD: Final = "/usr/libexec/tangd"


@dataclass(frozen=True, slots=True)
class Storm:
    """What a storm came to.

    Attributes:
        drained: seconds until the last agent had its answer.
        done: seconds from the beginning until each one had it, in order.
        tries: seconds of the tries that succeeded, in order.
        server_seconds: the server's own time.
        refused: what the other tries came to.
        most_kib: the most memory that the server had, resident.
    """

    drained: float
    done: list[float]
    tries: list[float]
    server_seconds: float
    refused: Counter[str]
    retries: list[int]
    most_kib: int

    def shown(self, name: str) -> str:
        """Return a line of the table."""
        return (
            f"  {name:<22}{self.drained:7.1f} s {len(self.done) / self.drained:8.0f}/s"
            f"{self.server_seconds / len(self.done) * 1e3:8.2f} ms"
            f"{at(self.done, 50):8.1f}{at(self.done, 99):8.1f}{at(self.done, 100):8.1f} s"
            f"{at(self.tries, 50):8.2f}{at(self.tries, 99):8.2f} s"
            f"{sum(self.refused.values()):7d}{max(self.retries):5d}{self.most_kib / 1024:8.0f} MiB"
        )


HEAD: Final = (
    f"  {'':<22}{'drained':>9} {'rate':>10}{'CPU each':>11}{'all: p50':>8}{'p99':>8}{'max':>8}  "
    f"{'try: p50':>8}{'p99':>8}  {'refused':>7}{'most':>5}{'memory':>12}"
)


def at(ordered: list[float], percent: float) -> float:
    """Return the value that ``percent`` of them do not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def storm(server: Server, agents: Path, numbers: range, *, ca: Path | None, patience: float = 240.0) -> Storm:
    """Have all agents with these numbers come at once.

    Args:
        agents: their certificates and requests.
        ca: whom they trust; None for plain HTTP.
    """
    share = -(-len(numbers) // PROCESSES)
    started = []
    for first in range(numbers.start, numbers.stop, share):
        command = [
            "taskset", "--cpu-list", str(LOAD_CORE), sys.executable, "-m", "tests.bench.arriving",
            "--port", str(server.port), "--path", server.path, "--agents", str(agents),
            "--first", str(first), "--count", str(min(share, numbers.stop - first)),
            "--patience", str(patience),
            *(("--ca", str(ca)) if ca else ()),
            *(("--body", str(server.body)) if server.body else ()),
            *(() if server.asks else ("--get",)),
        ]  # fmt: skip
        started.append(
            subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    before = cpu_seconds(server.processes)
    with _watched(server.processes) as most:
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [json.loads(process.communicate(timeout=patience + 120)[0]) for process in started]
        used = cpu_seconds(server.processes) - before
    failed = [why for one in said for why in one["failed"]]
    assert failed == [], failed[:3]
    done = sorted(seconds for one in said for seconds in one["done"])
    refused: Counter[str] = Counter()
    for one in said:
        refused.update(one["refused"])
    return Storm(
        done[-1],
        done,
        sorted(seconds for one in said for seconds in one["tries"]),
        used,
        refused,
        [number for one in said for number in one["retries"]],
        most[0],
    )


@contextmanager
def _watched(processes: tuple[int, ...]) -> Iterator[list[int]]:
    """Follow the resident memory of processes, in KiB (proc(5), status, VmRSS)."""
    most, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            now = 0
            for process in processes:
                lines = Path(f"/proc/{process}/status").read_text().splitlines()
                now += int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
            most[0] = max(most[0], now)

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield most
    finally:
        over.set()
        watching.join()


@contextmanager
def tang(directory: Path) -> Iterator[Server]:
    """Serve recoveries as Debian's units do: a tangd for each connection, behind a socket."""
    keys = directory / "keys"
    keys.mkdir(parents=True)
    subprocess.run(["/usr/libexec/tangd-keygen", str(keys)], check=True)
    (port,) = free_ports(1)
    exchange, point = directory / "exchange.jwk", directory / "point.jwk"
    for file in keys.glob("*.jwk"):
        if "deriveKey" in json.loads(file.read_text())["key_ops"]:
            exchange = file
    made = _jose("jwk", "gen", "-i", '{"alg":"ECMR"}')
    point.write_text(_jose("jwk", "pub", "-i", "-", stdin=made))
    print_of = _jose("jwk", "thp", "-a", "S256", "-i", str(exchange)).strip()
    process = subprocess.Popen(
        [
            "taskset", "--cpu-list", str(SERVER_CORE), "systemd-socket-activate", "--accept", "--inetd",
            "--listen", f"127.0.0.1:{port}", _TANGD, str(keys),
        ],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(0.5)
    try:
        yield Server(port, (process.pid,), f"/rec/{print_of}", point)
    finally:
        process.terminate()
        process.wait(20)


def _jose(*arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        ["jose", *arguments], input=stdin, check=True, capture_output=True, text=True, timeout=20
    )
    return done.stdout


def allow_files() -> None:
    """Have as many files open as the hard limit lets us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def wanted(variable: str, otherwise: int, most: int) -> int:
    """Return a number that the environment may set."""
    return min(most, int(os.environ.get(variable, str(otherwise))))
