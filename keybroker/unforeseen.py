"""An error that nobody foresaw, as the log has it."""

from __future__ import annotations

import traceback
from pathlib import Path


def where(error: BaseException) -> str:
    """Describe an unforeseen error for the log: its kind and where it came up, but not its message.

    A message may quote what it choked on (SQLAlchemy quotes the row), and that may be anything.
    """
    frames = traceback.extract_tb(error.__traceback__)
    path = " < ".join(
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[::-1][:8]
    )
    return f"unexpected {type(error).__name__} at {path}"
