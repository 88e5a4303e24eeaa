"""What was done to a trail of 1,000 records is found, at each position; and what cannot be found is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest

from keybroker import checkpoint, statement
from keybroker.audit import START, AuditEntry, AuditEvent, Head, link
from keybroker.checkpoint import Checkpoint
from keybroker.proofreading import Item, Note, Proofreader
from keybroker.proofreading import merged as merged_chains
from keybroker.verdict import Stretch, Verdict
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import MAIN
from keybroker.wire.secret import Secret

LENGTH = 1000
EVERY = 100
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
KEY, OTHER_KEY = Secret(b"k" * 32), Secret(b"o" * 32)
EVENT = AuditEvent(NOW, "spiffe://example.org/host/kbh-aaaaaaaaaaaa", "ab", "192.0.2.1", "unlock", "released")


def chain(events: Iterable[AuditEvent], sequence: int = 0, previous: str = START) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    for event in events:
        sequence += 1
        entries.append(link(event, sequence, previous))
        previous = entries[-1].hash
    return entries


def signed(made: Checkpoint, key: Secret = KEY) -> Note:
    public = statement.public_key(key)
    return Note(checkpoint.seal(made.text, made.origin, statement.sign(key, made.text), public), public)


def notes_of(entries: list[AuditEntry], key: Secret = KEY) -> list[Note]:
    notes: list[Note] = []
    last: Checkpoint | None = None
    for entry in entries:
        if entry.sequence % EVERY == 0:
            last = checkpoint.after(last, "example.org", NOW, (Head(MAIN, entry.sequence, entry.hash),))
            notes.append(signed(last, key))
    return notes


@cache
def good() -> list[AuditEntry]:
    return chain(replace(EVENT, detail={"n": n}) for n in range(LENGTH))


@cache
def good_notes() -> list[Note]:
    return notes_of(good())


TRUSTED = frozenset({statement.fingerprint(statement.public_key(KEY))})


def merged(entries: Iterable[AuditEntry], notes: Iterable[Note]) -> Iterator[Item]:
    return merged_chains({MAIN: entries}, notes)


def read(items: Iterable[Item], known: dict[int, str] | None = None, first: int | None = 1) -> Verdict:
    kept = {(MAIN, sequence): found for sequence, found in (known or {}).items()}
    reader = Proofreader(TRUSTED, kept, first=None if first is None else {MAIN: first})
    for item in items:
        reader.take(item)
    return reader.verdict()


def broken(items: Iterable[Item], known: dict[int, str] | None = None, first: int | None = 1) -> str:
    with pytest.raises(KeybrokerError) as caught:
        read(items, known, first)
    assert caught.value.problem is Problem.CORRUPT
    return caught.value.detail


def test_an_untouched_trail_is_whole() -> None:
    verdict = read(merged(good(), good_notes()))
    assert verdict.chains == (Stretch(MAIN, 1, LENGTH, good()[-1].hash, LENGTH),)
    assert (verdict.checkpoints, verdict.records, verdict.vouched) == (10, LENGTH, True)
    assert set(verdict.signers) == TRUSTED
    assert not any("newer than the last checkpoint" in words for words in verdict.unseen)


def flip(entries: list[AuditEntry], i: int) -> list[AuditEntry]:
    return [*entries[:i], replace(entries[i], actor="spiffe://example.org/operator/eve"), *entries[i + 1 :]]


def drop(entries: list[AuditEntry], i: int) -> list[AuditEntry]:
    return entries[:i] + entries[i + 1 :]


def swap(entries: list[AuditEntry], i: int) -> list[AuditEntry]:
    j = i + 1 if i + 1 < len(entries) else i - 1
    changed = list(entries)
    changed[i], changed[j] = changed[j], changed[i]
    return changed


def insert(entries: list[AuditEntry], i: int) -> list[AuditEntry]:
    return [*entries[:i], *chain([EVENT], i, entries[i].previous), *entries[i:]]


@pytest.mark.parametrize("tamper", [flip, drop, swap, insert])
def test_a_record_flipped_dropped_swapped_or_put_in_is_found_and_named_at_each_position(
    tamper: Callable[[list[AuditEntry], int], list[AuditEntry]],
) -> None:
    named = []
    for i in range(LENGTH):
        # from the page before: what comes earlier was read already, and is the same each time
        begin = max(0, i - 3)
        said = broken(tamper(good(), i)[begin:], {LENGTH: good()[-1].hash}, begin + 1)
        named.append(int(said.partition(":")[0].split()[-1]))
    expected = {
        "flip": list(range(1, LENGTH + 1)),
        "drop": list(range(1, LENGTH + 1)),
        "swap": [*range(1, LENGTH), LENGTH - 1],
        "insert": [*range(2, LENGTH + 1), LENGTH],
    }
    assert named == expected[tamper.__name__]


@pytest.mark.parametrize("tamper", [flip, drop, insert])
def test_a_trail_whose_hashes_were_all_made_anew_is_found_at_the_next_checkpoint(
    tamper: Callable[[list[AuditEntry], int], list[AuditEntry]],
) -> None:
    for i in range(0, LENGTH - EVERY, 37):
        events = [
            replace(EVENT, actor=entry.actor, detail={"of": entry.detail}) for entry in tamper(good(), i)[i:]
        ]
        before = good()[:i]
        forged = before + chain(events, i, before[-1].hash if before else START)
        said = broken(merged(forged, good_notes()))
        first = i // EVERY * EVERY + 1
        assert said.startswith(f"audit record {first}: it, or one of those up to {first + EVERY - 1}")


@pytest.mark.parametrize("gone", range(9))
def test_a_checkpoint_that_was_left_out_is_found(gone: int) -> None:
    notes = [*good_notes()[:gone], *good_notes()[gone + 1 :]]
    assert broken(merged(good(), notes)) == f"checkpoint {gone + 1}: is missing, {gone + 2} is next"


def test_a_checkpoint_of_another_trail_or_by_another_key_is_found() -> None:
    notes = list(good_notes())
    renamed = checkpoint.after(None, "example.org", NOW, (Head(MAIN, EVERY, good()[EVERY - 1].hash),))
    notes[4] = signed(replace(renamed, number=5))
    assert broken(merged(good(), notes)) == "checkpoint 5: does not follow the checkpoint before it"
    assert "is signed by another key" in broken(merged(good(), notes_of(good(), OTHER_KEY)))
    swapped = [*good_notes()[:3], good_notes()[4], good_notes()[3], *good_notes()[5:]]
    assert broken(merged(good(), swapped)).startswith("checkpoint ")
    again = [*good_notes(), signed(checkpoint.after(good_notes()[-1].checkpoint, "example.org", NOW,
                                                    (Head(MAIN, LENGTH, good()[-1].hash),)))]  # fmt: skip
    assert "has seen no more records" in broken(merged(good(), again))


def test_no_byte_of_a_checkpoint_can_be_changed() -> None:
    note = good_notes()[0]
    for i in range(len(note.text)):
        changed = note.text[:i] + ("0" if note.text[i] != "0" else "1") + note.text[i + 1 :]
        assert broken([*good()[:EVERY], Note(changed, note.public)]).startswith("checkpoint 1")


def test_a_tail_cut_off_is_found_by_a_checkpoint_or_a_receipt_and_else_not_and_that_is_said() -> None:
    cut = good()[:950]
    assert broken(merged(cut, good_notes())) == (
        "audit record 951: is missing, checkpoint 10 has seen records up to 1000"
    )
    said = broken(merged(cut, good_notes()[:9]), {980: good()[979].hash})
    assert said.startswith("audit record 951: is missing, the receipt has record 980")
    verdict = read(merged(cut, good_notes()[:9]))
    assert verdict.of().covered == 900
    assert "records 901 to 950 are newer than the last checkpoint" in verdict.unseen[0]
    assert "records after 950, with the checkpoints after 9, would leave no trace" in verdict.unseen[1]


def test_a_trail_made_anew_with_the_signing_key_is_found_by_a_receipt_alone() -> None:
    forged = chain(replace(EVENT, detail={"n": -n}) for n in range(LENGTH))
    assert read(merged(forged, notes_of(forged))).records == LENGTH
    assert any("made anew by whoever holds the signing key" in words for words in read(forged).unseen)
    said = broken(merged(forged, notes_of(forged)), {500: good()[499].hash})
    assert said.startswith("audit record 500: has another hash than in the receipt")


@pytest.mark.parametrize("first", [2, 100, 101, 150, 200])
def test_a_part_of_a_trail_is_read_from_anywhere(first: int) -> None:
    part = good()[first - 1 : 700]
    notes = [note for note in good_notes() if first - 1 <= note.place[MAIN] <= 700]
    assert read(merged(part, notes), first=None) == read(merged(part, notes), first=first)
    assert broken(merged(part, notes)).startswith("audit record 1: is missing")
    verdict = read(merged(part, notes), first=first)
    assert verdict.of() == Stretch(MAIN, first, 700, good()[699].hash, 700)
    assert f"records 1 to {first - 1}: they are not in this" in verdict.unseen
    assert "1000" not in " ".join(verdict.unseen)


def test_a_part_that_begins_right_after_a_checkpoint_is_held_to_it() -> None:
    forged = chain([replace(EVENT, detail={"n": 0})] * 100) + good()[100:200]
    relinked = chain((replace(EVENT, detail={"n": n}) for n in range(100, 200)), 100, forged[99].hash)
    for first in (None, 101):
        said = broken(merged(relinked, good_notes()[:2]), first=first)
        assert said == "audit record 101: does not follow the record before it"


def test_records_of_a_writer_that_is_not_known_are_not_passed_over() -> None:
    two = checkpoint.after(None, "example.org", NOW,
                           (Head(MAIN, 10, good()[9].hash), Head("b2", 3, "ab" * 32)))  # fmt: skip
    assert [head.writer for head in two.heads] == ["b2", MAIN]
    assert Checkpoint.parse(two.text) == two
    assert broken([*good()[:10], signed(two)]) == (
        "audit record b2/1: is missing, checkpoint 1 has seen records up to b2/3"
    )


def test_the_signature_line_is_that_of_a_signed_note() -> None:
    """C2SP signed-note: an em dash, the key's name, and base64 of its id and the signature over the text."""
    note = good_notes()[0]
    text, _, line = note.text.rpartition("\n\n")
    assert line.startswith("— example.org/audit ")
    assert line.endswith("\n")
    assert Checkpoint.parse(text + "\n").number == 1
    name, key_id, key = checkpoint.verifier_key("example.org/audit", note.public).split("+", 2)
    assert (name, len(key_id), len(key)) == ("example.org/audit", 8, 44)


@pytest.mark.parametrize(
    ("last", "sequence", "seconds", "due"),
    [
        (None, 0, 0, False),
        (None, 1, 0, True),
        (100, 100, 3600, False),
        (100, 101, 59, False),
        (100, 101, 60, True),
        (100, 1099, 0, False),
        (100, 1100, 0, True),
        (100, 101, -1, True),
        (100, 100, -1, False),
    ],
)
def test_a_checkpoint_is_due_by_number_or_by_time_and_only_for_new_records(
    last: int | None, sequence: int, seconds: float, due: bool
) -> None:
    before = None
    if last is not None:
        before = checkpoint.after(None, "example.org", NOW, (Head(MAIN, last, "ab" * 32),))
    now = NOW + timedelta(seconds=seconds)
    heads = [Head(MAIN, sequence, "cd" * 32)] if sequence else []
    assert checkpoint.is_due(before, heads, now, 1000, timedelta(seconds=60)) is due


def test_what_is_not_a_record_or_a_checkpoint_is_told_from_one() -> None:
    entry = good()[3]
    assert AuditEntry.read(entry.as_json()) == entry
    for detail in ('{"b": 1}', "nothing", "[1]", '{"a":1,"a":2}'):
        odd = replace(entry, detail=detail)
        assert AuditEntry.read(odd.as_json()) == odd
    changes: tuple[dict[str, object], ...] = ({"sequence": "4"}, {"sequence": True}, {"actor": None})
    unreadable: list[object] = [[], {}, *({**entry.as_json(), **change} for change in changes)]
    for wrong in unreadable:
        with pytest.raises(KeybrokerError):
            AuditEntry.read(wrong)
    note = good_notes()[0]
    assert Note.read(note.as_json()) == note
    unreadable = [[], {}, {**note.as_json(), "signer": "none"}]
    for wrong in unreadable:
        with pytest.raises(KeybrokerError):
            Note.read(wrong)
    assert broken([*good()[:3], Note("nothing", note.public)]) == "checkpoint 1: cannot be read"
