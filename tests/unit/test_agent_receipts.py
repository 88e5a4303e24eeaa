"""The agent keeps the last receipt, says so where the trail has become shorter, and boots for all that."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.receipts import FILE, Receipts
from keybroker.wire.receipt import Receipt

OLD, NEW = Receipt(7, "ab" * 32), Receipt(9, "cd" * 32)


def receipts(state: Path) -> tuple[Receipts, list[tuple[str, int]]]:
    said: list[tuple[str, int]] = []
    return Receipts(state, lambda line, priority: said.append((line, priority))), said


def test_the_last_one_heard_is_kept_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    mine, said = receipts(tmp_path)
    assert mine.last() is None
    mine.heard(None, OLD)
    assert receipts(tmp_path)[0].last() == OLD
    mine.heard(OLD, NEW)
    mine.heard(NEW, NEW)
    mine.heard(NEW, None)
    assert mine.last() == NEW
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert said == []


def test_a_trail_that_became_shorter_is_said_and_its_receipt_taken(tmp_path: Path) -> None:
    mine, said = receipts(tmp_path)
    mine.heard(NEW, OLD)
    assert said[0] == (
        "broker: its database was set back: its trail ended at record 7, and this machine holds a receipt for"
        " record 9",
        3,
    )
    assert mine.last() == OLD


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sequence": 7}', "\xff" * 9000])
def test_a_file_that_is_none_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="latin-1")
    mine, said = receipts(tmp_path)
    assert mine.last() is None
    mine.heard(None, NEW)
    assert mine.last() == NEW
    assert said == []


def test_a_directory_that_takes_nothing_is_said_and_one_that_is_not_there_is_not(tmp_path: Path) -> None:
    mine, said = receipts(tmp_path / "none")
    mine.heard(None, NEW)
    assert said == []
    (tmp_path / FILE).mkdir()
    mine, said = receipts(tmp_path)
    mine.heard(None, NEW)
    assert said[0][0].startswith("receipt: not kept")
    assert said[0][1] == 4
