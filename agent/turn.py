"""One agent at a time at the devices of one volume: a run by hand beside the unit's, a ``lock`` beside both.

Every step looks again before it acts (``agent.world``): whoever had to wait for its turn finds the work done.
A whole course of changes (``agent.change``) may take hours, with many turns in it; who finds another agent
at that does not wait.
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
    fd = _open(runtime, f"{volume}.lock")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def alone(runtime: Path, volume: VolumeId | str) -> Iterator[None]:
    """Be the only agent that changes a volume, for as long as that takes.

    Args:
        runtime: the agent's runtime directory.
        volume: its id, or what else only one agent may be at.

    Raises:
        KeybrokerError: BUSY where another agent is at it; CONFIGURATION where the file cannot be had.
    """
    fd = _open(runtime, f"{volume}.course")
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KeybrokerError(
                Problem.BUSY,
                f"{volume}: another agent is changing it",
                hint="systemctl status keybroker-agent-settle.service",
            ) from None
        yield
    finally:
        os.close(fd)


def _open(runtime: Path, name: str) -> int:
    file = runtime / name
    try:
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise KeybrokerError(Problem.CONFIGURATION, f"{file}: {error.strerror}") from error
