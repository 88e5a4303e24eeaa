"""What keeps the memory of a process that holds keys out of files, and from others of its user."""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_SPECIAL: Final = 1


def leave_no_core() -> None:
    """Let a crash of this process leave no core file.

    A limit of 0 keeps a core from a file, but not from a program that core_pattern names (core(5), "Piping
    core dumps to a program"); a limit of one byte keeps it from both (Linux, fs/coredump.c, do_coredump). Not
    being dumpable would do it, too, but takes /proc/self/fd from whoever is not root, and with it
    ``--identity /dev/stdin``.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = hard if hard == 0 else _SPECIAL
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def keep_memory_private() -> str | None:
    """Let this process leave no core file, and no other process of its user read its memory.

    A process that is not dumpable leaves no core however it is taken, and its /proc/PID/mem is root's
    (prctl(2)).

    Returns:
        Why others can read it, where they can; None where all is well.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        return os.strerror(ctypes.get_errno())
    return None
