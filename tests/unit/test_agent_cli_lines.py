"""What ``unlock`` says of a run, and the exit status that systemd decides by."""

from __future__ import annotations

import pytest

from agent import unlocking
from agent.driver import Report
from agent.passage import VolumeOutcome
from agent.plan.steps import Link, Open
from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from tests.contract.test_agent_broker import RECORD

DATA = Record.read(Fields(dict(RECORD)))
SWAP = Record.read(Fields(RECORD | {"name": "swap", "filesystem": "swap", "mount": None, "current": None}))
OPENED = VolumeOutcome(DATA, "opened", (Open("it is closed"), Link("it has no stable name")))


def refused(problem: Problem, record: Record = DATA) -> VolumeOutcome:
    return VolumeOutcome(record, "refused", error=KeybrokerError(problem, "data: so it is", hint="do this"))


@pytest.mark.parametrize(
    ("report", "status"),
    [
        (Report((OPENED,)), 0),
        (Report(()), 0),
        (Report((refused(Problem.HEADER_REFUSED), OPENED)), 79),
        (Report((refused(Problem.NO_DEVICE),)), 66),
        (Report((refused(Problem.HEADER_REFUSED), refused(Problem.UNREACHABLE))), 75),
        (Report((), KeybrokerError(Problem.REVOKED, "no")), 78),
        (Report((OPENED,), KeybrokerError(Problem.UNREACHABLE, "no")), 0),
        (Report((refused(Problem.NO_DEVICE),), KeybrokerError(Problem.UNTRUSTED_BROKER, "no")), 76),
        (Report((refused(Problem.NO_DEVICE),), KeybrokerError(Problem.UNREACHABLE, "no")), 75),
    ],
)
def test_the_status_is_that_of_what_time_may_heal_and_else_of_what_comes_first(
    report: Report, status: int
) -> None:
    assert unlocking.judge(report) == status


def test_an_open_volume_has_one_line_and_the_run_another() -> None:
    said = unlocking.lines(Report((OPENED,)), 0.1234)
    assert said == [("data: open for /srv/data (Open, Link)", 6), ("1 of 1 volume open after 123 ms", 6)]


def test_what_was_open_and_what_is_swap_is_said_so() -> None:
    report = Report((VolumeOutcome(DATA, "already"), VolumeOutcome(SWAP, "already")))
    assert [line for line, _ in unlocking.lines(report, 0.0)] == [
        "data: open for /srv/data (already)",
        "swap: swap is on (already)",
        "2 of 2 volumes open after 0 ms",
    ]


def test_a_note_is_a_warning() -> None:
    outcome = VolumeOutcome(DATA, "opened", (Open("it is closed"),), notes=("its header is older",))
    assert ("data: its header is older", 4) in unlocking.lines(Report((outcome,)), 0.0)


def test_a_refusal_is_said_with_its_reason_and_its_hint() -> None:
    said = unlocking.lines(Report((refused(Problem.WRONG_DEVICE),)), 0.0)
    assert said[:3] == [
        ("data: closed: wrong-device", 3),
        ("data: so it is", 3),
        ("hint: do this", 3),
    ]


def test_what_stops_all_volumes_is_said_once() -> None:
    error = KeybrokerError(Problem.REVOKED, "host: revoked")
    report = Report((VolumeOutcome(DATA, "refused", error=error),), error)
    said = [line for line, _ in unlocking.lines(report, 0.0)]
    assert said == ["host: revoked", "data: closed", "0 of 1 volume open after 0 ms"]
