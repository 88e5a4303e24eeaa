"""Copying a device that nothing uses onto another: what the target has already is left as it is.

So there is nothing to remember: cut anywhere and begun again, it finds by comparing how far it was. Comparing
costs a read of the target, so after a chunk that differs it is left off, and tried again now and then.
"""

from __future__ import annotations

import time
from typing import Final

from agent.change.blocks import CHUNK, Blocks, alike
from agent.change.workshop import Watch

PROBE: Final = 64
"""Chunks after which comparing is tried again."""


def duplicate(
    source: Blocks, target: Blocks, size_bytes: int, *, rate: int | None = None, watch: Watch
) -> int:
    """Make the first ``size_bytes`` of the target what the source's are, durably.

    Args:
        rate: most bytes a second; None for as fast as it goes.
        watch: is told after each chunk.

    Returns:
        How many bytes were written.
    """
    written, is_alike, begun = 0, True, time.monotonic()
    for number, offset in enumerate(range(0, size_bytes, CHUNK)):
        length = min(CHUNK, size_bytes - offset)
        held = source.look(offset, length)
        is_alike = (is_alike or number % PROBE == 0) and alike(held, target.look(offset, length))
        if not is_alike:
            target.take(offset, source, length)
            written += length
        watch(offset + length, size_bytes)
        if rate is not None:
            time.sleep(max(0.0, begun + (offset + length) / rate - time.monotonic()))
    target.flush()
    return written
