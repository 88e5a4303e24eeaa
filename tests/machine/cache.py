"""Where built trees and images are kept: outside the checkout, so that a fresh clone finds them."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def directory() -> Path:
    """Return the cache's directory: $XDG_CACHE_HOME/keybroker, or ~/.cache/keybroker; made if need be."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = base / "keybroker"
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    return place


def sources(root: Path, names: Iterable[str]) -> Iterator[Path]:
    """Yield the files that something is built from, by their names in a checkout and those of directories."""
    for name in names:
        found = [root / name] if (root / name).is_file() else sorted((root / name).rglob("*"))
        yield from (file for file in found if file.is_file() and "__pycache__" not in file.parts)


def digest(root: Path, files: Iterable[Path], recipe: str = "") -> str:
    """Return what names a thing that was built from these files, by this recipe."""
    summed = hashlib.sha256(recipe.encode())
    for file in files:
        summed.update(f"\0{file.relative_to(root)}\0".encode())
        summed.update(file.read_bytes())
    return summed.hexdigest()[:16]


def age(built: Path) -> float:
    """Return when something was built, for sorting."""
    return built.stat().st_mtime


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Let one process at a time build; the kernel lets go of the lock when its holder dies."""
    with (directory() / f"{name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
