"""What ``--wait`` shows of a volume, when it stops, and with which trouble."""

from __future__ import annotations

from typing import Any

import pytest

from keybroker.cli.progress import is_at_rest, progress_line, state_of, trouble_of, wait
from keybroker.cli.quantities import short_duration, short_size
from keybroker.wire.problems import KeybrokerError, Problem

REST: dict[str, Any] = {
    "volume": "kbv-aaaaaaaaaaaa", "addon": "shop", "name": "data", "stage": "ready", "role": "holder",
    "current": 1, "wanted": 1, "staged": None, "retiring": None, "order": None, "partner": None,
    "report": None,
}  # fmt: skip
ROTATING = {**REST, "wanted": 2}
GOING = {
    "step": "Reencrypt",
    "why": "ordered",
    "then": "Tag",
    "progress": {"done": 430, "total": 1000, "rate": 12 << 20, "seconds_left": 180},
}
REPORT = {"at": "2026-01-31T12:00:00.000000Z", "activity": GOING, "trouble": None}
STOPPED = {**REPORT, "trouble": {"problem": "locked-out", "detail": "key 1 opens nothing"}}
ORDER = {"number": 1, "kind": "reencrypt", "phase": "begun"}


@pytest.mark.parametrize(
    ("volume", "state", "line"),
    [
        (REST, "ready", "shop/data: done"),
        (ROTATING, "ready, rotating to 2", "shop/data: ready, rotating to 2; waiting for its host"),
        (
            {**REST, "order": ORDER, "report": REPORT},
            "ready, reencrypt (begun)",
            "shop/data: Reencrypt [########............] 43%, 12M/s, 3m left: ordered; then: Tag",
        ),
        (
            {**ROTATING, "report": {**STOPPED, "activity": {**GOING, "progress": None, "then": None}}},
            "ready, rotating to 2, locked-out",
            "shop/data: Reencrypt: ordered",
        ),
        ({**REST, "stage": "erased", "role": "former"}, "former, erased", "shop/data: erased"),
    ],
)
def test_a_volume_in_one_line(volume: dict[str, Any], state: str, line: str) -> None:
    assert state_of({"report": None, **volume}) == state
    assert progress_line(volume) == line


def test_only_a_holder_without_wishes_is_at_rest() -> None:
    assert is_at_rest(REST)
    for other in (ROTATING, {**REST, "order": ORDER}, {**REST, "role": "former"}, {**REST, "retiring": 1}):
        assert not is_at_rest(other)


def test_old_trouble_and_what_passes_by_itself_stop_nothing() -> None:
    volume = {**ROTATING, "report": STOPPED}
    found = trouble_of(volume, 0)
    assert found is not None
    assert (found.problem, found.detail) == (Problem.LOCKED_OUT, "shop/data: key 1 opens nothing")
    assert trouble_of(volume, 4e9) is None
    busy = {**STOPPED, "trouble": {"problem": "unavailable", "detail": "later"}}
    assert trouble_of({**ROTATING, "report": busy}, 0) is None
    assert trouble_of({**REST, "report": STOPPED}, 0) is None


def test_waiting_ends_with_rest_with_trouble_or_with_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    name = REST["volume"]
    states = iter([ROTATING, ROTATING, REST])
    assert wait(lambda: {name: next(states)}, [name], timeout_seconds=None) == [REST]
    assert capsys.readouterr().err.splitlines() == [
        "shop/data: ready, rotating to 2; waiting for its host",
        "shop/data: done",
    ]
    stopped = {**ROTATING, "report": {**STOPPED, "at": "2099-01-31T12:00:00.000000Z"}}
    with pytest.raises(KeybrokerError) as caught:
        wait(lambda: {name: stopped}, [name], timeout_seconds=None)
    assert caught.value.problem is Problem.LOCKED_OUT
    with pytest.raises(KeybrokerError) as caught:
        wait(lambda: {name: ROTATING}, [name], timeout_seconds=0)
    assert caught.value.problem is Problem.TOO_SLOW


def test_a_migration_is_waited_for_until_the_old_disk_is_wiped() -> None:
    old, new = {**REST, "partner": "kbv-b", "order": ORDER}, {**REST, "volume": "kbv-b", "role": "successor"}
    moved = {**REST, "role": "former", "order": ORDER}, {**REST, "volume": "kbv-b"}
    wiped = {**REST, "role": "former", "stage": "erased"}, {**REST, "volume": "kbv-b"}
    states = iter([(old, new), moved, wiped])

    def look() -> dict[str, dict[str, Any]]:
        return {one["volume"]: one for one in next(states)}

    assert wait(look, [REST["volume"]], timeout_seconds=None) == list(wiped)


def test_sizes_and_spans_for_people() -> None:
    assert [short_size(size) for size in (0, 999, 1024, 1503238553, 12 << 20)] == [
        "0",
        "999",
        "1.0K",
        "1.4G",
        "12M",
    ]
    assert [short_duration(span) for span in (0, 45, 119, 720, 10800, 17 * 86400)] == [
        "0s", "45s", "119s", "12m", "3h", "17d",
    ]  # fmt: skip
