"""Where built trees and images are kept: outside the checkout, so that a fresh clone finds them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def directory() -> Path:
    """Return the cache's directory: $XDG_CACHE_HOME/keybroker, or ~/.cache/keybroker; made if need be."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = base / "keybroker"
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    return place


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Let one process at a time build; the kernel lets go of the lock when its holder dies."""
    with (directory() / f"{name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
