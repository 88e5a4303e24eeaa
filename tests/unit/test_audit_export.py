"""An export is verified without a broker, and whatever was done to it is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import pytest

from keybroker import export, statement
from keybroker.export import Heading
from keybroker.proofreading import Proofreader
from keybroker.verdict import Verdict
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import MAIN
from tests.unit.test_audit_proofreading import KEY, good, good_notes, merged

LENGTH = 300
HEADING = Heading("broker.example:8443", "2026-01-31T12:00:00.000000Z", {MAIN: (1, LENGTH)})
TRUSTED = frozenset({statement.fingerprint(statement.public_key(KEY))})


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return list(export.write(HEADING, merged(good()[:LENGTH], good_notes()[:3])))


def verify(lines: Iterable[str]) -> Verdict:
    heading, items = export.read(lines)
    reader = Proofreader(TRUSTED, first=heading.first)
    for item in items:
        reader.take(item)
    return reader.verdict()


def problem(lines: Iterable[str]) -> tuple[Problem, str]:
    with pytest.raises(KeybrokerError) as caught:
        verify(lines)
    return caught.value.problem, caught.value.detail


def test_it_comes_back_as_it_was_written(lines: list[str]) -> None:
    heading, items = export.read(lines)
    assert heading == HEADING
    assert list(items) == list(merged(good()[:LENGTH], good_notes()[:3]))
    verdict = verify(lines)
    assert (verdict.records, verdict.checkpoints, verdict.of().covered) == (LENGTH, 3, LENGTH)


def test_one_of_before_there_were_several_writers_is_read_as_it_is(lines: list[str]) -> None:
    """Neither its heading nor its records name a writer; their hashes are what they were."""
    first = {"export": "keybroker audit 1", "broker": HEADING.broker, "at": HEADING.at}
    old = [json.dumps({**first, "from": 1, "to": LENGTH}) + "\n"]
    for line in lines[1:]:
        document = json.loads(line)
        if "record" in document:
            del document["record"]["writer"]
        old.append(json.dumps(document) + "\n")
    assert verify(old) == verify(lines)


def flip(lines: list[str], i: int) -> list[str]:
    document = json.loads(lines[i])
    (kind, value), *_ = document.items()
    if kind == "checkpoint":
        value["note"] = value["note"].replace("at 2026", "at 2025")
    elif kind == "record":
        value["address"] = "192.0.2.66"
    elif kind == "export":
        document["chains"][MAIN]["from"] = 7
    else:
        document["end"] = 7
    return [*lines[:i], json.dumps(document) + "\n", *lines[i + 1 :]]


def drop(lines: list[str], i: int) -> list[str]:
    return lines[:i] + lines[i + 1 :]


def swap(lines: list[str], i: int) -> list[str]:
    j = i + 1 if i + 1 < len(lines) else i - 1
    changed = list(lines)
    changed[i], changed[j] = changed[j], changed[i]
    return changed


def double(lines: list[str], i: int) -> list[str]:
    return [*lines[: i + 1], *lines[i:]]


@pytest.mark.parametrize("tamper", [flip, drop, swap, double])
def test_each_line_is_held_to_its_place(
    lines: list[str], tamper: Callable[[list[str], int], list[str]]
) -> None:
    for i in range(len(lines)):
        changed = tamper(lines, i)
        assert problem(changed)[0] in (Problem.CORRUPT, Problem.MALFORMED), i


def test_the_first_bad_record_is_named_and_how(lines: list[str]) -> None:
    assert problem(flip(lines, 17)) == (Problem.CORRUPT, "audit record 17: was changed")
    assert problem(drop(lines, 17))[1] == "audit record 17: is missing, 18 is next"
    assert problem(swap(lines, 17))[1] == "audit record 17: is missing, 18 is next"
    assert problem(double(lines, 17))[1] == "audit record 18: is missing, 17 is next"
    assert problem(lines[:-1])[1] == f"audit record {LENGTH + 1}: the export is cut off before it"
    assert problem(lines[:50])[1] == "audit record 50: the export is cut off before it"
    # the end made to fit a cut is still found by the checkpoint that has seen more
    cut = [*lines[:-12], *lines[-2:-1], json.dumps({"end": {"records": 290, "checkpoints": 3}}) + "\n"]
    assert problem(cut)[1].startswith("audit record 291: is missing, checkpoint 3 has seen records up to 300")


@pytest.mark.parametrize("line", ["", "[]\n", "{}\n", '{"record": 1}\n', '{"other": {}}\n', "x" * 9 + "\n"])
def test_what_is_no_export_is_told_from_one(lines: list[str], line: str) -> None:
    assert problem([line, *lines[1:]])[0] is Problem.MALFORMED
    assert "line 3" in problem([*lines[:2], line, *lines[2:]])[1]
    assert problem([])[0] is Problem.MALFORMED


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    assert "too long" in problem(["x" * (export.LONGEST_LINE + 1)])[1]
