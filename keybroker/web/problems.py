"""Errors as they look on the wire: ``application/problem+json`` (RFC 9457), made in this one place.

``type`` is the problem's slug, a reference that nobody follows; ``hint`` and ``identity`` are ours.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Final

from keybroker.wire.problems import KeybrokerError, Problem

PROBLEM_TYPE: Final = "application/problem+json"
JSON_TYPE: Final = "application/json"

RETRY_AFTER_SECONDS: Final = 2
"""What a client is told where the error itself does not know; agents add jitter of their own."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished reply, whoever made it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def headers(content_type: str) -> tuple[tuple[str, str], ...]:
    """Return the header fields that every reply has: what it is, and that nobody keeps it."""
    return (
        ("Content-Type", content_type),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Server", "keybroker"),
    )


def reply_for(error: KeybrokerError) -> Reply:
    """Return the problem document of one error; 423, 429 and 503 say when to come back (RFC 9110, 10.2.3)."""
    problem = error.problem
    document: dict[str, str | int] = {
        "type": problem.slug,
        "title": problem.title,
        "status": int(problem.http_status),
        "detail": error.detail,
    }
    if error.hint:
        document["hint"] = error.hint
    if error.identity:
        document["identity"] = error.identity
    fields = headers(PROBLEM_TYPE)
    if int(problem.http_status) in (423, 429, 503):
        seconds = RETRY_AFTER_SECONDS if error.retry_after is None else max(1, math.ceil(error.retry_after))
        fields = (*fields, ("Retry-After", str(seconds)))
    return Reply(int(problem.http_status), fields, json.dumps(document).encode())


def unexpected() -> KeybrokerError:
    """Return what a client is told of an error that nobody foresaw: nothing but where to look."""
    return KeybrokerError(
        Problem.INTERNAL, "broker: an unexpected error, described in its log", hint="journalctl -u keybroker"
    )
