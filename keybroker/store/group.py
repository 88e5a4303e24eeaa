"""Group commit: one thread writes, and whatever is queued while the disk is busy shares its next fsync.

    BEGIN IMMEDIATE   SAVEPOINT, work 1, RELEASE   SAVEPOINT, work 2, ROLLBACK TO   …   COMMIT   answers

A work that raises is rolled back to its savepoint and gets its error; the others go on. Nobody is answered
before the commit returned, not even with an error: an error, too, was decided by what is only then durable.
Where the commit fails, all of its batch failed, whatever they did.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from keybroker.audit import Writer
from keybroker.store.failures import translated
from keybroker.store.writing import SqlWriting
from keybroker.wire.problems import KeybrokerError, Problem

T = TypeVar("T")

LARGEST_BATCH: Final = 128
"""Works in one transaction; more would only make the first ones wait."""


@dataclass(frozen=True, slots=True)
class _Queued:
    work: Callable[[SqlWriting], Any]
    answer: Future[Any]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a work came to, held back until the commit."""

    answer: Future[Any]
    result: Any
    error: BaseException | None

    def tell(self) -> None:
        if self.error is None:
            self.answer.set_result(self.result)
        else:
            self.answer.set_exception(self.error)


class GroupCommit:
    """The one writer of a database.

    Args:
        connect: makes the writer's connection, in the writer's thread; it must leave transactions to us.
        writer: whose chain of the audit trail is appended to.
    """

    def __init__(self, connect: Callable[[], Connection], writer: Writer) -> None:
        self._connect = connect
        self._writer = writer
        self._queue: SimpleQueue[_Queued | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="keybroker-writer", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Say whether writes are still answered."""
        return self._thread.is_alive() and not self._closed

    def submit(self, work: Callable[[SqlWriting], T]) -> Future[T]:
        """Queue ``work``; the future is done once it is durable, or is known not to be.

        Raises:
            KeybrokerError: UNAVAILABLE after ``close``.
        """
        answer: Future[T] = Future()
        with self._closing:
            if self._closed:
                raise _stopped("is closed")
            self._queue.put(_Queued(work, answer))
        return answer

    def close(self) -> None:
        """Write what is queued, then stop."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        why = "is closed"
        try:
            with self._connect() as connection:
                self._serve(connection)
        except (DBAPIError, KeybrokerError) as error:
            why = f"its writer cannot start: {error}"
        finally:
            # Whatever ended the thread: nobody waits for an answer that cannot come.
            self._turn_away(why)

    def _serve(self, connection: Connection) -> None:
        closing = False
        while not closing:
            batch, closing = self._next_batch()
            outcomes = [_Outcome(queued.answer, None, _stopped("has stopped")) for queued in batch]
            try:
                if batch:
                    outcomes = _write(connection, self._writer, batch)
            finally:
                for outcome in outcomes:
                    outcome.tell()

    def _turn_away(self, why: str) -> None:
        with self._closing:
            self._closed = True
        while True:
            try:
                queued = self._queue.get_nowait()
            except Empty:
                return
            if queued is not None:
                queued.answer.set_exception(_stopped(why))

    def _next_batch(self) -> tuple[list[_Queued], bool]:
        """Wait for one work, then take what else is there; and say whether that was the last."""
        first = self._queue.get()
        if first is None:
            return [], True
        batch = [first]
        while len(batch) < LARGEST_BATCH:
            try:
                queued = self._queue.get_nowait()
            except Empty:
                break
            if queued is None:
                return batch, True
            batch.append(queued)
        return batch, False


def _stopped(why: str) -> KeybrokerError:
    return KeybrokerError(Problem.UNAVAILABLE, f"database: {why}")


def _write(connection: Connection, writer: Writer, batch: list[_Queued]) -> list[_Outcome]:
    """Run a batch in one transaction."""
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        writing = SqlWriting(connection, writer)
        outcomes = [_perform(connection, writing, queued) for queued in batch]
        connection.exec_driver_sql("COMMIT")
        return outcomes
    except DBAPIError as error:
        _roll_back(connection)
        # one error object for each: it is raised in several threads
        return [_Outcome(queued.answer, None, translated(error)) for queued in batch]


def _perform(connection: Connection, writing: SqlWriting, queued: _Queued) -> _Outcome:
    """Run one work in its savepoint.

    Raises:
        DBAPIError: the transaction itself is gone, and everything that was done in it: SQLite ends it by
            itself on a full disk or an I/O error (https://sqlite.org/lang_transaction.html, section 2.3).
    """
    head = writing.head
    connection.exec_driver_sql("SAVEPOINT work")
    try:
        result = queued.work(writing)
    except Exception as error:
        # Were the transaction gone, these two would raise. Nothing may run after that: each statement would
        # commit by itself.
        connection.exec_driver_sql("ROLLBACK TO work")
        connection.exec_driver_sql("RELEASE work")
        writing.head = head
        return _Outcome(queued.answer, None, translated(error) if isinstance(error, DBAPIError) else error)
    connection.exec_driver_sql("RELEASE work")
    return _Outcome(queued.answer, result, None)


def _roll_back(connection: Connection) -> None:
    try:
        connection.exec_driver_sql("ROLLBACK")
    except DBAPIError:
        # there was none left to roll back: SQLite had done it
        return
