"""The chain shows every edit, gap, swap and insertion, wherever it is."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keybroker.audit import START, AuditEntry, AuditEvent, link, rfc3339, verify
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import MAIN

NOW = datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)
EVENT = AuditEvent(NOW, "spiffe://example.org/host/h", "ab", "192.0.2.1", "unlock", "released", "shop")


def chain(length: int) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    previous = START
    for sequence in range(1, length + 1):
        event = replace(EVENT, detail={"n": sequence})
        entries.append(link(event, sequence, previous))
        previous = entries[-1].hash
    return entries


GOOD = chain(6)


def broken(entries: list[AuditEntry]) -> str:
    with pytest.raises(KeybrokerError) as caught:
        verify(entries)
    assert caught.value.problem is Problem.CORRUPT
    return caught.value.detail


def test_an_untouched_chain_verifies_from_anywhere() -> None:
    assert verify([]) == (0, START)
    assert verify(GOOD) == (6, GOOD[-1].hash)
    assert verify(GOOD[3:], 3, GOOD[2].hash) == (6, GOOD[-1].hash)


CHANGED = {"sequence": 7, "previous": "0" * 64, "hash": "f" * 64}


@pytest.mark.parametrize("position", range(6))
@pytest.mark.parametrize("name", [field.name for field in fields(AuditEntry)])
def test_no_field_of_any_record_can_be_changed(position: int, name: str) -> None:
    first = (position, name) == (0, "previous")
    change = "1" * 64 if first else CHANGED.get(name, "changed")
    entries = list(GOOD)
    entries[position] = replace(entries[position], **{name: change})  # type: ignore[arg-type]
    named = f"changed/{position + 1}" if name == "writer" else f"{position + 1}"
    assert f"audit record {named}:" in broken(entries)


@pytest.mark.parametrize("position", range(6))
@pytest.mark.parametrize("name", ["detail", "outcome", "volume"])
def test_making_a_changed_record_s_hash_right_breaks_the_next(position: int, name: str) -> None:
    changed = replace(GOOD[position], **{name: "changed"})  # type: ignore[arg-type]
    entries = [*GOOD[:position], replace(changed, hash=changed.recomputed), *GOOD[position + 1 :]]
    if position == 5:
        assert verify(entries) != verify(GOOD), "only a receipt shows this one, and it does"
    else:
        assert f"audit record {position + 2}: does not follow" in broken(entries)


@pytest.mark.parametrize("position", range(5))
def test_no_record_can_be_left_out_swapped_or_doubled(position: int) -> None:
    without = GOOD[:position] + GOOD[position + 1 :]
    assert f"audit record {position + 1}: is missing" in broken(without)
    swapped = [*GOOD[:position], GOOD[position + 1], GOOD[position], *GOOD[position + 2 :]]
    assert f"audit record {position + 1}: is missing" in broken(swapped)
    assert broken([*GOOD[: position + 1], *GOOD[position:]])


texts = st.none() | st.text(max_size=8)


@given(st.lists(texts, min_size=3, max_size=3), st.lists(texts, min_size=3, max_size=3))
def test_two_different_records_never_hash_the_same_bytes(
    one: list[str | None], other: list[str | None]
) -> None:
    def hashed(values: list[str | None]) -> str:
        addon, volume, host = values
        return link(replace(EVENT, addon=addon, volume=volume, host=host), 1, START).hash

    assert (one == other) == (hashed(one) == hashed(other))


def test_a_record_of_before_there_were_several_writers_has_the_hash_that_it_had() -> None:
    """The numbers are of a record that version 0.1.0 wrote."""
    entry = link(EVENT, 1, START)
    assert entry.writer == MAIN
    assert entry.hash == "b38fdebc006426e5f3e914d99652d50c108c0cc7951aa734f91af78b19c0e4b2"


def test_no_record_fits_into_the_chain_of_another_writer() -> None:
    there = link(EVENT, 1, START, "b2")
    assert there.hash != link(EVENT, 1, START).hash != link(EVENT, 1, START, "b3").hash
    for writer in (MAIN, "b3"):
        assert broken([replace(there, writer=writer)]).endswith(
            "/1: was changed" if writer != MAIN else "1: was changed"
        )


def test_a_record_s_wire_form_has_everything_that_its_hash_needs() -> None:
    entry = GOOD[2]
    shown = entry.as_json()
    assert set(shown) == {field.name for field in fields(AuditEntry)}
    assert shown["at"] == "2026-01-31T12:00:00.000005Z" == rfc3339(NOW)
    assert shown["detail"] == {"n": 3}
