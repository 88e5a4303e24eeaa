"""One thing that ``keybroker check`` looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keybroker.wire.problems import KeybrokerError, Problem


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: ``good``, ``warning`` or ``wrong``.
        problem: None unless it is wrong.
    """

    check: str
    state: str
    detail: str
    hint: str | None = None
    problem: Problem | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints of it."""
        return {"check": self.check, "state": self.state, "detail": self.detail, "hint": self.hint}


def wrong(check: str, error: KeybrokerError) -> Finding:
    """Return what is found where something fails."""
    return Finding(check, "wrong", error.detail, error.hint, error.problem)
