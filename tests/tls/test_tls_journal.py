"""The journal gets a copy of each record, over its own protocol, through the real systemd library."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keybroker.checkpoint import Checkpoint
from tests.tls.running import Broker, install, unlock_request

INSIDE = (
    "unshare", "--mount", "sh", "-ec",
    "mount -t tmpfs none /run; mkdir -p /run/systemd/journal;"
    ' mount --bind "$0" /run/systemd/journal; exec "$@"',
)  # fmt: skip
"""A mount namespace in which our socket is the journal's."""


def fields_of(datagram: bytes) -> dict[str, str]:
    """Read an entry (systemd.io, JOURNAL_NATIVE_PROTOCOL)."""
    found: dict[str, str] = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", datagram[:8])
            value, datagram = datagram[8 : 8 + size], datagram[9 + size :]
        found[name.decode()] = value.decode()
    return found


class Listener:
    """What stands in for journald."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(directory / "socket"))
        self.entries: list[dict[str, str]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while datagram := self.socket.recv(1 << 20):
            self.entries.append(fields_of(datagram))

    def records(self) -> list[dict[str, str]]:
        return [entry for entry in self.entries if "KEYBROKER_SEQUENCE" in entry]

    def wait_for(self, sequence: int) -> None:
        until = time.monotonic() + 20
        while not any(one["KEYBROKER_SEQUENCE"] == str(sequence) for one in self.records()):
            assert time.monotonic() < until, self.entries[-5:]
            time.sleep(0.05)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", str(self.directory / "socket"))
        self._thread.join(5)
        self.socket.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(tmp_path / "journal")
    yield listener
    listener.close()


@pytest.fixture
def broker(tmp_path: Path, journal: Listener) -> Iterator[Broker]:
    made = install(tmp_path)
    made.start(inside=(*INSIDE, str(journal.directory)), JOURNAL_STREAM="8:1")
    yield made
    if made.process is not None:
        assert made.stop() == 0


def test_each_record_is_there_once_with_all_its_fields_across_a_restart(
    broker: Broker, journal: Listener
) -> None:
    broker.add_addon("shop")
    volume = broker.add_volume("shop", "data")
    host = broker.enrol("shop")
    passphrase = broker.claim(host, volume)
    assert broker.ask("POST", "/v1/unlock", unlock_request(volume), who=host.files).status == 200
    assert broker.ask("GET", "/v1/volumes", who=host.files).status == 403
    document = broker.ask("GET", "/v1/audit", who=broker.operator).document
    last = document["heads"][0]["sequence"]
    journal.wait_for(last)
    assert broker.stop() == 0
    broker.start(inside=(*INSIDE, str(journal.directory)), JOURNAL_STREAM="8:1")
    broker.add_addon("cache")
    journal.wait_for(last + 1)
    told = journal.records()
    assert [int(one["KEYBROKER_SEQUENCE"]) for one in told] == list(range(1, last + 2))
    for record, one in zip(document["audit"], told, strict=False):
        assert one["SYSLOG_IDENTIFIER"] == "keybroker-audit"
        for name in ("at", "actor", "address", "verb", "outcome", "previous", "hash", "fingerprint"):
            assert one[f"KEYBROKER_{name.upper()}"] == record[name]
        for name in ("addon", "volume", "host"):
            assert one.get(f"KEYBROKER_{name.upper()}") == record[name]
        assert one["PRIORITY"] == ("4" if record["outcome"] in ("refused", "denied") else "6")
    # what was signed at the stop is there, too
    signed = [Checkpoint.parse(one["KEYBROKER_CHECKPOINT"]) for one in journal.entries
              if "KEYBROKER_CHECKPOINT" in one]  # fmt: skip
    assert signed[-1].place["main"] >= last
    assert all(passphrase not in "".join(one.values()) for one in journal.entries)


def test_what_a_kill_left_untold_is_told_after_the_next_start(broker: Broker, journal: Listener) -> None:
    for number in range(30):
        broker.add_addon(f"a{number}")
    broker.kill()
    broker.start(inside=(*INSIDE, str(journal.directory)), JOURNAL_STREAM="8:1")
    last = broker.ask("GET", "/v1/audit", who=broker.operator).document["heads"][0]["sequence"]
    journal.wait_for(last)
    told = [int(one["KEYBROKER_SEQUENCE"]) for one in journal.records()]
    assert sorted(set(told)) == list(range(1, last + 1))
