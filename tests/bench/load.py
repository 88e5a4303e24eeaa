"""A bounded load on loopback: full TLS handshakes, one request each, and how long each took.

Run as a program of its own, so that it can be pinned to another core than the server:

    python -m tests.bench.load --port 8443 --ca ca.crt --cert host.crt --key host.key --path /v1/unlock \
        --body request.json --count 400 --at-once 8

It speaks to 127.0.0.1 only, stops by itself, and prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import queue
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path

MOST_REQUESTS = 20_000
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: wall seconds, the latency of each success in seconds, and what went wrong."""

    seconds: float
    latencies: tuple[float, ...]
    failures: tuple[str, ...]

    def percentile(self, percent: float) -> float:
        """Return the latency, in seconds, that ``percent`` of the successes did not exceed."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def context(ca: Path, cert: Path, key: Path) -> ssl.SSLContext:
    """Return a client's context as an agent has it: TLS 1.3, our CA alone, our certificate."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_verify_locations(ca)
    made.load_cert_chain(cert, key)
    return made


def deliver(tls: ssl.SSLContext, port: int, request: bytes) -> bytes:
    """Connect, shake hands in full, ask once, read to the end; return the whole reply."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as plain,
        tls.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(request)
        reply = b""
        while chunk := secured.recv(65536):
            reply += chunk
        return reply


def run(tls: ssl.SSLContext, port: int, request: bytes, *, count: int, at_once: int) -> Outcome:
    """Make ``count`` deliveries, ``at_once`` at a time."""
    assert count <= MOST_REQUESTS
    tickets: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(count):
        tickets.put(number)
    latencies: list[float] = []
    failures: list[str] = []

    def work() -> None:
        while True:
            try:
                tickets.get_nowait()
            except queue.Empty:
                return
            began = time.perf_counter()
            try:
                reply = deliver(tls, port, request)
            except OSError as error:
                failures.append(str(error))
                continue
            if reply.startswith(b"HTTP/1.1 200 "):
                latencies.append(time.perf_counter() - began)
            else:
                failures.append(reply[:80].decode(errors="replace"))

    began = time.perf_counter()
    workers = [threading.Thread(target=work) for _ in range(at_once)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return Outcome(time.perf_counter() - began, tuple(latencies), tuple(failures))


def request_bytes(path: str, body: bytes | None) -> bytes:
    """Return an HTTP/1.1 request that asks for the connection to be closed after it."""
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + (body or b"")


def main() -> None:
    """Run one load and print what it did."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("ca", "cert", "key"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--body", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--at-once", type=int, default=8)
    given = parser.parse_args()
    request = request_bytes(given.path, given.body and given.body.read_bytes())
    done = run(
        context(given.ca, given.cert, given.key),
        given.port,
        request,
        count=given.count,
        at_once=given.at_once,
    )
    print(json.dumps({"seconds": done.seconds, "latencies": done.latencies, "failures": done.failures}))


if __name__ == "__main__":
    main()
