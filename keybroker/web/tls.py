"""TLS contexts of the broker: 1.3 only, no session tickets, and client certificates wherever a key can leave.

A context is proven before it is used: one handshake in memory shows that its own certificate is good under
the CA, and, for the main listener, that a client without one is refused. A context that fails is never
handed to a listener, so a broken file can neither open the door nor stop a running broker.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from keybroker.service.installation import Installation
from keybroker.wire.problems import KeybrokerError, Problem

_NOT_YET_VALID: Final = 9
"""X509_V_ERR_CERT_NOT_YET_VALID (openssl-verification-options(1))."""


def main_context(files: Installation) -> ssl.SSLContext:
    """Return the proven context of the main listener, which asks for a client certificate and insists.

    Raises:
        KeybrokerError: CONFIGURATION, when a file cannot be used or the proof fails.
    """
    context = _context(files)
    # CERT_REQUIRED and never True: ``verify_mode = True`` becomes CERT_OPTIONAL without a word.
    context.verify_mode = ssl.CERT_REQUIRED
    _load_ca(context, files.ca_certificate)
    if context.verify_mode is not ssl.CERT_REQUIRED:
        raise _wrong(files.server_certificate, "this Python does not keep CERT_REQUIRED")
    _prove_own_certificate(context, files)
    if _handshake(context, _stranger(files)) is None:
        raise _wrong(
            files.server_certificate, "the main listener's context lets a client in without a certificate"
        )
    return context


def enrolment_context(files: Installation) -> ssl.SSLContext:
    """Return the proven context of the enrolment listener, where clients prove a token instead.

    Raises:
        KeybrokerError: CONFIGURATION, when a file cannot be used or the proof fails.
    """
    context = _context(files)
    _prove_own_certificate(context, files)
    return context


def refuses_strangers(address: tuple[str, int], files: Installation, *, timeout_seconds: float) -> bool:
    """Say whether the listener at ``address`` refuses a connection without a client certificate.

    A TLS 1.3 client's handshake ends before the server has looked for its certificate (RFC 8446 section 4.4),
    so the refusal is seen only when something is read: here, anything but an alert counts as being let in.

    Raises:
        KeybrokerError: UNAVAILABLE, when it does not answer in time.
    """
    with (
        _in_time(),
        socket.create_connection(address, timeout=timeout_seconds) as plain,
        _stranger(files).wrap_socket(plain) as stranger,
    ):
        try:
            stranger.sendall(b"GET /v1/volumes HTTP/1.1\r\nHost: self-test\r\n\r\n")
            stranger.recv(1)
        except ssl.SSLError as error:
            return "CERTIFICATE_REQUIRED" in (error.reason or "")
        except ConnectionError:
            return False
        return False


def ends(files: Installation) -> datetime:
    """Return when the server's certificate ends; it is one that a context was proven with just now.

    Raises:
        KeybrokerError: CONFIGURATION, when it cannot be read all the same.
    """
    try:
        return x509.load_pem_x509_certificate(files.server_certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise _wrong(files.server_certificate, _reason(error, "cannot be read")) from error


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise KeybrokerError(Problem.UNAVAILABLE, "self-test: the main listener does not answer") from error


def _context(files: Installation) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    # A resumed session is not verified again, so an expired certificate would live on in its ticket; and
    # tickets cost a quarter of the handshakes per second (reference/ecosystem.md, A2).
    context.num_tickets = 0
    try:
        # No pass phrase is asked for: OpenSSL would wait at the terminal that the broker was started from.
        context.load_cert_chain(files.server_certificate, files.server_key, password="")
    except (OSError, ssl.SSLError) as error:
        unsigned = files.outside_ca and not files.server_certificate.exists()
        raise _wrong(
            files.server_certificate,
            "the outside CA has not signed it" if unsigned else _reason(error, "cannot be used with its key"),
            hint="keybroker ca requests --help" if unsigned else None,
        ) from error
    return context


def _load_ca(context: ssl.SSLContext, path: Path) -> None:
    """Trust our CA and no other: neither the system's store nor one named in the environment."""
    # That CA and not its root, where it is not one itself: the root's other CAs are nobody here.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        raise _wrong(path, _reason(error, "cannot be used as a CA")) from error


def _stranger(files: Installation) -> ssl.SSLContext:
    """Return a client's context that trusts our CA and has no certificate of its own."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    client.check_hostname = False  # it connects to its own process, by whatever address that listens on
    _load_ca(client, files.ca_certificate)
    return client


def _prove_own_certificate(context: ssl.SSLContext, files: Installation) -> None:
    """Refuse a server certificate that no agent would accept: expired, of another CA, not for servers."""
    client_side, refused = _attempt(context, _stranger(files))
    if isinstance(refused, ssl.SSLCertVerificationError):
        if refused.verify_code == _NOT_YET_VALID:
            # Not the certificate is wrong but the clock, and a time server may set that yet.
            raise KeybrokerError(
                Problem.UNAVAILABLE,
                f"{files.server_certificate}: {refused.verify_message}: the clock is behind",
                hint="timedatectl",
            )
        raise _wrong(
            files.server_certificate,
            f"clients would refuse it: {refused.verify_message}",
            hint="keybroker check",
        )
    if client_side.version() != "TLSv1.3":
        raise _wrong(files.server_certificate, _reason(refused, "no handshake comes about"))


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLError | None:
    """Return why a whole handshake failed on either side, or None if it did not."""
    return _attempt(server, client)[1]


def _attempt(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLError | None]:
    """Let both sides talk in memory until neither wants more, or one refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = client.wrap_bio(to_client, to_server)
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client_side, server_side]
    for _ in range(16):  # a TLS 1.3 handshake, HelloRetryRequest included, is over in three rounds
        for side in tuple(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return client_side, error
        if not waiting:
            break
    return client_side, None


def _reason(error: Exception | None, otherwise: str) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{otherwise}: {(error.reason or 'not PEM').lower().replace('_', ' ')}"
    if isinstance(error, OSError) and error.strerror:
        return f"{otherwise}: {error.strerror}"
    return otherwise


def _wrong(path: Path, wrong: str, *, hint: str | None = None) -> KeybrokerError:
    return KeybrokerError(Problem.CONFIGURATION, f"{path}: {wrong}", hint=hint)
