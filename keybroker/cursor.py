"""A place in the audit trail: how far somebody has read each writer's chain.

    1200             the chain of ``main`` up to record 1200, and nothing of any other
    b2/33,1200       that, and the chain of ``b2`` up to record 33

No single number would do. Brokers that write to one database at the same time commit in no order, so that a
number over all records could be seen before a lower one is; in one chain none is ever seen before the one
that it follows. A writer that is not named was not read yet: whoever goes on from here misses nobody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import MAIN, WRITER, name_of

_NAME: Final = re.compile(rf"(?:(?P<writer>{WRITER.pattern})/)?(?P<sequence>[0-9]{{1,18}})")
_MOST: Final = 64
"""Writers in one cursor."""


def parse(text: str, what: str = "after") -> dict[str, int]:
    """Read a place: sequence numbers by writer.

    Args:
        what: it is, for the message.

    Raises:
        KeybrokerError: MALFORMED.
    """
    found: dict[str, int] = {}
    for part in text.split(",", _MOST):
        writer, sequence = name(part, what)
        if found.setdefault(writer, sequence) != sequence:
            raise KeybrokerError(Problem.MALFORMED, f"{what}: names the writer {writer} twice")
    return found


def name(text: str, what: str) -> tuple[str, int]:
    """Read what a record is called; return its writer and sequence number (MALFORMED otherwise)."""
    match = _NAME.fullmatch(text)
    if match is None:
        raise KeybrokerError(
            Problem.MALFORMED, f"{what}: must be numbers of records, like 1200 or b2/33,1200"
        )
    return match["writer"] or MAIN, int(match["sequence"])


def text_of(place: Mapping[str, int]) -> str:
    """Return what ``parse`` reads; ``0`` for the very beginning."""
    return ",".join(name_of(writer, place[writer]) for writer in sorted(place) if place[writer]) or "0"
