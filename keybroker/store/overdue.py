"""Connections to a server that does not answer: each statement has its time, then its connection is cut.

A server that stands still (SIGSTOP, a machine that is paused) still has its packets acknowledged, so neither
keepalives nor TCP's own time limit notice, and a time limit of its own is what it cannot keep. A timer of
ours shuts the socket down: whoever waits on it gets an error at once.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

_KEY: Final = "keybroker.overdue"
_TICK_SECONDS: Final = 0.5
_UNLIMITED: Final = ("VACUUM", "CREATE INDEX", "COPY")
"""What takes as long as there are rows, and nobody waits for."""


@dataclass(slots=True)
class _Line:
    """One connection; ``due`` is when its statement is over time, None between statements."""

    socket: socket.socket
    due: float | None = None


class Overdue:
    """Watches all connections of an engine.

    Args:
        seconds: that a statement may take; of these are also what it waits for a lock, or for a standby.
    """

    def __init__(self, engine: Engine, seconds: float) -> None:
        self._seconds = seconds
        self._lines: set[int] = set()
        self._by_number: dict[int, _Line] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        event.listen(engine, "connect", self._connected)
        event.listen(engine, "close", self._gone)
        event.listen(engine, "before_cursor_execute", self._begins)
        event.listen(engine, "after_cursor_execute", self._ended)
        event.listen(engine, "handle_error", self._failed)
        threading.Thread(target=self._watch, name="keybroker-overdue", daemon=True).start()

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()

    def _connected(self, connection: Any, record: Any) -> None:
        # a descriptor of our own: that of libpq may be closed, and be somebody else's, before we use it
        line = _Line(socket.socket(fileno=os.dup(connection.pgconn.socket)))
        record.info[_KEY] = line
        with self._lock:
            self._by_number[id(line)] = line

    def _gone(self, _connection: Any, record: Any) -> None:
        line = record.info.pop(_KEY, None) if record is not None else None
        if line is not None:
            with self._lock:
                self._by_number.pop(id(line), None)
                line.socket.close()

    def _begins(self, connection: Any, _cursor: Any, statement: str, *_others: Any) -> None:
        line = connection.info.get(_KEY)
        if line is not None and not statement.startswith(_UNLIMITED):
            line.due = time.monotonic() + self._seconds

    def _ended(self, connection: Any, *_statement: Any) -> None:
        line = connection.info.get(_KEY)
        if line is not None:
            line.due = None

    def _failed(self, context: ExceptionContext) -> None:
        if context.connection is not None and not context.connection.invalidated:
            self._ended(context.connection)

    def _watch(self) -> None:
        while not self._closed.wait(_TICK_SECONDS):
            now = time.monotonic()
            with self._lock:
                for line in self._by_number.values():
                    if line.due is not None and line.due < now:
                        line.due = None
                        _shut(line.socket)


def _shut(line: socket.socket) -> None:
    try:
        line.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is gone already
