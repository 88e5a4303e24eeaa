"""SIGTERM: no new connections, but whoever has asked is answered."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from tests.tls.running import LOOPBACK, Broker, client_context, running, unlock_request


@pytest.fixture
def broker(tmp_path: pytest.TempPathFactory) -> Iterator[Broker]:
    with running(tmp_path, limits="stop_seconds = 6") as started:  # type: ignore[arg-type]
        started.add_addon("shop")
        yield started


def test_a_request_in_flight_is_answered(broker: Broker) -> None:
    host = broker.enrol("shop")
    body = json.dumps(unlock_request()).encode()
    context = client_context(broker.ca, host.files)
    with (
        socket.create_connection((LOOPBACK, broker.main), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=LOOPBACK) as secure,
    ):
        head = f"POST /v1/unlock HTTP/1.1\r\nHost: b\r\nContent-Length: {len(body)}\r\n"
        secure.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body[:20])
        time.sleep(0.5)
        broker.signal(signal.SIGTERM)
        broker.wait_for("STOPPING=1")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, broker.main), timeout=5)
        secure.sendall(body[20:])
        reply = b""
        while piece := secure.recv(65536):
            reply += piece
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Connection: close" in reply
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["host"] == host.id
    assert broker.process is not None
    assert broker.process.wait(20) == 0
    assert "stopped" in broker.log.read_text()
    assert not broker.health.exists()


def test_idle_connections_do_not_hold_it_up(broker: Broker) -> None:
    from tests.tls.running import ask

    with broker.connect(broker.operator) as connection:
        assert ask(connection, "GET", "/v1/addons").status == 200
        began = time.monotonic()
        assert broker.stop() == 0
        assert time.monotonic() - began < 3


def test_a_request_that_never_ends_holds_it_up_for_its_time_only(broker: Broker) -> None:
    context = client_context(broker.ca, broker.operator)
    with (
        socket.create_connection((LOOPBACK, broker.main), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=LOOPBACK) as secure,
    ):
        secure.sendall(b"PUT /v1/addons/x HTTP/1.1\r\nHost: b\r\nContent-Length: 9\r\n\r\n{")
        time.sleep(0.5)
        began = time.monotonic()
        assert broker.stop() == 0
        assert 4 < time.monotonic() - began < 10


def test_it_starts_again_where_it_stopped(broker: Broker) -> None:
    host = broker.enrol("shop")
    assert broker.stop() == 0
    broker.start()
    assert broker.ask("POST", "/v1/unlock", unlock_request(), who=host.files).status == 200
