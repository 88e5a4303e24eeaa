"""If a record cannot be written, no key leaves: 503 with Retry-After, until it can be again."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from keybroker.wire.problems import Problem
from tests.tls.running import CLI, Broker, Host, Reply, install, unlock_request

MOST = 300
"""Requests until a disk that is full must have been noticed."""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Yield a state directory on a small file system of its own."""
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "none", disk], check=True, timeout=20)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True, timeout=20)


@pytest.fixture
def broker(tmp_path: Path, state: Path) -> Iterator[Broker]:
    made = install(tmp_path)
    shutil.move(made.database, state / "keybroker.db")
    text = made.config.read_text().replace(str(made.database), str(state / "keybroker.db"))
    made.config.write_text(text)
    made.start()
    made.add_addon("shop")
    yield made
    if made.process is not None:
        made.kill()


@contextmanager
def full_disk(_broker: Broker, state: Path) -> Iterator[None]:
    """Fill the disk to the last block."""
    filler = state / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4096", "status=none"], check=False, timeout=20)
    assert shutil.disk_usage(state).free == 0
    yield
    filler.unlink()


@contextmanager
def file_limit(broker: Broker, state: Path) -> Iterator[None]:
    """Let no file of the server grow (RLIMIT_FSIZE; Python ignores SIGXFSZ)."""
    assert broker.process is not None
    size = (state / "keybroker.db-wal").stat().st_size
    before = resource.prlimit(broker.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(broker.process.pid, resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.prlimit(broker.process.pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def locked(_broker: Broker, state: Path) -> Iterator[None]:
    """Hold the database's write lock in another process, for longer than the server waits for it."""
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        " c.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(state / "keybroker.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.kill()


Failing = Callable[[Broker, Path], AbstractContextManager[None]]


@pytest.mark.parametrize("failing", [full_disk, file_limit, locked])
def test_no_key_leaves_without_its_record(broker: Broker, state: Path, failing: Failing) -> None:
    volume = broker.add_volume("shop", "data")
    host = broker.enrol("shop")
    passphrase = broker.claim(host, volume)
    before = records(state)
    with failing(broker, state):
        # the log beside the database may have room for some still
        replies = [unlock(broker, host, volume)]
        while replies[-1].status == 200 and len(replies) < MOST:
            replies.append(unlock(broker, host, volume))
        refused = replies[-1]
        assert (refused.status, refused.problem) == (503, "unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert passphrase.encode() not in refused.body
        # nor does a refusal that cannot be put on record say more than that
        turned_away = broker.ask("GET", "/v1/volumes", who=host.files)
        assert (turned_away.status, turned_away.problem) == (503, "unavailable")
    replies.append(unlock(broker, host, volume))
    assert replies[-1].status == 200
    assert passphrase.encode() in replies[-1].body
    # every key that left is on record, by its receipt, and no other
    receipts = [reply.document["receipt"] for reply in replies if reply.status == 200]
    after = records(state)
    assert after[: len(before)] == before
    assert after[len(before) :] == [("unlock", one["hash"]) for one in receipts]
    assert broker.stop() == 0


def test_a_broker_whose_database_is_read_only_does_not_serve(broker: Broker, state: Path) -> None:
    assert broker.stop() == 0
    subprocess.run(["mount", "-o", "remount,ro", state], check=True, timeout=20)
    done = subprocess.run(
        [*CLI, "serve", "--config", str(broker.config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # tried again by systemd: a file system that is read-only for a while is mended by a mount
    assert done.returncode == Problem.UNAVAILABLE.exit_status, done.stderr
    assert done.stderr == "keybroker: database: unable to open database file\n"
    subprocess.run(["mount", "-o", "remount,rw", state], check=True, timeout=20)
    broker.start()
    assert broker.ask("GET", "/v1/audit", who=broker.operator).status == 200


def records(state: Path) -> list[tuple[str, str]]:
    """Return verb and hash of each record, read beside the server."""
    with closing(sqlite3.connect(state / "keybroker.db")) as other:
        return list(other.execute("SELECT verb, hash FROM audit ORDER BY sequence"))


def unlock(broker: Broker, host: Host, volume: dict[str, Any]) -> Reply:
    return broker.ask("POST", "/v1/unlock", unlock_request(volume), who=host.files)
