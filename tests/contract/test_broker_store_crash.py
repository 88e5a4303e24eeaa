"""What a store acknowledged is there after a kill, and what it could not write it did not acknowledge."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keybroker.audit import verify
from keybroker.store import Store, Writing, schema
from keybroker.store.sqlite import SqliteStore
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.store_writer import MASTER, write


def check(database: Path) -> list[int]:
    """Return the numbers that are there, once chain and tables agree about them."""
    store = SqliteStore(database)
    try:
        verify(store.audit_records())
        recorded = [entry.addon for entry in store.audit_records()]
        there = [row.name for row in store.read(lambda reading: reading.addons())]
    finally:
        store.close()
    assert sorted(recorded, key=str) == sorted(there), "an add-on without its record, or a record without it"
    return [int(name[1:]) for name in there]


def test_after_kill_9_everything_acknowledged_is_there_with_its_record(tmp_path: Path) -> None:
    database = tmp_path / "keybroker.db"
    schema.create(database)
    acknowledged: set[int] = set()
    for kill in range(8):
        command = [sys.executable, "-m", "tests.contract.store_writer", str(database), "12"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            # killed at another point of the batch each time, without a word of warning
            for _ in range(50 + 37 * kill):
                acknowledged.add(int(writer.stdout.readline()))
            writer.kill()
            lines = writer.stdout.read().split("\n")
            acknowledged |= {int(line) for line in lines[:-1]}
        there = set(check(database))
        assert acknowledged <= there
        # each thread had at most one write under way
        assert len(there - acknowledged) <= 12 * (kill + 1)
    assert len(acknowledged) > 1000


@contextmanager
def no_file_grows_beyond(size: int) -> Iterator[None]:
    """Make the kernel refuse writes past ``size`` bytes of any file (setrlimit(2), RLIMIT_FSIZE)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_where_the_commit_fails_all_of_its_batch_failed(tmp_path: Path) -> None:
    database = tmp_path / "keybroker.db"
    schema.create(database)
    store = SqliteStore(database)
    store.write(lambda writing: writing.put_master_key(MASTER))
    store.write(lambda writing: write(writing, 0))
    queued, held = threading.Event(), threading.Event()
    outcomes: list[Problem | None] = []

    def first(writing: Writing) -> None:
        write(writing, 1)
        held.set()
        assert queued.wait(timeout=20)

    def ask(number: int) -> None:
        outcomes.append(outcome(store, number))

    threads = [threading.Thread(target=lambda: outcomes.append(attempt(store, first)))]
    threads[0].start()
    assert held.wait(timeout=20)
    threads += [threading.Thread(target=ask, args=(number,)) for number in range(2, 12)]
    for thread in threads[1:]:
        thread.start()
    with no_file_grows_beyond(Path(f"{database}-wal").stat().st_size):
        queued.set()
        for thread in threads:
            thread.join(timeout=30)
    assert outcomes == [Problem.UNAVAILABLE] * 11
    assert outcome(store, 12) is None
    store.close()
    assert check(database) == [0, 12]


def attempt(store: Store, work: object) -> Problem | None:
    try:
        store.write(work)  # type: ignore[arg-type]
    except KeybrokerError as error:
        return error.problem
    return None


def outcome(store: Store, number: int) -> Problem | None:
    return attempt(store, lambda writing: write(writing, number))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], check=True, timeout=20)
    yield disk
    subprocess.run(["umount", disk], check=True, timeout=20)


def test_on_a_full_disk_nothing_is_acknowledged_and_nothing_lost_and_room_mends_it(
    small_disk: Path,
) -> None:
    database = small_disk / "keybroker.db"
    schema.create(database)
    store = SqliteStore(database)
    store.write(lambda writing: writing.put_master_key(MASTER))
    done = []
    for number in range(5000):
        problem = outcome(store, number)
        if problem is not None:
            break
        done.append(number)
    assert problem is Problem.UNAVAILABLE
    assert outcome(store, 6000) is Problem.UNAVAILABLE
    assert len(store.read(lambda reading: reading.addons())) == len(done)
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True, timeout=20)
    assert outcome(store, 7000) is None
    store.close()
    assert sorted(check(database)) == [*done, 7000]
