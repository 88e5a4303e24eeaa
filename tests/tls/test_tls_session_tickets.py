"""No session ticket is ever issued: a resumed session would skip the verification of its certificate."""

from __future__ import annotations

import time

import pytest

from tests.tls.running import LOOPBACK, Broker, openssl


@pytest.mark.parametrize("listener", ["main", "enrolment"])
def test_openssl_gets_no_ticket(broker: Broker, listener: str) -> None:
    request = b"GET /v1/addons HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n"
    done = openssl(
        "s_client", "-connect", f"{LOOPBACK}:{getattr(broker, listener)}", "-CAfile", str(broker.ca),
        "-cert", str(broker.operator.certificate), "-key", str(broker.operator.key),
        "-ign_eof", "-msg", "-verify_return_error",
        stdin=request,
    )  # fmt: skip
    # The answer comes after any ticket would have: TLS 1.3 sends those with the end of its handshake.
    assert b"HTTP/1.1 " in done.stdout
    assert b"New, TLSv1.3" in done.stdout
    assert b"NewSessionTicket" not in done.stdout
    assert b"Post-Handshake New Session Ticket" not in done.stdout


def test_a_session_is_not_resumed(broker: Broker) -> None:
    import socket

    from tests.tls.running import client_context

    context = client_context(broker.ca, broker.operator)
    with (
        socket.create_connection((LOOPBACK, broker.main), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=LOOPBACK) as first,
    ):
        first.sendall(b"GET /v1/addons HTTP/1.1\r\nHost: b\r\n\r\n")
        first.recv(100)
        time.sleep(0.1)
        session = first.session
        assert session is None or not session.has_ticket
    with (
        socket.create_connection((LOOPBACK, broker.main), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=LOOPBACK, session=session) as second,
    ):
        assert second.session_reused is False
