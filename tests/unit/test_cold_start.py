"""What a start waits for, and what ``check`` says of a machine where something is not there yet."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keybroker import sockets
from keybroker.cli import surroundings
from keybroker.coldstart import when_possible
from keybroker.config import Address
from keybroker.wire.problems import KeybrokerError, Problem

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATE = KeybrokerError(Problem.UNAVAILABLE, "database: is not up")


class Start:
    """A start that fails for these reasons, one a time, and then works."""

    def __init__(self, *reasons: KeybrokerError) -> None:
        self.left = list(reasons)

    def __call__(self) -> None:
        if self.left:
            raise self.left.pop(0)


def test_what_passes_is_waited_for_and_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        pauses: list[float] = []
        other = KeybrokerError(Problem.UNAVAILABLE, "clock: is behind")
        when_possible(Start(LATE, LATE, other), is_supervised=True, pause=pauses.append)
        told = [manager.recv(4096).decode() for _ in pauses]
    assert len(pauses) == 3
    assert caplog.messages == ["waiting: database: is not up", "waiting: clock: is behind"]
    assert told[0].splitlines() == ["STATUS=waiting: database: is not up", "EXTEND_TIMEOUT_USEC=60000000"]
    assert "STATUS=waiting: clock: is behind" in told[2]


def test_what_does_not_pass_ends_the_start() -> None:
    with pytest.raises(KeybrokerError) as caught:
        when_possible(Start(KeybrokerError(Problem.CONFIGURATION, "wrong")), is_supervised=True)
    assert caught.value.problem is Problem.CONFIGURATION


def test_nobody_at_a_terminal_is_kept_waiting() -> None:
    with pytest.raises(KeybrokerError, match="is not up"):
        when_possible(Start(LATE), is_supervised=False)


@pytest.mark.parametrize("host", ["192.0.2.10", "2001:db8::10"])
def test_an_address_that_is_not_here_is_listened_on(host: str) -> None:
    assert not sockets.is_here(host)
    (bound,) = sockets.bound_to(Address(host, 0), "main")
    with bound:
        assert bound.getsockname()[0] == host
        assert not bound.getblocking()


def test_a_port_that_is_taken_is_still_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(KeybrokerError) as caught:
        sockets.bound_to(Address("127.0.0.1", taken.getsockname()[1]), "main")
    assert caught.value.problem is Problem.UNAVAILABLE


def test_a_clock_is_wrong_before_what_is_over() -> None:
    assert surroundings.clock(NOW, NOW - timedelta(seconds=1)).state == "good"
    behind = surroundings.clock(NOW, NOW + timedelta(days=1))
    assert (behind.state, behind.problem) == ("wrong", Problem.UNAVAILABLE)
    assert "2026-01-02" in behind.detail


def test_an_address_that_is_away_is_a_warning() -> None:
    here = {"::", "192.0.2.1"}.__contains__
    assert surroundings.address(["::", "::"], here).detail == "::"
    away = surroundings.address(["192.0.2.1", "192.0.2.2"], here)
    assert (away.state, away.problem) == ("warning", None)
    assert away.detail.startswith("192.0.2.2: ")


def test_a_name_server_that_never_answers_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "NAME_SECONDS", 0.2)

    def resolves(name: str) -> bool:
        if name == "b.example":
            time.sleep(1)
        return True

    (found,) = surroundings.names(["a.example", "b.example"], resolves)
    assert found.state == "warning"
    assert found.detail.startswith("b.example: not known here")
    (good,) = surroundings.names(["a.example"], resolves)
    assert good.state == "good"
    assert list(surroundings.names([], resolves)) == []


@pytest.mark.parametrize(("free", "state"), [(31, "wrong"), (32, "warning"), (511, "warning"), (512, "good")])
def test_a_disk_without_room_is_said_before_keys_stop(free: int, state: str) -> None:
    assert surroundings.room(Path("/var/lib/keybroker"), free * surroundings.MIB).state == state
