"""Text from outside: what is not text is refused at the door, and a terminal gets none of its tricks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from keybroker.cli.screen import print_facts, print_table
from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem

LONE = "\ud800"
TRICKS = "\x1b[2J\x1b]0;title\x07\n17  2026-01-01 00:00:00Z  unlock\r\x00\u202e\u2028"


@pytest.mark.parametrize(
    ("message", "read"),
    [
        ({"a": LONE}, lambda fields: fields.text("a")),
        ({"a": "\udfff\ud800"}, lambda fields: fields.text("a")),
        ({"a": ["x", LONE]}, lambda fields: fields.texts("a")),
        ({"a": {"1": LONE}}, lambda fields: fields.pairs("a")),
        ({"a": {LONE: "x"}}, lambda fields: fields.pairs("a")),
    ],
)
def test_half_a_surrogate_pair_is_no_text(message: object, read: Callable[[Fields], Any]) -> None:
    # JSON can write one, UTF-8 cannot: neither the hash of a record nor the database could take it
    with pytest.raises(KeybrokerError) as refused:
        read(Fields.parse(json.dumps(message)))
    assert refused.value.problem is Problem.MALFORMED
    refused.value.detail.encode()


def test_a_whole_surrogate_pair_is_one_character() -> None:
    assert Fields.parse(b'{"a": "\\ud83d\\udd11"}').text("a", most=1) == "\U0001f511"


def test_a_cell_of_a_table_cannot_draw_a_row_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("WHAT", "DETAIL"), [("1", f"why={TRICKS}"), ("2", "é ü 鍵")])
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    assert lines[2].endswith("é ü 鍵")


def test_a_fact_cannot_draw_another(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts([("reason", TRICKS), ("other", None)])
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
