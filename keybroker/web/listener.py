"""Where connections arrive: Tornado's HTTP server, with strangers bounded and the refused told why."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections import Counter
from hashlib import sha256
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final, cast

from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, SSLIOStream

from keybroker.tally import Mistrust
from keybroker.web.gate import Gate
from keybroker.web.unfinished import Unfinished

_DATED: Final[dict[int, Mistrust]] = {9: "not-yet-valid", 10: "expired"}
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (openssl-verification-options(1))."""

_FAREWELLS: Final = 256
_FAREWELL_SECONDS: Final = 2


class Listener(HTTPServer):
    """Tornado's HTTP server with a bound on connections that strangers cannot use up.

    When the bound is reached, the oldest connection whose handshake is not finished makes room: a flood of
    half-open handshakes displaces itself, not the clients that have shown a certificate. Nor can whoever
    finished them keep the others out, be it with a revoked host's certificate or where none is asked for: an
    address that has more than a quarter of all connections makes room first.

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
        self._gate = gate
        self._most = limits.connections
        self._strangers: dict[IOStream, None] = {}
        self._origins: dict[IOStream, str] = {}
        self._farewells: set[asyncio.Future[None]] = set()
        self._fingerprints: dict[IOStream, str] = {}
        self._unfinished = Unfinished()

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Take a new connection (tornado.tcpserver.TCPServer)."""
        if isinstance(stream, SSLIOStream):
            self._strangers[stream] = None
            self._origins[stream] = _origin(address[0])
            self._watch(stream, socket.socket(fileno=os.dup(stream.socket.fileno())))
        super().handle_stream(stream, address)
        if len(self._connections) > self._most:
            self._makes_room(stream).close()

    def on_close(self, server_conn: object) -> None:
        """Forget a connection (tornado.httputil.HTTPServerConnectionDelegate)."""
        super().on_close(server_conn)
        stream = cast(HTTP1ServerConnection, server_conn).stream
        origin, shown = self._origins.pop(stream, None), self._fingerprints.pop(stream, None)
        is_waited_for = server_conn in self._gate.expecting
        self._gate.expecting.discard(server_conn)
        # Tornado says nothing of header fields that stop; what it has of them is in no public attribute.
        if origin is not None and is_waited_for and getattr(stream, "_read_buffer", None):
            self._unfinished.tell(self._gate.name, origin, shown, time.monotonic())

    def _makes_room(self, newest: IOStream) -> IOStream:
        """Choose the connection to close, one too many being open."""
        for origin, count in Counter(self._origins.values()).most_common(1):
            if count > self._most // 4:
                own = [stream for stream, other in self._origins.items() if other == origin]
                waiting = (stream for stream in own if stream in self._strangers and stream is not newest)
                return next(waiting, own[0])
        return next(iter(self._strangers), newest)

    def _watch(self, stream: SSLIOStream, second: socket.socket) -> None:
        """Follow a handshake to its end."""

        def ended(handshake: asyncio.Future[Any]) -> None:
            self._strangers.pop(stream, None)
            error = handshake.exception()
            if error is None and stream in self._origins:
                certificate = stream.socket.getpeercert(binary_form=True) if stream.socket else None
                if certificate is not None:
                    self._fingerprints[stream] = sha256(certificate).hexdigest()
            why = _mistrust(error) if isinstance(error, ssl.SSLError) else None
            if why is not None:
                self._gate.turned_away(self._gate.name, why)
            if not isinstance(error, ssl.SSLError) or len(self._farewells) >= _FAREWELLS:
                second.close()
                return
            farewell = asyncio.ensure_future(_farewell(second))
            self._farewells.add(farewell)
            farewell.add_done_callback(self._farewells.discard)

        asyncio.ensure_future(stream.wait_for_handshake()).add_done_callback(ended)


def _mistrust(error: ssl.SSLError) -> Mistrust | None:
    """Name the reason of a failed handshake; None where the client only hung up."""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        return _DATED.get(error.verify_code, "untrusted")
    reason = error.reason or ""
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "no-certificate"
    return "by-client" if "_ALERT_" in reason else "other"


def _origin(address: str) -> str:
    """Return what stands for one client: an IPv4 address, or the /64 that an IPv6 host has to itself."""
    if ":" not in address:
        return address
    found = ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return str(mapped or ip_network((int(found), 64), strict=False))


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
