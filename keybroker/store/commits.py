"""Writing to PostgreSQL, once and no more: a transaction is tried again, but never has two effects.

    BEGIN   LOCK TABLE turn   works in savepoints   the batch's number into commits   COMMIT

A transaction that failed before its COMMIT was sent has done nothing, and is tried again.
Where the answer to a COMMIT is lost, it may have been done. So each batch has a number, which is written with
it; the next try looks, in its own turn, whether that number is there. It cannot come later: whoever sent that
COMMIT had the turn, and we get it only once that transaction has ended, or where nobody ever heard of it.

What was found done is written over once more before anybody is told. The cluster confirms that write only
with what came before it, so that it holds what it holds of any other (``synchronous_commit``).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from keybroker.audit import Writer
from keybroker.store.failures import is_passing, sqlstate, translated
from keybroker.store.group import Outcome, Queued, perform
from keybroker.store.writing import SqlWriting
from keybroker.wire.problems import KeybrokerError, Problem

PATIENCE_SECONDS: Final = 15.0
"""How long a batch is tried again: less than the 20 s that an agent waits for an answer, so that it gets one.
A failover takes longer at times: what was not written is refused then."""

IMPATIENCE_SECONDS: Final = 2.0
"""The same, right after a batch that was given up: whoever asks while nothing answers is told so soon."""

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0

ENGINES_OWN: Final = MetaData()
"""Tables that PostgreSQL has beside ``tables.METADATA``; nothing of the broker's is in them."""

COMMITS: Final = Table(
    "commits",
    ENGINES_OWN,
    Column("process", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
)
"""The last batch of each process that writes; ``at``: seconds since 1970, by the process's own clock."""

TURN: Final = Table("turn", ENGINES_OWN, Column("nothing", Text))
"""Is locked by whoever writes, and stays empty. Locking it takes no snapshot, so that the transaction then
sees what the one before it has left (PostgreSQL documentation, LOCK, "Notes")."""

_OLD_SECONDS: Final = 7 * 86400
_LAST: Final = select(COMMITS.c.number).where(COMMITS.c.process == bindparam("of_process"))
_NOTE: Final = insert(COMMITS).values(
    process=bindparam("process"), number=bindparam("number"), at=bindparam("at")
)
_NOTE_OVER: Final = _NOTE.on_conflict_do_update(
    index_elements=[COMMITS.c.process], set_={"number": _NOTE.excluded.number, "at": _NOTE.excluded.at}
)
_FORGET: Final = delete(COMMITS).where(COMMITS.c.at < bindparam("before"))


class Commits:
    """Writes batches; used by one thread.

    Args:
        connect: makes a connection that leaves transactions to us.
        process: a name that no other process has, nor had.
        writer: whose chain of the audit trail is appended to.
        patience: seconds.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        process: str,
        writer: Writer,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._connect = connect
        self._process = process
        self._writer = writer
        self._patience = self._full = patience
        self._connection: Connection | None = None
        self._number = 0
        self._in_doubt: list[Outcome] | None = None

    def __enter__(self) -> Callable[[list[Queued]], list[Outcome]]:
        return self.write

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_go()

    def write(self, batch: list[Queued]) -> list[Outcome]:
        """Write a batch in one transaction, or give it up."""
        self._number += 1
        self._in_doubt = None
        until, pause = time.monotonic() + self._patience, _FIRST_PAUSE
        while True:
            try:
                outcomes = self._transaction(batch)
            except DBAPIError as error:
                self._let_go()
                if not is_passing(error) or time.monotonic() + pause > until:
                    return self._given_up(batch, error)
            else:
                self._patience = self._full
                return outcomes
            # apart from other brokers, who failed in the same moment
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  # a pause is no secret
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _transaction(self, batch: list[Queued]) -> list[Outcome]:
        if self._connection is None:
            self._connection = self._connect()
        connection = self._connection
        connection.exec_driver_sql("BEGIN ISOLATION LEVEL SERIALIZABLE")
        connection.exec_driver_sql("LOCK TABLE turn IN EXCLUSIVE MODE")
        if self._in_doubt is not None and self._is_there(connection):
            outcomes = self._in_doubt
        else:
            self._in_doubt = None
            writing = SqlWriting(connection, self._writer)
            outcomes = [perform(connection, writing, queued, is_passing) for queued in batch]
        now = int(time.time())
        if self._number == 1:
            connection.execute(_FORGET, {"before": now - _OLD_SECONDS})
        connection.execute(_NOTE_OVER, {"process": self._process, "number": self._number, "at": now})
        self._commit(connection, outcomes)
        return outcomes

    def _is_there(self, connection: Connection) -> bool:
        """Say whether the batch whose COMMIT was not answered is written."""
        return connection.execute(_LAST, {"of_process": self._process}).scalar() == self._number

    def _commit(self, connection: Connection, outcomes: list[Outcome]) -> None:
        try:
            cursor = connection.exec_driver_sql("COMMIT").cursor
        except DBAPIError as error:
            state = sqlstate(error)
            # Refused by the server for what is in it, it is rolled back; all else may have come in between.
            # 57P01 has: a commit that waits for a standby is done when the wait is broken off.
            if state is None or not state.startswith(("23", "40")):
                self._in_doubt = outcomes
            raise
        said = getattr(cursor, "statusmessage", "COMMIT")
        if said != "COMMIT":  # of a transaction that had failed COMMIT says ROLLBACK, which is no error
            raise KeybrokerError(Problem.INTERNAL, f"database: COMMIT was answered {said}")

    def _given_up(self, batch: list[Queued], error: DBAPIError) -> list[Outcome]:
        self._patience = min(self._full, IMPATIENCE_SECONDS)
        return [Outcome(queued.answer, None, self._refusal(error)) for queued in batch]

    def _refusal(self, error: DBAPIError) -> KeybrokerError:
        refused = translated(error)
        if self._in_doubt is None:
            return refused
        why = refused.detail.removeprefix("database: ")
        return KeybrokerError(
            Problem.UNAVAILABLE,
            f"database: it did not say whether the change is made: {why}",
            hint="ask for the same again: what is done already is not done twice",
            retry_after=5,
        )

    def _let_go(self) -> None:
        """Give the connection up; one that failed is never used again."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.invalidate()
            connection.close()
        except (DBAPIError, PendingRollbackError):
            return
