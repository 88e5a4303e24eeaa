"""The cache of the layout: whole or empty, private, and never in the way of a boot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent import layout, opened
from agent.opened import Fact
from keybroker.wire.profile import Pin
from keybroker.wire.records import Device
from tests.crash.volumes import SIZE, record

RECORDS = (
    replace(
        record(),
        stage="ready",
        device=Device("disk-1", SIZE),
        pin=Pin(record().luks_uuid, "sha256:" + "0" * 64, 4096, 512),
    ),
    record("swap", filesystem="swap"),
)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    assert layout.save(tmp_path, RECORDS)
    assert layout.load(tmp_path) == layout.Layout(RECORDS)
    assert (tmp_path / layout.FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [layout.FILE]


def test_saving_the_same_again_writes_nothing(tmp_path: Path) -> None:
    layout.save(tmp_path, RECORDS)
    before = (tmp_path / layout.FILE).stat().st_ino
    assert not layout.save(tmp_path, RECORDS)
    assert (tmp_path / layout.FILE).stat().st_ino == before


def test_a_cache_that_is_not_there_is_empty_without_a_word(tmp_path: Path) -> None:
    assert layout.load(tmp_path) == layout.Layout()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'{"format": 2, "records": []}',
        b'{"format": 1, "records": [{}]}',
        b'{"format": 1, "records": [], "more": 1}',
        b'{"format": 1, "format": 1, "records": []}',
        b"\xff\xfe",
        b" " * (layout.LARGEST + 1),
    ],
)
def test_a_broken_cache_is_empty_with_a_warning_and_can_be_written_over(tmp_path: Path, text: bytes) -> None:
    (tmp_path / layout.FILE).write_bytes(text)
    loaded = layout.load(tmp_path)
    assert loaded.records == ()
    assert layout.FILE in loaded.warning
    assert layout.save(tmp_path, RECORDS)
    assert layout.load(tmp_path).records == RECORDS


def test_a_cache_that_names_a_volume_twice_is_broken(tmp_path: Path) -> None:
    twice = {"format": 1, "records": [RECORDS[0].as_json(), RECORDS[0].as_json()]}
    (tmp_path / layout.FILE).write_text(json.dumps(twice))
    assert "twice" in layout.load(tmp_path).warning


def test_a_cache_that_cannot_be_read_is_empty_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / layout.FILE).mkdir()
    assert "directory" in layout.load(tmp_path).warning


def test_what_cannot_be_written_leaves_the_old_whole_and_no_litter(tmp_path: Path) -> None:
    layout.save(tmp_path, RECORDS)
    with pytest.raises(OSError, match="directory"):
        layout.replace(tmp_path / "gone" / layout.FILE, b"new", mode=0o600)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        layout.replace(tmp_path / "taken", b"new", mode=0o600)
    assert sorted(path.name for path in tmp_path.iterdir()) == [layout.FILE, "taken"]
    assert layout.load(tmp_path).records == RECORDS


def test_a_fact_is_believed_of_the_device_it_was_written_about_only(tmp_path: Path) -> None:
    fact = Fact(record().volume, "253:0", 1_700_000_000, version=7, keyslot=1, sequence=12)
    opened.note(tmp_path, fact)
    assert opened.recall(tmp_path, record().volume, "253:0") == fact
    assert opened.recall(tmp_path, record().volume, "253:1") is None
    assert opened.recall(tmp_path, record("logs").volume, "253:0") is None
    opened.forget(tmp_path, record().volume)
    opened.forget(tmp_path, record().volume)
    assert opened.recall(tmp_path, record().volume, "253:0") is None


def test_a_fact_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    opened.note(tmp_path, Fact(record().volume, "253:0", 1))
    path = next(tmp_path.rglob("*.json"))
    path.write_text("{")
    assert opened.recall(tmp_path, record().volume, "253:0") is None
