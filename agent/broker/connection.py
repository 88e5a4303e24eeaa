"""One TLS 1.3 connection to one broker, and one try on it.

Every wait of a try (name service, connect, handshake, send, receive) counts against one moment, so that a
peer that sends a byte a second gains nothing.
"""

from __future__ import annotations

import errno
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from agent.broker import exchange
from agent.broker.replies import Reply
from keybroker.wire.messages import LARGEST_HEADER_COPY
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass

LARGEST_REPLY: Final = LARGEST_HEADER_COPY * 4 // 3 + (64 << 10)

NO_NETWORK: Final = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Errors of connect(2) that mean that no packet left this machine."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a connection trusts and shows.

    Attributes:
        ca: PEM; the only trust anchors.
        key, certificate: PEM files of this machine, None before it has any.
        not_before, not_after: of that certificate, in seconds since 1970.
    """

    ca: str
    key: Path | None = None
    certificate: Path | None = None
    not_before: float = 0.0
    not_after: float = float("inf")


def address(url: str) -> tuple[str, int]:
    """Return the host and port of a broker's base URL.

    Raises:
        KeybrokerError: CONFIGURATION, for anything but ``https://name[:port]``.
    """
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "https" and parts.path in ("", "/") and not (parts.query or parts.fragment)
        if plain and parts.hostname and parts.username is None and url.isascii() and url.isprintable():
            return parts.hostname, parts.port or 443
    except ValueError:
        pass
    raise KeybrokerError(
        Problem.CONFIGURATION,
        f"broker {url[:100]!r}: must be https://NAME or https://NAME:PORT",
    )


class ClockBehind(KeybrokerError):
    """The clock is before our own certificate's first day: it is wrong, and a time server may set it yet."""


def check_dates(credentials: Credentials, now: float) -> None:
    """Compare our certificate's dates with the clock, before anybody else does.

    Args:
        now: seconds since 1970.

    Raises:
        KeybrokerError: CERTIFICATE; as ``ClockBehind`` where waiting can help.
    """
    if now > credentials.not_after:
        raise KeybrokerError(
            Problem.CERTIFICATE,
            f"certificate: expired {_day(credentials.not_after)}, and the clock says {_day(now)}",
            hint="set the clock, or keybroker-agent renew; or enrol again: keybroker host enrol ADDON",
        )
    if now < credentials.not_before:
        raise ClockBehind(
            Problem.CERTIFICATE,
            f"certificate: begins {_day(credentials.not_before)}, but the clock is at {_day(now)[:10]}",
            hint="set the clock: timedatectl set-time, or a time server that this machine reaches",
        )


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


class Connection:
    """A connection that is open, and kept open for the next call; every wait of a call ends at one moment.

    Args:
        tls: whose handshake is done.
        monotonic: the clock that ``until`` is on.
    """

    def __init__(self, tls: ssl.SSLSocket, host: str, port: int, monotonic: Callable[[], float]) -> None:
        self._tls = tls
        name = f"[{host}]" if ":" in host else host
        self._host = name if port == 443 else f"{name}:{port}"
        self._monotonic = monotonic
        self._until = 0.0
        self.is_open = True

    def ask(
        self, method: str, path: str, body: Secret | None, until: float, boot: str | None = None
    ) -> Reply:
        """Send a request and read the whole reply.

        Raises:
            OSError: the connection failed, ssl.SSLError and TimeoutError included.
            NotHttp: the reply is not HTTP, too large or cut short.
        """
        self._until = until
        data = exchange.request(method, path, self._host, None if body is None else body.reveal(), boot)
        try:
            self._send(data)
        except OSError:
            self._hear_alert()
            raise
        reply, self.is_open = exchange.read_reply(self._receive, largest=LARGEST_REPLY)
        return reply

    def close(self) -> None:
        """End it."""
        self._tls.close()

    def _arm(self) -> None:
        left = self._until - self._monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._tls.settimeout(left)

    def _receive(self, most: int) -> bytes:
        self._arm()
        return self._tls.recv(most)

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._arm()
            view = view[self._tls.send(view[:16384]) :]

    def _hear_alert(self) -> None:
        """Raise what the peer said before it hung up: TLS 1.3 judges our certificate after our handshake."""
        self._arm()
        self._tls.recv(1)


def trust(credentials: Credentials) -> ssl.SSLContext:
    """Return what a connection demands of the other end: TLS 1.3, our CA, its own name.

    Raises:
        KeybrokerError: CERTIFICATE where ours cannot be loaded with its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.hostname_checks_common_name = False
    # The broker's CA and not its root, where it is not one itself: the root's other CAs are nobody here.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=credentials.ca)
    except (OSError, ValueError, TypeError) as error:  # nothing in it, no certificate in it, not even ASCII
        raise KeybrokerError(
            Problem.CERTIFICATE, f"CA certificate: cannot be read: {error}", hint="enrol this machine again"
        ) from error
    if credentials.certificate is not None:
        try:
            context.load_cert_chain(credentials.certificate, credentials.key)
        except OSError as error:  # ssl.SSLError is one
            raise KeybrokerError(
                Problem.CERTIFICATE,
                f"{credentials.certificate}: cannot be loaded with its key: {error.strerror or error}",
                hint="enrol this machine again: keybroker host enrol ADDON",
            ) from error
    return context


def trust_nobody() -> ssl.SSLContext:
    """Return a context that verifies nothing: good for reading a CA that is then compared, no more."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def dial(host: str, port: int, seconds: float) -> socket.socket:
    """Connect to the first address that answers, ``seconds`` for the name service and for each address."""
    error: OSError = TimeoutError("timed out")
    for family, kind, protocol, _, where in _resolve(host, port, seconds):
        tcp = socket.socket(family, kind, protocol)
        tcp.settimeout(max(0.001, seconds))
        try:
            tcp.connect(where)
        except OSError as failed:
            tcp.close()
            # of several addresses, the one that got out of this machine has more to say
            if failed.errno not in NO_NETWORK or isinstance(error, TimeoutError):
                error = failed
            continue
        return tcp
    raise error


def _resolve(host: str, port: int, seconds: float) -> list[Any]:
    """Ask the name service, which has no time limit of its own: resolv.conf(5) can make it 30 s and more."""
    found: list[list[Any] | OSError] = []

    def ask() -> None:
        try:
            # bytes, being ASCII (``address``): a str has the codec for international names imported
            found.append(socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(max(0.001, seconds))
    if not found:
        raise TimeoutError("the name service did not answer")
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]
