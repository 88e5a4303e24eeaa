"""Strangers who stall cost nobody else anything, and are gone after a while."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256

import pytest

from keybroker.web.unfinished import LINES, SECONDS, Unfinished
from tests.tls.running import LOOPBACK, Broker, Host, ask, client_context, running, unlock_request

STALLED = 200
IDLE_SECONDS = 4

HALF_HELLO = bytes.fromhex("16030100c8010000c40303") + b"\x00" * 40


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    limits = f"idle_seconds = {IDLE_SECONDS}\nbody_seconds = {IDLE_SECONDS}\nconnections = 300"
    with running(tmp_path_factory.mktemp("broker"), limits=limits) as started:
        started.add_addon("shop")
        yield started


def slowest_good_client(broker: Broker, host: Host, times: int = 5) -> float:
    slowest = 0.0
    for _ in range(times):
        began = time.monotonic()
        assert broker.ask("POST", "/v1/unlock", unlock_request(), who=host.files).status == 200
        slowest = max(slowest, time.monotonic() - began)
    return slowest


def closed(held: socket.socket, seconds: float) -> bool:
    held.settimeout(seconds)
    try:
        while held.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.parametrize("first_bytes", [b"", HALF_HELLO], ids=["silent", "half a hello"])
def test_stalled_handshakes_delay_nobody_and_end(broker: Broker, host: Host, first_bytes: bytes) -> None:
    with ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_connection((LOOPBACK, broker.main), timeout=10))
            for _ in range(STALLED)
        ]
        for one in held:
            one.sendall(first_bytes)
        assert slowest_good_client(broker, host) < 1
        deadline = time.monotonic() + IDLE_SECONDS + 5
        assert all(closed(one, max(0.1, deadline - time.monotonic())) for one in held)


def test_trickled_requests_delay_nobody_and_end(broker: Broker, host: Host) -> None:
    """Clients with a good certificate that send one byte now and then, in header fields and in bodies."""
    context = client_context(broker.ca, host.files)
    starts = [
        b"POST /v1/unlock HTTP/1.1\r\nHost: b\r\nX-Slow: ",
        b"POST /v1/unlock HTTP/1.1\r\nHost: b\r\nContent-Length: 100\r\n\r\n{",
    ]
    with ExitStack() as stack:
        held = []
        for i in range(20):
            plain = stack.enter_context(socket.create_connection((LOOPBACK, broker.main), timeout=10))
            secure = stack.enter_context(context.wrap_socket(plain, server_hostname=LOOPBACK))
            secure.sendall(starts[i % 2])
            held.append(secure)
        assert slowest_good_client(broker, host) < 1
        began = time.monotonic()
        dropped = 0
        while held and time.monotonic() - began < IDLE_SECONDS * 2 + 6:
            time.sleep(0.5)
            for one in tuple(held):
                try:
                    one.sendall(b" ")
                except OSError:
                    held.remove(one)
                    dropped += 1
        assert dropped == 20
    said = broker.log.read_text()
    assert said.count(f"Timeout reading body from {LOOPBACK}") == 10
    shown = sha256(ssl.PEM_cert_to_DER_cert(host.files.certificate.read_text())).hexdigest()
    line = f"main: {LOOPBACK}: ended within a request's header fields, certificate {shown}"
    assert said.count(line) == 10


def test_whoever_waits_between_requests_or_hangs_up_there_is_not_told_of(broker: Broker, host: Host) -> None:
    before = broker.log.read_text().count("within a request's header fields")
    with broker.connect(host.files) as idle, broker.connect(host.files) as brief:
        for connection in (idle, brief):
            assert ask(connection, "POST", "/v1/unlock", unlock_request()).status == 200
        held = idle.sock
        brief.close()
        assert closed(held, IDLE_SECONDS + 5)
    assert broker.log.read_text().count("within a request's header fields") == before


def test_a_flood_of_requests_without_an_end_leaves_a_few_lines_and_a_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = Unfinished()
    for number in range(500):
        told.tell("main", LOOPBACK, None, number / 100)
    told.tell("main", LOOPBACK, None, SECONDS + 1)
    assert len(caplog.messages) == LINES + 2
    assert caplog.messages[-2] == f"requests without an end: {500 - LINES} more in the time before"


def test_a_flood_beyond_the_bound_displaces_itself_and_not_those_who_are_served(
    broker: Broker, host: Host
) -> None:
    with broker.connect(host.files) as served, ExitStack() as stack:
        assert ask(served, "POST", "/v1/unlock", unlock_request()).status == 200
        held = served.sock
        for _ in range(400):
            stack.enter_context(socket.create_connection((LOOPBACK, broker.main), timeout=10))
        assert ask(served, "POST", "/v1/unlock", unlock_request()).status == 200
        assert served.sock is held
        assert slowest_good_client(broker, host) < 1


def test_health_is_told_meanwhile(broker: Broker) -> None:
    with ExitStack() as stack:
        for _ in range(STALLED):
            stack.enter_context(socket.create_connection((LOOPBACK, broker.main), timeout=10))
        began = time.monotonic()
        assert broker.probe("/readyz").status == 200
        assert time.monotonic() - began < 1
