"""A trail of 1,000 records by three writers: what was done to any one is found, whoever wrote it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cache

import pytest

from keybroker import checkpoint
from keybroker.audit import START, AuditEntry, Head, link
from keybroker.checkpoint import Checkpoint
from keybroker.proofreading import Note, Proofreader, merged
from keybroker.verdict import Verdict
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import MAIN
from tests.unit.test_audit_proofreading import EVENT, NOW, TRUSTED, signed

LENGTH, EVERY, AROUND = 1000, 100, 9
WRITERS = (MAIN, "b2", "b3")

Chains = dict[str, list[AuditEntry]]


@cache
def good() -> tuple[AuditEntry, ...]:
    """Return the records in the order in which they were written."""
    heads = dict.fromkeys(WRITERS, (0, START))
    chance, entries = random.Random(5), []
    for n in range(LENGTH):
        writer = chance.choice(WRITERS)
        event = replace(EVENT, at=NOW + timedelta(seconds=n), detail={"n": n})
        entries.append(link(event, heads[writer][0] + 1, heads[writer][1], writer))
        heads[writer] = entries[-1].sequence, entries[-1].hash
    return tuple(entries)


@cache
def good_notes() -> tuple[Note, ...]:
    notes: list[Note] = []
    last: Checkpoint | None = None
    for n in range(EVERY, LENGTH + 1, EVERY):
        heads = {entry.writer: Head(entry.writer, entry.sequence, entry.hash) for entry in good()[:n]}
        last = checkpoint.after(last, "example.org", NOW, tuple(heads.values()))
        notes.append(signed(last))
    return tuple(notes)


def chains_of(entries: tuple[AuditEntry, ...]) -> Chains:
    return {writer: [entry for entry in entries if entry.writer == writer] for writer in WRITERS}


def read(
    chains: Chains,
    notes: tuple[Note, ...] = (),
    first: dict[str, int] | None = None,
    known: dict[tuple[str, int], str] | None = None,
) -> Verdict:
    reader = Proofreader(TRUSTED, known or {}, first=first or {})
    for item in merged(chains, notes):
        reader.take(item)
    return reader.verdict()


def broken(*given: object, **named: object) -> str:
    with pytest.raises(KeybrokerError) as caught:
        read(*given, **named)  # type: ignore[arg-type]
    assert caught.value.problem is Problem.CORRUPT
    return caught.value.detail


def test_an_untouched_trail_is_whole_and_comes_back_in_the_order_of_its_times() -> None:
    chains = chains_of(good())
    verdict = read(chains, good_notes())
    assert (verdict.records, verdict.checkpoints) == (LENGTH, 10)
    assert [chain.writer for chain in verdict.chains] == sorted(WRITERS)
    assert all(chain.covered == chain.last == len(chains[chain.writer]) for chain in verdict.chains)
    assert any("which of two records of different writers was first" in words for words in verdict.unseen)
    assert tuple(item for item in merged(chains, good_notes()) if isinstance(item, AuditEntry)) == good()


def flip(chain: list[AuditEntry], i: int, _other: AuditEntry) -> list[AuditEntry]:
    return [*chain[:i], replace(chain[i], outcome="denied"), *chain[i + 1 :]]


def drop(chain: list[AuditEntry], i: int, _other: AuditEntry) -> list[AuditEntry]:
    return chain[:i] + chain[i + 1 :]


def swap(chain: list[AuditEntry], i: int, _other: AuditEntry) -> list[AuditEntry]:
    j = i + 1 if i + 1 < len(chain) else i - 1
    changed = list(chain)
    changed[i], changed[j] = changed[j], changed[i]
    return changed


def insert(chain: list[AuditEntry], i: int, _other: AuditEntry) -> list[AuditEntry]:
    before = chain[i]
    return [*chain[:i], link(EVENT, before.sequence, before.previous, before.writer), *chain[i:]]


def take_over(chain: list[AuditEntry], i: int, other: AuditEntry) -> list[AuditEntry]:
    """Put a record of another chain in the place of this one."""
    mine = chain[i]
    moved = replace(other, writer=mine.writer, sequence=mine.sequence, previous=mine.previous)
    return [*chain[:i], moved, *chain[i + 1 :]]


@pytest.mark.parametrize("tamper", [flip, drop, swap, insert, take_over])
def test_what_was_done_to_a_record_is_found_and_named_at_each_position(
    tamper: Callable[[list[AuditEntry], int, AuditEntry], list[AuditEntry]],
) -> None:
    for n, entry in enumerate(good()):
        # a few records around it: what comes earlier or later is the same each time
        window = good()[max(0, n - AROUND) : n + AROUND]
        chains = chains_of(window)
        chain = chains[entry.writer]
        other = next(one for one in window if one.writer != entry.writer)
        first = {writer: part[0].sequence for writer, part in chains.items() if part}
        known = {(writer, part[-1].sequence): part[-1].hash for writer, part in chains.items() if part}
        if tamper is swap and len(chain) == 1:
            continue
        assert read(chains, (), first, known).records == len(window)
        i = chain.index(entry)
        said = broken({**chains, entry.writer: tamper(chain, i, other)}, (), first, known)
        named = said.partition(":")[0].removeprefix("audit record ")
        near = {one.name for one in chain[max(0, i - 1) : i + 2]}
        assert named == entry.name if tamper in (flip, drop, take_over) else named in near, said


def test_a_chain_that_was_made_anew_is_found_at_the_next_checkpoint_whoever_signed_it() -> None:
    for writer in WRITERS:
        chains = chains_of(good())
        chain = chains[writer]
        for i in range(0, len(chain) - EVERY, 41):
            forged, previous = chain[:i], chain[i].previous
            for entry in chain[i:]:
                forged.append(
                    link(replace(EVENT, detail={"of": entry.detail}), entry.sequence, previous, writer)
                )
                previous = forged[-1].hash
            said = broken({**chains, writer: forged}, good_notes())
            assert said.startswith("audit record " if writer == MAIN else f"audit record {writer}/")
            assert "it, or one of those up to" in said


def test_a_chain_that_was_taken_away_is_found() -> None:
    for writer in WRITERS:
        chains = chains_of(good())
        name = "1" if writer == MAIN else f"{writer}/1"
        for left in ({**chains, writer: []}, {one: chains[one] for one in WRITERS if one != writer}):
            assert broken(left, good_notes()).startswith(f"audit record {name}: is missing, checkpoint 1")


def test_a_tail_of_one_chain_that_was_cut_is_found_though_the_others_go_on() -> None:
    chains = chains_of(good())
    cut = {**chains, "b2": chains["b2"][:-1]}
    last = chains["b2"][-1]
    assert broken(cut, good_notes()).startswith(
        f"audit record {last.name}: is missing, checkpoint 10 has seen"
    )
    assert read(cut, good_notes()[:9]).records == LENGTH - 1
    held = {("b2", last.sequence): last.hash}
    assert "is missing, the receipt has record" in broken(cut, good_notes()[:9], known=held)


def test_a_checkpoint_that_leaves_a_writer_out_or_sets_one_back_is_found() -> None:
    chains, fifth = chains_of(good()), good_notes()[4].checkpoint
    assert fifth is not None
    tail = good_notes()[5:]
    without = replace(fifth, heads=tuple(head for head in fifth.heads if head.writer != "b3"))
    for changed in (without, replace(fifth, heads=good_notes()[3].checkpoint.heads)):  # type: ignore[union-attr]
        said = broken(chains, (*good_notes()[:4], signed(changed), *tail))
        assert said.startswith("checkpoint 5: has seen no")


@pytest.mark.parametrize("begin", [1, 150, 333])
def test_a_part_is_read_from_anywhere_in_each_chain(begin: int) -> None:
    part = chains_of(good()[begin - 1 :])
    first = {writer: chain[0].sequence for writer, chain in part.items()}
    notes = tuple(note for note in good_notes() if any(note.place[one] >= first[one] - 1 for one in WRITERS))
    verdict = read(part, notes, first)
    assert verdict.records == LENGTH - begin + 1
    assert all(chain.covered == chain.last for chain in verdict.chains)
