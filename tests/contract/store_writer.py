"""Writes to a store from many threads until it is killed; prints each number once its write has returned.

    python -m tests.contract.store_writer DATABASE THREADS

Each write adds an add-on called ``aN`` and an audit record that names it: a crash must leave both or neither.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from keybroker.audit import AuditEvent
from keybroker.store import Writing
from keybroker.store.rows import AddonKeyRow, AddonRow, MasterKeyRow
from keybroker.store.sqlite import SqliteStore
from keybroker.wire.names import AddonName

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MASTER = MasterKeyRow("master", "file:/m", "wraps", b"check", NOW)


def write(writing: Writing, number: int) -> None:
    """Add an add-on and its audit record."""
    name = AddonName(f"a{number}")
    key = AddonKeyRow(name, 1, number.to_bytes(16, "big"), b"wrapped", "master", NOW)
    writing.add_addon(AddonRow(name, "redis", NOW), key)
    writing.append(AuditEvent(NOW, "local", "", "local", "addon.add", "done", addon=name))


def main() -> None:
    """Write until somebody ends it."""
    store = SqliteStore(Path(sys.argv[1]))
    first = store.read(lambda reading: len(reading.addons()))
    store.write(lambda writing: writing.put_master_key(MASTER))
    numbers = itertools.count(first)

    def one() -> None:
        number = next(numbers)
        store.write(lambda writing: write(writing, number))
        os.write(1, b"%d\n" % number)

    def work() -> None:
        while True:
            one()

    threads = [threading.Thread(target=work) for _ in range(int(sys.argv[2]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
