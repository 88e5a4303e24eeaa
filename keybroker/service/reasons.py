"""Why somebody wants something that is asked for with a reason: it stays in the audit trail."""

from __future__ import annotations

from typing import Final

from keybroker.wire.problems import KeybrokerError, Problem

_MOST: Final = 500


def check_reason(reason: str) -> None:
    """Refuse a reason that people could not read in the trail.

    Raises:
        KeybrokerError: MALFORMED.
    """
    if not 1 <= len(reason) <= _MOST or not reason.isprintable():
        raise KeybrokerError(Problem.MALFORMED, f"reason: must be 1 to {_MOST} printable characters")
