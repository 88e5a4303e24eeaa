"""One client, however many connections it opens and however good its certificate, keeps nobody else out."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from tests.tls.forging import Files
from tests.tls.running import Broker, Host, ask, client_context, running, unlock_request

MOST = 16
ELSEWHERE = "127.0.0.2"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    directory = tmp_path_factory.mktemp("broker")
    with running(directory, limits=f"connections = {MOST}\nidle_seconds = 60") as started:
        started.add_addon("shop")
        yield started


@pytest.fixture(scope="module")
def good(broker: Broker) -> Host:
    return broker.enrol("shop")


@pytest.fixture(scope="module")
def revoked(broker: Broker) -> Host:
    host = broker.enrol("shop")
    reply = broker.ask("PUT", f"/v1/hosts/{host.id}/revocation", {"reason": "stolen"}, who=broker.operator)
    assert reply.status == 200
    return host


@contextlib.contextmanager
def many(broker: Broker, port: int, who: Files | None, count: int) -> Iterator[list[ssl.SSLSocket]]:
    """Hold so many connections with their handshakes done."""
    with contextlib.ExitStack() as stack:
        context, held = client_context(broker.ca, who), []
        for _ in range(count):
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            held.append(stack.enter_context(context.wrap_socket(plain, server_hostname="127.0.0.1")))
        for one in held:  # an answer shows that the server, too, is done with the handshake
            one.sendall(b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n")
            assert one.recv(12).startswith(b"HTTP/1.1 ")
        yield held


def from_elsewhere(broker: Broker, port: int, who: Files | None) -> HTTPSConnection:
    context = client_context(broker.ca, who)
    return HTTPSConnection("127.0.0.1", port, timeout=10, context=context, source_address=(ELSEWHERE, 0))


def test_a_revoked_host_that_holds_all_connections_keeps_no_other_from_its_keys(
    broker: Broker, revoked: Host, good: Host
) -> None:
    with many(broker, broker.main, revoked.files, MOST):
        for _ in range(3):
            with contextlib.closing(from_elsewhere(broker, broker.main, good.files)) as connection:
                assert ask(connection, "POST", "/v1/unlock", unlock_request()).status == 200


def test_a_stranger_that_holds_all_connections_keeps_nobody_from_enrolling(broker: Broker) -> None:
    with (
        many(broker, broker.enrolment, None, MOST),
        contextlib.closing(from_elsewhere(broker, broker.enrolment, None)) as connection,
    ):
        assert ask(connection, "GET", "/v1/enrolment").status == 200


def test_who_takes_the_last_place_displaces_nobody_else(broker: Broker, revoked: Host, good: Host) -> None:
    with contextlib.closing(from_elsewhere(broker, broker.main, good.files)) as connection:
        assert ask(connection, "POST", "/v1/unlock", unlock_request()).status == 200
        with many(broker, broker.main, revoked.files, MOST - 1):
            for _ in range(2 * MOST):
                with contextlib.suppress(OSError), many(broker, broker.main, revoked.files, 1):
                    pass
            assert ask(connection, "POST", "/v1/unlock", unlock_request()).status == 200


def test_displaced_connections_are_the_greedy_ones(broker: Broker, revoked: Host, good: Host) -> None:
    with many(broker, broker.main, revoked.files, MOST) as held:
        with contextlib.closing(from_elsewhere(broker, broker.main, good.files)) as connection:
            assert ask(connection, "POST", "/v1/unlock", unlock_request()).status == 200
        ended = 0
        for one in held:
            one.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                while one.recv(4096):
                    pass
                ended += 1
        assert 1 <= ended <= 2


def test_the_log_of_all_this_has_no_traceback(broker: Broker, tmp_path: Path) -> None:
    assert "Traceback" not in broker.log.read_text()
