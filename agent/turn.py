"""One agent at a time at the devices of one volume: a run by hand beside the unit's, a ``lock`` beside both.

Every step looks again before it acts (``agent.world``): whoever had to wait for its turn finds the work done.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem


@contextmanager
def turn(runtime: Path, volume: VolumeId | str) -> Iterator[None]:
    """Hold off every other agent of this machine from a volume's devices.

    The wait ends: whoever holds the turn runs programs under a time limit, and a process that ends lets go.

    Args:
        runtime: the agent's runtime directory.
        volume: its id; the name of its device where nobody knows that.

    Raises:
        KeybrokerError: CONFIGURATION where the file cannot be had.
    """
    file = runtime / f"{volume}.lock"
    try:
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise KeybrokerError(Problem.CONFIGURATION, f"{file}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
