"""``keybroker audit tail -f`` prints what is new, waits for a broker that is away, sees a trail shrink."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.tls.running import CLI, Broker, running


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with running(tmp_path) as started:
        yield started


@contextmanager
def following(broker: Broker, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [*CLI, "audit", "tail", "-f", *options, "--config", str(broker.config)]
    clean = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as follower:
        yield follower
        follower.kill()


def test_it_goes_on_across_a_restart_until_it_is_interrupted(broker: Broker) -> None:
    broker.add_addon("a1")
    with following(broker, "--json") as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert [json.loads(follower.stdout.readline())["addon"] for _ in range(2)] == [None, "a1"]
        broker.add_addon("a2")
        assert json.loads(follower.stdout.readline())["addon"] == "a2"
        broker.stop()
        assert "waiting for it" in follower.stderr.readline()
        broker.start()
        broker.add_addon("a3")
        assert json.loads(follower.stdout.readline())["addon"] == "a3"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 130


def test_a_table_grows_under_one_heading(broker: Broker) -> None:
    with following(broker, "--limit", "1") as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline().startswith("SEQUENCE  TIME")
        assert "init" in follower.stdout.readline()
        broker.add_addon("a-name-that-is-longer-than-its-column")
        assert "a-name-that-is-longer-than-its-column" in follower.stdout.readline()


def test_a_trail_that_became_shorter_is_said(broker: Broker) -> None:
    broker.add_addon("a1")
    broker.add_addon("a2")
    with following(broker, "--json") as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        for _ in range(3):
            follower.stdout.readline()
        # a backup of before is put back; the triggers are no hindrance to whoever owns the file
        with closing(sqlite3.connect(broker.database)) as database:
            database.execute("DROP TRIGGER audit_is_not_deleted")
            database.execute("DELETE FROM audit WHERE sequence > 2")
            database.commit()
        said = follower.stderr.readline()
        assert (
            "audit record 3: was there, and the trail ends at 2: it was cut, or the database set back" in said
        )
        assert follower.wait(10) == 70
