"""A listener that does as it is told: real TLS 1.3, real certificates, and a reply of the test's choice.

Its certificates come from ``keybroker.ca``, so that what the agent is tried with is what the broker issues.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from keybroker import ca
from keybroker.wire.names import Identity
from keybroker.wire.problems import Problem
from keybroker.wire.secret import Secret

HOST = "kbh-q3m5x7abcdef"


def authority(name: str = "test CA") -> ca.Authority:
    return ca.Authority.create(
        name, datetime.now(UTC) - timedelta(days=800), ca.serial_number(os.urandom(16))
    )


def token_for(pem: str, secret: bytes = b"") -> Secret:
    """Return an enrolment token that names this CA."""
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest()
    parts = [
        base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (secret or os.urandom(24), digest)
    ]
    return Secret(f"kbe1.{parts[0]}.{parts[1]}".encode())


@dataclass(frozen=True)
class Papers:
    """A certificate and its key, in files."""

    certificate: Path
    key: Path
    pem: str
    not_before: float
    not_after: float


def server_papers(
    directory: Path, signer: ca.Authority, *, names: tuple[str, ...] = ("localhost",),
    addresses: tuple[str, ...] = ("127.0.0.1",), begins: timedelta = -timedelta(days=1),
    lasts: timedelta = timedelta(days=30),
) -> Papers:  # fmt: skip
    key = ca.new_key()
    start = datetime.now(UTC) + begins
    number = ca.serial_number(os.urandom(16))
    leaf = signer.certify_server(key.public_key(), names, addresses, start, number, lasts)
    return _papers(directory, leaf, ca.key_pem(key))


def host_papers(
    directory: Path, signer: ca.Authority, *, begins: timedelta = -timedelta(days=1),
    lasts: timedelta = timedelta(days=30), name: str = HOST,
) -> Papers:  # fmt: skip
    key = ca.new_key()
    start = datetime.now(UTC) + begins
    who = Identity("test", "host", name)
    leaf = signer.certify_client(key.public_key(), who, start, ca.serial_number(os.urandom(16)), lasts)
    return _papers(directory, leaf, ca.key_pem(key))


def _papers(directory: Path, leaf: ca.Leaf, key: Secret) -> Papers:
    certificate, private = directory / f"{leaf.serial}.crt", directory / f"{leaf.serial}.key"
    certificate.write_text(leaf.pem)
    private.write_bytes(key.reveal())
    return Papers(certificate, private, leaf.pem, leaf.not_before.timestamp(), leaf.not_after.timestamp())


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    peer: str | None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[[Asked], bytes]


def reply(value: Any, status: int = 200, **headers: str) -> bytes:
    """Return an HTTP reply that holds JSON."""
    return raw(json.dumps(value).encode(), status, content_type="application/json", **headers)


def refusal(problem: Problem, detail: str = "because", **headers: str) -> bytes:
    """Return a problem document (RFC 9457)."""
    status = int(problem.http_status)
    body = {"type": problem.slug, "title": problem.title, "status": status, "detail": detail}
    return raw(json.dumps(body).encode(), status, content_type="application/problem+json", **headers)


def raw(body: bytes, status: int = 200, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Listener:
    """What runs, and what it saw.

    Attributes:
        received: every byte that came, after TLS.
        pause: seconds between the bytes of a reply, to be slow.
    """

    port: int
    answer: Answer
    connections: int = 0
    asked: list[Asked] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    pause: float = 0.0
    keep: bool = True

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@contextmanager
def listening(
    answer: Answer, papers: Papers | None, client_ca: str | None, *, port: int = 0, pause: float = 0.0,
    keep: bool = True,
) -> Iterator[Listener]:  # fmt: skip
    """Serve on loopback until the block ends.

    Args:
        papers: of the server; None to speak no TLS at all.
        client_ca: PEM; who must have signed a client's certificate, None to ask for none.
        keep: whether to keep a connection after a reply.
    """
    context = _context(papers, client_ca) if papers else None
    server = socket.create_server(("127.0.0.1", port))
    server.settimeout(0.05)
    listener = Listener(server.getsockname()[1], answer, pause=pause, keep=keep)
    over = threading.Event()
    threads: list[threading.Thread] = []

    def accept() -> None:
        while not over.is_set():
            try:
                client, _ = server.accept()
            except TimeoutError:
                continue
            listener.connections += 1
            thread = threading.Thread(target=_serve, args=(listener, client, context, over), daemon=True)
            thread.start()
            threads.append(thread)

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener
    finally:
        over.set()
        acceptor.join(5)
        server.close()
        for thread in threads:
            thread.join(5)


def _context(papers: Papers, client_ca: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(papers.certificate, papers.key)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_ca)
    return context


def _serve(
    listener: Listener, client: socket.socket, context: ssl.SSLContext | None, over: threading.Event
) -> None:
    client.settimeout(10)
    with client:
        try:
            with context.wrap_socket(client, server_side=True) if context else client as connection:
                while not over.is_set() and (asked := _request(listener, connection, over)):
                    listener.asked.append(asked)
                    _send(listener, connection, listener.answer(asked), over)
                    if not listener.keep:
                        return
        except OSError:
            return  # the client hung up, which some tests are about


def _send(listener: Listener, connection: socket.socket, text: bytes, over: threading.Event) -> None:
    if not listener.pause:
        connection.sendall(text)
        return
    for byte in text:
        if over.is_set():
            return
        connection.sendall(bytes([byte]))
        time.sleep(listener.pause)


def _request(listener: Listener, connection: socket.socket, over: threading.Event) -> Asked | None:
    text = bytearray()

    def more() -> bool:
        connection.settimeout(0.1)
        while not over.is_set():
            try:
                piece = connection.recv(65536)
            except TimeoutError:
                continue
            text.extend(piece)
            listener.received.extend(piece)
            return bool(piece)
        return False

    while b"\r\n\r\n" not in text:
        if not more():
            return None
    head, _, body = bytes(text).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        if not more():
            return None
        body = bytes(text).partition(b"\r\n\r\n")[2]
    method, path, _ = first.split(" ")
    connection.settimeout(10)
    return Asked(method, path, headers, body, _peer(connection))


def _peer(connection: socket.socket) -> str | None:
    certificate = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
    names: Any = (certificate or {}).get("subjectAltName", ())
    return next((value for kind, value in names if kind == "URI"), None)
