"""Disks made of files, for tests on the host and inside User-Mode Linux; both need root."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20


def image(path: Path, size: int = 32 * MIB, pieces: dict[int, bytes] | None = None) -> Path:
    """Make a sparse file of zeros, with a few bytes in some places."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset, piece in (pieces or {}).items():
            file.seek(offset)
            file.write(piece)
    return path


@contextmanager
def loop(path: Path, *options: str) -> Iterator[Path]:
    """Attach an image to a loop device while the block runs; ``options`` are losetup's."""
    command = ["losetup", "--find", "--show", *options, str(path)]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def fingerprint(path: Path) -> str:
    """Return the hash of all that is in an image or on a device."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
