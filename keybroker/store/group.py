"""Group commit: one thread writes, and whatever is queued while the disk is busy shares its next fsync.

    BEGIN IMMEDIATE   SAVEPOINT, work 1, RELEASE   SAVEPOINT, work 2, ROLLBACK TO   …   COMMIT   answers

A work that raises is rolled back to its savepoint and gets its error; the others go on. Nobody is answered
before the commit returned, not even with an error: an error, too, was decided by what is only then durable.
Where the commit fails, all of its batch failed, whatever they did.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
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
class Queued:
    """A work that waits for its turn."""

    work: Callable[[SqlWriting], Any]
    answer: Future[Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a work came to, held back until the commit."""

    answer: Future[Any]
    result: Any
    error: BaseException | None

    def tell(self) -> None:
        if self.error is None:
            self.answer.set_result(self.result)
        else:
            self.answer.set_exception(self.error)


WriteBatch = Callable[[list[Queued]], list[Outcome]]
"""Writes a batch in one transaction, and returns what each work came to once that is durable."""


class GroupCommit:
    """The one writer of a database in this process.

    Args:
        opened: gives what writes a batch, for the writer's thread and until that ends.
        largest: works in one transaction.
    """

    def __init__(
        self, opened: Callable[[], AbstractContextManager[WriteBatch]], largest: int = LARGEST_BATCH
    ) -> None:
        self._opened = opened
        self._largest = largest
        self._queue: SimpleQueue[Queued | None] = SimpleQueue()
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
            self._queue.put(Queued(work, answer))
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
            with self._opened() as write:
                self._serve(write)
        except (DBAPIError, KeybrokerError) as error:
            why = f"its writer cannot start: {error}"
        finally:
            # Whatever ended the thread: nobody waits for an answer that cannot come.
            self._turn_away(why)

    def _serve(self, write: WriteBatch) -> None:
        closing = False
        while not closing:
            batch, closing = self._next_batch()
            outcomes = [Outcome(queued.answer, None, _stopped("has stopped")) for queued in batch]
            try:
                if batch:
                    outcomes = write(batch)
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

    def _next_batch(self) -> tuple[list[Queued], bool]:
        """Wait for one work, then take what else is there; and say whether that was the last."""
        first = self._queue.get()
        if first is None:
            return [], True
        batch = [first]
        while len(batch) < self._largest:
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


@contextmanager
def on_one_connection(connect: Callable[[], Connection], writer: Writer) -> Iterator[WriteBatch]:
    """Give what writes batches on a connection that stays; it must leave transactions to us."""
    with connect() as connection:
        yield partial(_write, connection, writer)


def _write(connection: Connection, writer: Writer, batch: list[Queued]) -> list[Outcome]:
    """Run a batch in one transaction."""
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        writing = SqlWriting(connection, writer)
        outcomes = [perform(connection, writing, queued) for queued in batch]
        connection.exec_driver_sql("COMMIT")
        return outcomes
    except DBAPIError as error:
        _roll_back(connection)
        # one error object for each: it is raised in several threads
        return [Outcome(queued.answer, None, translated(error)) for queued in batch]


def perform(
    connection: Connection,
    writing: SqlWriting,
    queued: Queued,
    is_passing: Callable[[DBAPIError], bool] = lambda _error: False,
) -> Outcome:
    """Run one work in its savepoint.

    Args:
        is_passing: says whether an error is of the whole transaction, which is worth another try.

    Raises:
        DBAPIError: the transaction itself is gone, and everything that was done in it: SQLite ends it by
            itself on a full disk or an I/O error (https://sqlite.org/lang_transaction.html, section 2.3).
    """
    head = writing.head
    connection.exec_driver_sql("SAVEPOINT work")
    try:
        result = queued.work(writing)
    except Exception as error:
        if isinstance(error, DBAPIError) and is_passing(error):
            raise
        # Were the transaction gone, these two would raise. Nothing may run after that: each statement would
        # commit by itself.
        connection.exec_driver_sql("ROLLBACK TO work")
        connection.exec_driver_sql("RELEASE work")
        writing.head = head
        return Outcome(queued.answer, None, translated(error) if isinstance(error, DBAPIError) else error)
    connection.exec_driver_sql("RELEASE work")
    return Outcome(queued.answer, result, None)


def _roll_back(connection: Connection) -> None:
    try:
        connection.exec_driver_sql("ROLLBACK")
    except DBAPIError:
        # there was none left to roll back: SQLite had done it
        return
