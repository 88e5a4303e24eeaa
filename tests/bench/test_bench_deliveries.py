"""Key deliveries per second against nginx, and what stalled strangers cost; ratios within one run only."""

from __future__ import annotations

import resource
import socket
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.bench.serving import keyed, load, nginx
from tests.tls.running import running

pytestmark = pytest.mark.bench

ROUNDS = 5
STRANGERS = 900
CLIENT_HELLO_BEGINS = bytes.fromhex("1603010200010001fc0303")
"""The record and handshake headers of a TLS ClientHello of 512 bytes that never goes on (RFC 8446, 4.1.2)."""


def test_deliveries_with_a_full_handshake_against_nginx(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    with running(tmp_path / "broker") as broker:
        host, ours, size = keyed(broker, tmp_path)
        with nginx(broker, tmp_path / "nginx", size) as theirs:
            for server in (ours, theirs):
                load(server, broker, host, count=50)
            rounds = [
                (load(ours, broker, host, count=200), load(theirs, broker, host, count=200))
                for _ in range(ROUNDS)
            ]
    seen = statistics.median(our.per_second / their.per_second for our, their in rounds)
    spent = statistics.median(their.server_seconds / our.server_seconds for our, their in rounds)
    our, their = rounds[-1]
    print(
        f"\ndeliveries, full handshake each, {size} bytes, medians of {ROUNDS} rounds\n"
        f"  per second of the server's own time: {spent:.2f} of nginx"
        f" (last round: {our.server_seconds * 1e3:.2f} ms against {their.server_seconds * 1e3:.2f} ms)\n"
        f"  as the clients saw it:               {seen:.2f} of nginx"
        f" (last round: {our.per_second:.0f}/s against {their.per_second:.0f}/s)"
    )
    assert spent > 0.1, "far below what TLS in Python costs: something else is slow"


def test_stalled_strangers_cost_good_clients_nothing_much(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    with running(tmp_path / "broker") as broker:
        host, ours, _ = keyed(broker, tmp_path)
        load(ours, broker, host, count=50)
        alone = [load(ours, broker, host, count=300, at_once=4).p99_seconds for _ in range(3)]
        with strangers(broker.main):
            beside = [load(ours, broker, host, count=300, at_once=4).p99_seconds for _ in range(3)]
    ratio = statistics.median(beside) / statistics.median(alone)
    print(
        f"\np99 of good clients beside {STRANGERS} half-open handshakes: {ratio:.2f} of what it is alone"
        f" ({statistics.median(beside) * 1e3:.0f} ms against {statistics.median(alone) * 1e3:.0f} ms)"
    )
    assert ratio <= 2


@contextmanager
def strangers(port: int) -> Iterator[None]:
    """Hold half-open handshakes, opened anew as the server drops them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    with ExitStack() as held:
        for _ in range(STRANGERS):
            one = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            one.sendall(CLIENT_HELLO_BEGINS)
        yield
