"""Copying one device onto another, on files that stand for them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from agent.change.blocks import CHUNK, Blocks
from agent.change.comparison import compare
from agent.change.duplicate import PROBE, duplicate

CHUNKS = PROBE + 3


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Blocks, Blocks]]:
    """A source with something in each of its chunks, and a target that is blank."""
    made = []
    for name in ("source", "target"):
        file = tmp_path / name
        file.touch()
        os.truncate(file, CHUNKS * CHUNK)
        made.append(Blocks(file, writable=True))
    source, target = made
    for number in range(CHUNKS):
        source.write(number * CHUNK, random.Random(number).randbytes(4096))
    yield source, target
    source.close()
    target.close()


def difference(source: Blocks, target: Blocks) -> int | None:
    return compare(source, target, source.size_bytes, quiet=nullcontext, watch=lambda done, total: None)


def copied(pair: tuple[Blocks, Blocks]) -> int:
    """Copy, hold that both are alike now, and return how many chunks were written."""
    source, target = pair
    written = duplicate(source, target, source.size_bytes, watch=lambda done, total: None)
    assert difference(source, target) is None
    return written // CHUNK


def test_a_copy_that_was_cut_writes_what_was_still_to_come(pair: tuple[Blocks, Blocks]) -> None:
    source, target = pair
    for number in range(20):
        target.write(number * CHUNK, source.read(number * CHUNK, CHUNK))
    assert copied(pair) == CHUNKS - 20
    assert copied(pair) == 0


@pytest.mark.parametrize("at", [1, PROBE])
def test_one_chunk_that_differs_is_found_wherever_it_is(pair: tuple[Blocks, Blocks], at: int) -> None:
    source, target = pair
    copied(pair)
    target.write(at * CHUNK + CHUNK - 512, bytes([1]) * 512)
    assert difference(source, target) == at * CHUNK + CHUNK - 4096
    assert copied(pair) == min(PROBE - at % PROBE, CHUNKS - at)


def test_a_rate_is_kept(pair: tuple[Blocks, Blocks]) -> None:
    source, target = pair
    begun = time.monotonic()
    duplicate(source, target, 4 * CHUNK, rate=32 * CHUNK, watch=lambda done, total: None)
    assert time.monotonic() - begun >= 4 / 32
