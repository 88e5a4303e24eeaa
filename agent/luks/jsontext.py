"""The text of a JSON area, decoded strictly and within bounds.

json-c, which reads it for cryptsetup, is lenient: it takes the last of two equal keys, comments, single
quotes, and cuts a string at a NUL. Whatever two readers could take differently is refused here, as is what
no field of cryptsetup's ever has: a fraction, depth, a long string, and null (which tokens of others have).

Source: LUKS2 On-Disk Format Specification 1.1.4, section 2.2; RFC 8259.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from keybroker.wire.problems import KeybrokerError, Problem

LARGEST_JSON: Final = 256 << 10
"""In bytes. 32 keyslots and 32 tokens of clevis or systemd make about 60 KiB; cryptsetup reads 4 MiB."""

DEEPEST: Final = 8
"""A clevis token is four deep."""

LONGEST_STRING: Final = 8192

_KEY: Final = re.compile(r"[!-~]{1,64}")
_TOKEN_FIELD: Final = re.compile(r"tokens\.[0-9]{1,2}\.[!-~]+")
"""Azure Disk Encryption writes ``"AttestationURL": null``; nobody but its own tool reads that."""
_NOT_TEXT: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def refused(path: str, what: str) -> KeybrokerError:
    """Return, to be raised, that a header is refused for the field at ``path``."""
    return KeybrokerError(Problem.HEADER_REFUSED, f"{path}: {what}")


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text[:20]} is not a whole number")


def decode(text: bytes) -> object:
    """Read the text of a JSON area.

    Args:
        text: the JSON area up to its first NUL.

    Raises:
        KeybrokerError: HEADER_REFUSED, it is not one object as cryptsetup writes it, or beyond a bound.
    """
    value = _decoded(text)
    _bounded(value)
    return value


def _decoded(text: bytes) -> object:
    # cryptsetup wants the brace first too; json.loads would skip white space
    if not text.startswith(b"{"):
        raise refused("text", "does not begin with a brace")
    if len(text) > LARGEST_JSON:
        raise refused("text", f"has {len(text)} bytes, at most {LARGEST_JSON} are read")
    try:
        # str, not bytes: for bytes json.loads would guess UTF-16 and UTF-32 too
        return json.loads(
            text.decode(),
            object_pairs_hook=_no_twice,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError) as error:
        raise refused("text", f"is not JSON as cryptsetup writes it: {str(error)[:120]!a}") from None


def _bounded(value: object, path: str = "", depth: int = 1) -> None:
    """Refuse what no field has: depth, long strings, control characters in them, null (save in a token)."""
    if depth > DEEPEST:
        raise refused(path, f"is nested deeper than {DEEPEST}")
    if value is None and not (depth == 4 and _TOKEN_FIELD.fullmatch(path)):
        raise refused(path, "is null")
    if isinstance(value, str):
        # json-c hands out C strings: one with a NUL means less to cryptsetup than to us
        if len(value) > LONGEST_STRING or _NOT_TEXT.search(value):
            raise refused(path, "is too long or has characters that are not text")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if _KEY.fullmatch(key) is None:  # keys get into messages, and from there onto terminals
                raise refused(path, f"has a key that is too long or not a word: {key[:40]!a}")
            _bounded(inner, f"{path}.{key}" if path else key, depth + 1)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _bounded(inner, f"{path}[{i}]", depth + 1)
