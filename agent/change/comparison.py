"""Whether two devices hold the same bytes, also while something writes to both of them.

A write through a mirror reaches its legs one after the other, so two honest legs can differ for a moment.
What differs is looked at again, block by block, and at last while nothing can write: only that counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

from agent.change.blocks import CHUNK, Blocks, alike
from agent.change.workshop import Watch

BLOCK: Final = 4096
"""Bytes that are compared as one when a chunk differs."""

LOOKS: Final = 12
"""How often a block that differs is looked at again before the writers are made to wait."""

NAP_SECONDS: Final = 0.02


def compare(
    source: Blocks,
    target: Blocks,
    size_bytes: int,
    *,
    quiet: Callable[[], AbstractContextManager[None]],
    watch: Watch,
) -> int | None:
    """Compare the first ``size_bytes`` of two devices.

    Args:
        quiet: while its block runs, nothing is written to either.
        watch: is told after each chunk.

    Returns:
        The offset of a block that differs though nothing writes; None where there is none.
    """
    for offset in range(0, size_bytes, CHUNK):
        length = min(CHUNK, size_bytes - offset)
        differing = _differing(source, target, offset, length)
        if differing and (place := _settled(source, target, differing, size_bytes, quiet)) is not None:
            return place
        watch(offset + length, size_bytes)
    return None


def _settled(
    source: Blocks,
    target: Blocks,
    differing: list[int],
    size_bytes: int,
    quiet: Callable[[], AbstractContextManager[None]],
) -> int | None:
    for _ in range(LOOKS):
        time.sleep(NAP_SECONDS)
        differing = list(_still(source, target, differing, size_bytes))
        if not differing:
            return None
    with quiet():
        return next(_still(source, target, differing, size_bytes), None)


def _still(source: Blocks, target: Blocks, places: list[int], size_bytes: int) -> Iterator[int]:
    for place in places:
        length = min(BLOCK, size_bytes - place)
        if not alike(source.look(place, length), target.look(place, length)):
            yield place


def _differing(source: Blocks, target: Blocks, offset: int, length: int) -> list[int]:
    here, there = source.look(offset, length), target.look(offset, length)
    if alike(here, there):
        return []
    return [offset + at for at in range(0, length, BLOCK) if here[at : at + BLOCK] != there[at : at + BLOCK]]
