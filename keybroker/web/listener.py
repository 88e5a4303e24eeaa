"""Where connections arrive: Tornado's HTTP server, with strangers bounded and the refused told why."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from typing import Any, Final

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, SSLIOStream

from keybroker.web.gate import Gate

_FAREWELLS: Final = 256
_FAREWELL_SECONDS: Final = 2


class Listener(HTTPServer):
    """Tornado's HTTP server with a bound on connections that strangers cannot use up.

    When the bound is reached, the oldest connection whose handshake is not finished makes room: a flood of
    half-open handshakes displaces itself, not the clients that have shown a certificate.

    Whoever is refused in the handshake is told so. A TLS 1.3 client has sent its request by then, and closing
    a socket with unread data resets the connection, which can overtake the alert: the client would take a
    refusal for a bad line, and try for ever. So a second descriptor keeps the connection until it is read.
    """

    def initialize(self, gate: Gate, **options: Any) -> None:  # type: ignore[override]
        """Set up (tornado.util.Configurable calls this in place of ``__init__``)."""
        limits = gate.limits
        super().initialize(
            gate,
            idle_connection_timeout=limits.idle_seconds,
            body_timeout=limits.body_seconds,
            max_header_size=16384,
            xheaders=False,
            **options,
        )
        self._most = limits.connections
        self._strangers: dict[IOStream, None] = {}
        self._farewells: set[asyncio.Future[None]] = set()

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Take a new connection (tornado.tcpserver.TCPServer)."""
        if isinstance(stream, SSLIOStream):
            self._strangers[stream] = None
            self._watch(stream, socket.socket(fileno=os.dup(stream.socket.fileno())))
        super().handle_stream(stream, address)
        if len(self._connections) > self._most:
            oldest = next(iter(self._strangers), stream)
            oldest.close()

    def _watch(self, stream: SSLIOStream, second: socket.socket) -> None:
        """Follow a handshake to its end."""

        def ended(handshake: asyncio.Future[Any]) -> None:
            self._strangers.pop(stream, None)
            error = handshake.exception()
            if not isinstance(error, ssl.SSLError) or len(self._farewells) >= _FAREWELLS:
                second.close()
                return
            farewell = asyncio.ensure_future(_farewell(second))
            self._farewells.add(farewell)
            farewell.add_done_callback(self._farewells.discard)

        asyncio.ensure_future(stream.wait_for_handshake()).add_done_callback(ended)


async def _farewell(second: socket.socket) -> None:
    """Let a refused client read why: close our side, and take what it still sends, for a moment."""
    loop = asyncio.get_running_loop()
    with second, contextlib.suppress(OSError, TimeoutError):
        second.setblocking(False)
        second.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(_FAREWELL_SECONDS):
            for _ in range(16):
                if not await loop.sock_recv(second, 4096):
                    break
