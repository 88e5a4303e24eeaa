"""The bytes of one HTTP/1.1 exchange, as far as a broker speaks it (RFC 9112): a request out, a reply in.

``http.client`` reads header fields with the parser for e-mail, whose import is 8 ms of a boot. A broker says
how long its reply is; what is coded in chunks, folded or longer than it may be is no reply of a broker's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from agent.broker.replies import Reply
from keybroker.wire.askingboot import HEADER

LARGEST_HEAD: Final = 16 << 10
_PIECE: Final = 64 << 10

_STATUS_LINE: Final = re.compile(r"HTTP/1\.1 ([2-5][0-9]{2})( [^\r\n]*)?")
_FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_LENGTH: Final = re.compile(r"[0-9]{1,9}")
_EMPTY: Final = (204, 304)

Receive = Callable[[int], bytes]
"""Waits for some bytes, that many at most, and returns them; none at the end."""


class NotHttp(Exception):
    """What came is no HTTP reply, or too large, or cut short; the text says which."""


def request(method: str, path: str, host: str, body: bytes | None, boot: str | None = None) -> bytes:
    """Return the bytes of a request.

    Args:
        host: and the port, where it is not 443.
        body: JSON; None where there is none.
        boot: what the field ``Keybroker-Boot`` is to say; None for no such field.
    """
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Accept: application/json"]
    if boot is not None:
        lines.append(f"{HEADER}: {boot}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (body or b"")


def read_reply(receive: Receive, *, largest: int) -> tuple[Reply, bool]:
    """Read one reply.

    Args:
        largest: bytes of body.

    Returns:
        The reply, and whether another request may follow on the same connection.

    Raises:
        NotHttp: it cannot be read.
    """
    held = bytearray()
    while (end := held.find(b"\r\n\r\n")) < 0:
        if len(held) > LARGEST_HEAD:
            break
        _more(receive, held, _PIECE)
    if not 0 < end <= LARGEST_HEAD:
        raise NotHttp("its head is too large")
    status, headers = _head(held[:end].decode("latin-1"))
    del held[: end + 4]
    if status in _EMPTY:
        return Reply(status, headers, b""), not held
    length = headers.get("content-length")
    if length is None:
        return Reply(status, headers, _to_the_end(receive, held, largest)), False
    if _LENGTH.fullmatch(length) is None:
        raise NotHttp(f"its length is {length[:20]!a}")
    if int(length) > largest:
        raise NotHttp("it is too large")
    while len(held) < int(length):
        _more(receive, held, int(length) - len(held))
    lasts = headers.get("connection", "").lower() != "close" and len(held) == int(length)
    return Reply(status, headers, bytes(held[: int(length)])), lasts


def _more(receive: Receive, held: bytearray, most: int) -> None:
    piece = receive(most)
    if not piece:
        raise NotHttp("it ends too early" if held else "the connection was closed")
    held += piece


def _to_the_end(receive: Receive, held: bytearray, largest: int) -> bytes:
    while len(held) <= largest:
        piece = receive(_PIECE)
        if not piece:
            return bytes(held)
        held += piece
    raise NotHttp("it is too large")


def _head(text: str) -> tuple[int, dict[str, str]]:
    first, *lines = text.split("\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise NotHttp(f"its first line is {first[:60]!a}")
    headers: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise NotHttp(f"one of its header fields is {line[:60]!a}")
        name = field[1].lower()
        headers[name] = f"{headers[name]}, {field[2]}" if name in headers else field[2]
    if "transfer-encoding" in headers:
        raise NotHttp("it is coded for transfer")
    return int(match[1]), headers
