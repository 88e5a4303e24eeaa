"""The gate before an app: who may come in, how much they may bring, and how long they may take.

    socket -> Listener (Tornado: TLS, HTTP/1.1, time limits) -> Exchange (one request) -> threads -> WSGI app

Strangers wait in the event loop, where one costs some kilobytes and no thread; a thread is spent on a request
only when all of it has arrived. What an app sees of a request is its method, path, query, content type and
body, the certificate of the TLS connection, and ``Keybroker-Boot``, which says which boot of the
certificate's host this is: no other header field gets through, so none can name anyone.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import unquote_to_bytes

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import SSLIOStream

from keybroker.limits import Limits
from keybroker.tally import Mistrust
from keybroker.terms import Priority
from keybroker.unforeseen import where
from keybroker.web.problems import Reply, reply_for, unexpected
from keybroker.web.turnstile import Turnstile
from keybroker.wire.askingboot import HEADER
from keybroker.wire.problems import KeybrokerError, Problem

CERTIFICATE: Final = "keybroker.certificate"
"""In the WSGI environment: the client's certificate in DER as the TLS connection has it, or None."""

BOOT: Final = "keybroker.boot"
"""In the WSGI environment: the header field ``Keybroker-Boot``, unread; None where there is none."""

IDENTITY: Final = "keybroker.identity"
"""In the WSGI environment: set by the app, for the log, once it knows who asks."""

_DRAIN: Final = 64 << 20
"""A refused body is read and thrown away up to this size, so that its sender gets to read the refusal."""

_SMALL: Final = 64 << 10
_HELD: Final = 256 << 20
"""Of bodies that are not small, so many bytes in memory at once: whoever sends them is known only later."""

_METHODS: Final = frozenset({"DELETE", "GET", "POST", "PUT"})

_log = logging.getLogger("keybroker.access")

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Gate(HTTPServerConnectionDelegate):
    """Admission to one app: a bounded queue before a thread pool that all gates share.

    Args:
        app: answers requests, in a thread.
        pool: the threads.
        limits: of threads and queue, and of a client's time.
        largest: the most bytes a body may have, by method and path.
        name: of the listener, for the log.
        methods: what a path takes, for the reply to a method that it does not take.
        answered: told of each reply: listener, method, path, status, seconds.

    Attributes:
        expecting: connections of which no, or not all, header fields of the next request have arrived.
    """

    def __init__(
        self,
        app: WsgiApp,
        pool: ThreadPoolExecutor,
        limits: Limits,
        largest: Callable[[str, str], int],
        name: str,
        methods: Callable[[str], Iterable[str]] = lambda _path: sorted(_METHODS),
        answered: Callable[[str, str, str, int, float], None] = lambda *_said: None,
    ) -> None:
        self.app = app
        self.methods = methods
        self.sealed: Callable[[], KeybrokerError | None] = lambda: None
        self.answered = answered
        self.priority: Callable[[bytes | None], Priority] = lambda _certificate: "normal"
        self.sent_away: Callable[[Priority], None] = lambda _priority: None
        self.turned_away: Callable[[str, Mistrust], None] = lambda *_said: None
        self.pool = pool
        self.limits = limits
        self.largest = largest
        self.name = name
        self.stopping = False
        self.exchanges: set[Exchange] = set()
        self.expecting: set[object] = set()
        self.held: dict[Exchange, int] = {}
        self.turnstile = Turnstile(limits.threads, limits.queue)
        self.askers: Counter[bytes | None] = Counter()
        self.idle = asyncio.Event()
        self.idle.set()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Return the receiver of one request (tornado.httputil.HTTPServerConnectionDelegate)."""
        self.expecting.add(server_conn)
        return Exchange(self, cast(HTTP1Connection, request_conn), server_conn)

    def enter(self, exchange: Exchange) -> None:
        """Count a request as in flight: its header fields have arrived."""
        self.expecting.discard(exchange.server_conn)
        self.exchanges.add(exchange)
        self.idle.clear()

    def leave(self, exchange: Exchange) -> None:
        """Count a request as done: its reply was taken, or its client is gone."""
        self.exchanges.discard(exchange)
        self.held.pop(exchange, None)
        if not self.exchanges:
            self.idle.set()

    def hold(self, exchange: Exchange, size: int) -> bool:
        """Say whether there is room for a body of so many bytes, and set it aside."""
        if size > _SMALL:
            if sum(self.held.values()) + size > _HELD:
                return False
            self.held[exchange] = size
        return True

    async def answer(self, exchange: Exchange, environ: dict[str, Any]) -> Reply:
        """Have a thread answer, or say at once that none will be free soon, or that keys are sealed."""
        sealed = self.sealed()
        if sealed is not None:
            return reply_for(sealed)
        # Half of the queue at most for one certificate, so that one VM gone wrong is not everybody's 503.
        asker = environ[CERTIFICATE]
        if asker is not None and self.askers[asker] >= max(1, (self.limits.threads + self.limits.queue) // 2):
            return reply_for(KeybrokerError(Problem.BUSY, "client: too many of its requests are waiting"))
        self.askers[asker] += 1
        try:
            priority = self.priority(asker)
            if not await self.turnstile.enter(priority):
                self.sent_away(priority)
                after = self.turnstile.again_after(priority)
                detail = "broker: too many requests are waiting"
                return reply_for(KeybrokerError(Problem.UNAVAILABLE, detail, retry_after=after))
            try:
                return await asyncio.get_running_loop().run_in_executor(
                    self.pool, self._call, exchange, environ
                )
            except RuntimeError:
                return reply_for(KeybrokerError(Problem.UNAVAILABLE, "broker: is stopping"))
            finally:
                self.turnstile.leave()
        finally:
            self.askers[asker] -= 1
            if not self.askers[asker]:
                del self.askers[asker]

    def _call(self, exchange: Exchange, environ: dict[str, Any]) -> Reply:
        """Run the app once, in a worker thread."""
        if exchange.gone:
            return Reply(int(HTTPStatus.SERVICE_UNAVAILABLE), (), b"")
        started: list[tuple[int, tuple[tuple[str, str], ...]]] = []

        def start_response(status: str, fields: list[tuple[str, str]], _exc_info: object = None) -> object:
            started[:] = [(int(status[:3]), tuple(fields))]
            return None

        body = b"".join(self.app(environ, start_response))
        return Reply(started[0][0], started[0][1], body)


class Exchange(HTTPMessageDelegate):
    """One request and its reply."""

    def __init__(self, gate: Gate, connection: HTTP1Connection, server_conn: object = None) -> None:
        self.server_conn = server_conn
        self._gate = gate
        self._connection = connection
        self._body = bytearray()
        self._refused: Reply | None = None
        self._began = 0.0
        self._method = self._path = self._query = self._type = ""
        self._boot: str | None = None
        self._environ: dict[str, Any] = {}
        self.gone = False

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        """Take the header fields; a request that cannot be served is known here, before its body."""
        request = cast(RequestStartLine, start_line)
        self._began = time.monotonic()
        self._method = request.method
        self._path, _, self._query = request.path.partition("?")
        self._type = headers.get("Content-Type", "")
        self._boot = headers.get(HEADER)
        self._gate.enter(self)
        refusal = self._refusal(headers)
        if refusal is not None:
            self._refused = reply_for(refusal)
            if refusal.problem is Problem.METHOD:  # RFC 9110 section 15.5.6
                allow = ("Allow", ", ".join(self._gate.methods(self._path)))
                self._refused = replace(self._refused, headers=(*self._refused.headers, allow))
            self._connection.set_max_body_size(_DRAIN)

    def _refusal(self, headers: HTTPHeaders) -> KeybrokerError | None:
        if "Transfer-Encoding" in headers:
            # One way to say how long a body is, so that nobody in between can read it another way.
            return KeybrokerError(
                Problem.MALFORMED, "request: Transfer-Encoding is not taken, Content-Length is"
            )
        if self._method not in _METHODS:
            return KeybrokerError(Problem.METHOD, "request: only DELETE, GET, POST and PUT are taken")
        if not (self._path.isascii() and self._query.isascii()):
            # RFC 3986 section 2; Werkzeug fails to decode such a query.
            return KeybrokerError(Problem.MALFORMED, "request: its target is not ASCII")
        if not self._path.startswith("/") or "//" in self._path:
            # Werkzeug would read //v1 as /v1; a path has one spelling here.
            return KeybrokerError(Problem.UNKNOWN, "request: there is nothing at this path")
        largest = self._gate.largest(self._method, self._path)
        length = headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > 18:  # int() raises beyond 4300 digits
            raise HTTPInputError("the body's length is not one number, or far too large")
        if int(length) > largest:
            if int(length) > _DRAIN:
                raise HTTPInputError("body far too large")
            return KeybrokerError(Problem.TOO_LARGE, f"request: a body here has at most {largest} bytes")
        if not self._gate.hold(self, int(length)):
            return KeybrokerError(Problem.BUSY, "broker: too many large requests are being sent to it")
        self._connection.set_max_body_size(largest)
        return None

    def data_received(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        if self._refused is None:
            self._body += chunk

    def finish(self) -> None:
        """Take the end of the request."""
        self._connection.set_close_callback(self._lost)
        if self._refused is not None:
            self._send(self._refused)
            return
        if self._connection.stream.closed():  # since its last byte, and nobody has told us yet
            self._lost()
            return
        self._environ = self._environment()
        task = asyncio.ensure_future(self._gate.answer(self, self._environ))
        task.add_done_callback(self._answered)

    def on_connection_close(self) -> None:
        """Take note that the client went away in the middle of its request."""
        self._lost()

    def _lost(self) -> None:
        self.gone = True
        self._gate.leave(self)

    def _environment(self) -> dict[str, Any]:
        """Return the WSGI environment (PEP 3333) of a request, without its header fields."""
        stream = self._connection.stream
        certificate = stream.socket.getpeercert(binary_form=True) if isinstance(stream, SSLIOStream) else None
        context: Any = self._connection.context
        return {
            "REQUEST_METHOD": self._method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(self._path).decode("latin-1"),
            "QUERY_STRING": self._query,
            "CONTENT_TYPE": self._type,
            "CONTENT_LENGTH": str(len(self._body)),
            "REMOTE_ADDR": context.remote_ip,
            "SERVER_NAME": "keybroker",
            "SERVER_PORT": "443",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https",
            "wsgi.input": io.BytesIO(self._body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            CERTIFICATE: certificate,
            BOOT: self._boot,
        }

    def _answered(self, task: asyncio.Future[Reply]) -> None:
        error = task.exception()
        if error is None:
            self._send(task.result())
            return
        _log.error("%s %s: %s", self._method, self._shown_path(), where(error))
        self._send(reply_for(unexpected()))

    def _send(self, reply: Reply) -> None:
        """Write the reply, and drop a client that does not take it in time."""
        self._record(reply)
        if self.gone:
            return
        fields = HTTPHeaders()
        for name, value in reply.headers:
            fields.add(name, value)
        fields["Content-Length"] = str(len(reply.body))
        closing = self._refused is not None or self._gate.stopping
        if closing:
            fields["Connection"] = "close"
        connection = self._connection
        start = ResponseStartLine("HTTP/1.1", reply.status, HTTPStatus(reply.status).phrase)
        # The reply to HEAD ends with its header fields (RFC 9110 section 9.3.2), and Tornado insists.
        sent = connection.write_headers(start, fields, b"" if self._method == "HEAD" else reply.body)

        def cut_off() -> None:
            connection.close()
            self._lost()  # Tornado forgets the future of a write that it gives up

        deadline = asyncio.get_running_loop().call_later(self._gate.limits.reply_seconds, cut_off)

        def taken(_sent: object) -> None:
            deadline.cancel()
            self._gate.leave(self)
            if closing:
                connection.close()

        sent.add_done_callback(taken)
        connection.finish()

    def _record(self, reply: Reply) -> None:
        """Log one line a request; neither bodies nor header fields nor queries are ever in it."""
        context: Any = self._connection.context
        seconds = time.monotonic() - self._began
        self._gate.answered(self._gate.name, self._method, self._path, reply.status, seconds)
        _log.info(
            "%s: %s %s %d %.1f ms %s %s",
            self._gate.name,
            self._method,
            self._shown_path(),
            reply.status,
            seconds * 1000,
            context.remote_ip,
            self._environ.get(IDENTITY, "-"),
        )

    def _shown_path(self) -> str:
        return self._path[:200].encode("ascii", "backslashreplace").decode()
