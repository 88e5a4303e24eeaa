"""What a stranger writes does not get into the log as it is: no control character reaches a terminal."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tests.tls.running import Broker, client_context


@pytest.mark.parametrize("length", [b"\x9b31m1", b"1\xc2\x85", b"\x801", "\u20288".encode()])
def test_no_line_of_the_log_has_a_control_character(broker: Broker, length: bytes) -> None:
    before = len(broker.log.read_text())
    request = b"GET /v1/enrolment HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", broker.enrolment), timeout=10) as plain,
        client_context(broker.ca, None).wrap_socket(plain, server_hostname="127.0.0.1") as stranger,
    ):
        stranger.sendall(request)
        said = b""
        with contextlib.suppress(OSError):
            while piece := stranger.recv(4096):
                said += piece
    assert said.startswith(b"HTTP/1.1 400 ")
    lines = broker.log.read_text()[before:].split("\n")
    assert any("Malformed" in line for line in lines)
    assert all(line.isprintable() for line in lines)


def test_a_start_warns_of_nothing(broker: Broker) -> None:
    start, found, _ = broker.log.read_text().partition("refuses clients without a certificate")
    assert found
    assert [line for line in start.splitlines() if "WARNING" in line or "ERROR" in line] == []
