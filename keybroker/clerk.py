"""The clerk: beside the requests, signs checkpoints of the audit trail and copies its records to the journal.

Each task has a thread of its own, so that a journal that stands still holds up no checkpoint and neither a
request. Where several brokers share a database each copies what it wrote itself, and whoever sees first that
it is time signs for all: a checkpoint's number is there once. What was copied is remembered in a file beside
the database, written after the journal was told: after a crash some records are told twice, by the same
writer, sequence number and hash, and none is left out.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from keybroker.audit import AuditEntry, AuditFilter
from keybroker.journal import Journal, of_checkpoint, of_record
from keybroker.service import receipts, trail
from keybroker.service.broker import Broker
from keybroker.store import Reading
from keybroker.tally import Work
from keybroker.unforeseen import where
from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.receipt import Receipt

_LOOK_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 5.0
_PAGE: Final = 1000

_OLDEST: Final = 10_000
"""So many records are copied where nothing says which ones were: the journal is no archive."""

_log = logging.getLogger("keybroker.clerk")


class Clerk:
    """Looks after a broker's trail until it is stopped.

    Args:
        journal: None where there is none.
        cursor: file that says what the journal was told last; a receipt of the broker's own.
    """

    def __init__(self, broker: Broker, journal: Journal | None, cursor: Path) -> None:
        self._broker = broker
        self._journal = journal
        self._cursor = cursor
        self._position: int | None = None
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run, args=("checkpoints", self._sign), name="checkpoints", daemon=True
            )
        ]
        if journal is not None:
            self._threads.append(
                threading.Thread(
                    target=self._run,
                    args=("journal", lambda _last: self._copy(journal)),
                    name="journal",
                    daemon=True,
                )
            )

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Sign what is not signed, copy what is not copied, and end; a journal that stands still is left."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(_STOP_SECONDS)

    def _run(self, name: Work, work: Callable[[bool], None]) -> None:
        """Do ``work`` every second and once more at the end; what goes wrong is said once, and tried on."""
        said, last = "", False
        while True:
            try:
                work(last)
                said = ""
            except Exception as error:
                self._broker.tally.failed(name)
                what = str(error) if isinstance(error, KeybrokerError | OSError) else where(error)
                if what != said:
                    _log.error("audit trail: %s", what)
                said = what
            if last:
                return
            last = self._stopping.wait(_LOOK_SECONDS)

    def _sign(self, last: bool) -> None:
        trail.write_counted(self._broker, at_once=last)
        made = trail.sign_checkpoint(self._broker, at_once=last)
        if made is None:
            return
        _log.info("audit trail: checkpoint %d, up to record %s", made.number, made.ends)
        if self._journal is not None:
            self._journal.send(*of_checkpoint(made))

    def _copy(self, journal: Journal) -> None:
        """Copy what the journal was not told yet."""
        if self._position is None:
            self._position = self._begin()
        while page := self._broker.store.read(self._next_page):
            told = None
            try:
                for entry in page:
                    journal.send(*of_record(entry))
                    told = entry
                    self._position = self._broker.progress.copied = entry.sequence
            finally:
                if told is not None:
                    _write(self._cursor, Receipt(told.sequence, told.hash, told.writer))

    def _next_page(self, reading: Reading) -> list[AuditEntry]:
        own = reading.writer
        return reading.audit({own: self._position or 0}, _PAGE, AuditFilter(writer=own))

    def _begin(self) -> int:
        """Say after which record to begin; a database without what the journal was told of was set back."""
        told = _read(self._cursor)
        (last, _), own, there = self._broker.store.read(
            lambda reading: (
                reading.audit_head(),
                reading.writer,
                told is not None and receipts.is_there(reading, told),
            )
        )
        begin = max(0, last - _OLDEST)
        if told is not None and there:
            begin = told.sequence if told.writer == own else begin
        elif told is not None:
            # a restored backup: what it has was told when it was new
            begin = last if last < told.sequence else begin
            receipts.recognise(self._broker, told)
        self._broker.progress.copied = begin
        return begin


def _read(cursor: Path) -> Receipt | None:
    try:
        return Receipt.read(Fields.parse(cursor.read_text()))
    except (OSError, UnicodeDecodeError, KeybrokerError):
        return None


def _write(cursor: Path, told: Receipt) -> None:
    """Replace the file; not waited for to be durable, for an old one only has records told twice."""
    fresh = cursor.with_name(f"{cursor.name}.new")
    fresh.write_text(json.dumps(told.as_json()) + "\n")
    os.replace(fresh, cursor)
