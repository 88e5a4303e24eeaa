"""How much of the machine the listeners may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of the machine strangers and clients may use.

    Attributes:
        threads: worker threads, each of which answers one request at a time.
        queue: requests that may wait for a thread; one more is told 503 at once.
        connections: at most open at a time; beyond it the oldest without a finished handshake is dropped.
        idle_seconds: from the first byte of the handshake to the last one of a request's header fields.
        body_seconds: for the body of a request.
        reply_seconds: for a client to take its reply.
        stop_seconds: for requests in flight when the server is told to stop.
    """

    threads: int = 8
    queue: int = 256
    connections: int = 4096
    idle_seconds: int = 15
    body_seconds: int = 15
    reply_seconds: int = 30
    stop_seconds: int = 20
