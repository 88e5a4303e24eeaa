"""What a process does before it holds a key: no core dumps, no peeking by its own user, no pages in swap.

ctypes costs 2 ms here; Python has no other way to prctl(2) and mlockall(2). All of it is best effort: in a
container that forbids mlockall the disks are to open all the same, and swap is encrypted or absent.
"""

from __future__ import annotations

import ctypes
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT_FUTURE_ONFAULT: Final = 1 | 2 | 4
"""On fault: without it, locking would touch every page of every library, and 8 MiB a thread."""


def harden() -> tuple[str, ...]:
    """Do it, and return what could not be done, in words."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    failed = []
    # also keeps other processes of the same user out of /proc/PID/mem (prctl(2), proc(5))
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        failed.append(f"prctl: errno {ctypes.get_errno()}")
    if libc.mlockall(_MCL_CURRENT_FUTURE_ONFAULT) != 0:
        failed.append(f"mlockall: errno {ctypes.get_errno()}")
    return tuple(failed)
