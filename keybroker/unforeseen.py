"""An error as the log has it, be it one that nobody foresaw."""

from __future__ import annotations

import traceback
from pathlib import Path

from keybroker.wire.problems import KeybrokerError


def where(error: BaseException) -> str:
    """Describe an unforeseen error for the log: its kind and where it came up, but not its message.

    A message may quote what it choked on (SQLAlchemy quotes the row), and that may be anything.
    """
    frames = traceback.extract_tb(error.__traceback__)
    path = " < ".join(
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[::-1][:8]
    )
    return f"unexpected {type(error).__name__} at {path}"


def said(error: Exception, what: str) -> list[str]:
    """Return the lines of log for what failed beside the requests.

    Args:
        what: it is that failed.
    """
    return error.lines(what) if isinstance(error, KeybrokerError) else [f"{what}: {where(error)}"]
