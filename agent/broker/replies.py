"""What a broker's HTTP reply means: a message, or an error that says whether asking again can help.

Pure: status, headers and bytes in; a value or a ``KeybrokerError`` out. ``connection`` meets the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.values import dataclass

_T = TypeVar("_T")

_SECONDS: Final = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP reply.

    Attributes:
        headers: by name in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def read(reply: Reply, broker: str, form: Callable[[Fields], _T]) -> _T:
    """Return the message that a reply holds.

    Args:
        broker: its address, for the error's text.
        form: reads the message, such as ``UnlockReply.read``.

    Raises:
        KeybrokerError: the problem that the broker named (RFC 9457); UNAVAILABLE for a reply that makes
            no sense: a broker that is restarted under us, or the error page of a proxy, is a temporary
            thing; INTERNAL for a refusal without a reason.
    """
    if reply.status not in (200, 201):
        raise _problem(reply, broker)
    try:
        return form(Fields.parse(reply.body))
    except KeybrokerError as error:
        if error.problem is not Problem.MALFORMED:
            raise
        raise KeybrokerError(
            Problem.UNAVAILABLE, f"{broker}: the reply cannot be read: {error.detail}"
        ) from error


def _problem(reply: Reply, broker: str) -> KeybrokerError:
    wait = reply.headers.get("retry-after", "")
    retry_after = float(wait) if _SECONDS.fullmatch(wait) else None  # an HTTP date is as good as nothing
    slug, detail, hint, identity = _said(reply)
    problem = Problem.named(slug)
    if problem is Problem.INTERNAL:
        problem = _by_status(reply.status)
    return KeybrokerError(
        problem, f"{broker}: {detail}", hint=hint, retry_after=retry_after, identity=identity
    )


def _by_status(status: int) -> Problem:
    if status in (408, 429):
        return Problem.BUSY
    if status == 423:
        return Problem.PENDING
    # to us, a broker's own trouble is a broker that cannot answer now
    return Problem.INTERNAL if 400 <= status < 500 else Problem.UNAVAILABLE


def _said(reply: Reply) -> tuple[str, str, str | None, str | None]:
    """Return slug, detail, hint and identity of a problem document, or words about its absence."""
    silent = f"answered {reply.status} without a reason"
    if 300 <= reply.status < 400:
        return "", f"answered {reply.status}; redirects are not followed", None, None
    if not reply.headers.get("content-type", "").startswith("application/problem+json"):
        return "", silent, None, None
    try:
        fields = Fields.parse(reply.body)
        slug = fields.text("type")
        title = fields.optional("title", fields.text)
        detail = fields.optional("detail", lambda key: fields.text(key, most=2000))
        hint = fields.optional("hint", lambda key: fields.text(key, most=1000))
        identity = fields.optional("identity", lambda key: fields.text(key, most=300))
    except KeybrokerError:
        return "", silent, None, None
    return slug, _plain(detail or title or silent), hint and _plain(hint), identity


def _plain(text: str) -> str:
    """Return text fit for a terminal and one line of a journal."""
    return "".join(character if character.isprintable() else " " for character in text)
