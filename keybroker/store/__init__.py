"""What is durable at the broker: a Protocol, and SQLite behind it through SQLAlchemy Core."""

from __future__ import annotations

from typing import Protocol


class Store(Protocol):
    """Reading and writing in transactions."""

    def close(self) -> None:
        """Finish what is queued, then let go of the database."""
        ...
