"""HTTP/1.1 replies, byte by byte: what a broker sends is read, anything else is no reply."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.broker.exchange import LARGEST_HEAD, NotHttp, read_reply, request


def wire(data: bytes, piece: int) -> Callable[[int], bytes]:
    """Hand the bytes out, ``piece`` at a time, and then the end."""
    left = bytearray(data)

    def receive(most: int) -> bytes:
        taken = bytes(left[: min(most, piece)])
        del left[: len(taken)]
        return taken

    return receive


@pytest.mark.parametrize("piece", [1, 3, 7, 4096])
def test_a_reply_is_read_however_it_is_cut_into_pieces(piece: int) -> None:
    head = b"HTTP/1.1 409 Conflict\r\nContent-Type: application/json\r\nX-Empty:\r\nContent-Length: 5\r\n\r\n"
    reply, lasts = read_reply(wire(head + b"{\r\n\r\n", piece), largest=5)
    assert (reply.status, reply.body, lasts) == (409, b"{\r\n\r\n", True)
    assert reply.headers == {"content-type": "application/json", "x-empty": "", "content-length": "5"}


def test_a_reply_without_a_length_lasts_as_long_as_the_connection() -> None:
    reply, lasts = read_reply(wire(b"HTTP/1.1 200 OK\r\n\r\n{}", 4), largest=2)
    assert (reply.body, lasts) == (b"{}", False)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n",
    ],
)
def test_a_connection_is_not_used_again_when_the_peer_ends_it_or_says_too_much(data: bytes) -> None:
    reply, lasts = read_reply(wire(data, 4096), largest=9)
    assert (reply.body, lasts) == (b"{}", False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSpaced : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * LARGEST_HEAD + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n0123456789",
    ],
)
@pytest.mark.parametrize("piece", [1, 1 << 16])
def test_anything_else_is_no_reply(data: bytes, piece: int) -> None:
    with pytest.raises(NotHttp):
        read_reply(wire(data, piece), largest=9)


def test_a_request_names_host_length_and_kind() -> None:
    assert request("PUT", "/v1/x", "broker:8443", b"{}") == (
        b"PUT /v1/x HTTP/1.1\r\nHost: broker:8443\r\nAccept: application/json\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert request("GET", "/v1/x", "broker", None) == (
        b"GET /v1/x HTTP/1.1\r\nHost: broker\r\nAccept: application/json\r\n\r\n"
    )
