"""A start where not everything is there yet: what comes by itself is waited for, and said."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Final

from keybroker.wire.problems import KeybrokerError

PAUSE_SECONDS: Final = 2.0
_EXTEND_SECONDS: Final = 60
"""What the service manager is asked for at each try, above its own limit for a start (sd_notify(3))."""

_log = logging.getLogger("keybroker.coldstart")


def when_possible(
    start: Callable[[], None], *, is_supervised: bool, pause: Callable[[float], None] = time.sleep
) -> None:
    """Call ``start`` until it returns, or fails for a reason that does not pass (problems.py, ``temporary``).

    Each reason is logged when it is the first or another one, and is the unit's status meanwhile: at a cold
    start an operator sees in ``systemctl status`` what is waited for.

    Args:
        is_supervised: there is a service manager that waits; otherwise the first failure is raised.

    Raises:
        KeybrokerError: what ``start`` raised.
    """
    said = ""
    while True:
        try:
            return start()
        except KeybrokerError as error:
            if not error.problem.temporary or not is_supervised:
                raise
            if error.detail != said:
                said = error.detail
                for line in error.lines("waiting"):
                    _log.warning("%s", line)
        _tell(f"STATUS=waiting: {said}\nEXTEND_TIMEOUT_USEC={_EXTEND_SECONDS * 1_000_000}")
        pause(PAUSE_SECONDS)


def is_supervised() -> bool:
    """Say whether a service manager waits for this process to be ready (sd_notify(3))."""
    return os.environ.get("NOTIFY_SOCKET", "").startswith(("/", "@"))


def _tell(state: str) -> None:
    address = os.environ["NOTIFY_SOCKET"]
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager,
        contextlib.suppress(OSError),
    ):
        manager.setblocking(False)  # one that does not read is not worth a start
        manager.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
