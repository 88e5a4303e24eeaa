"""A start where not everything is there yet: what comes by itself is waited for, and said."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from keybroker.supervisor import tell
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
        tell(f"STATUS=waiting: {said}\nEXTEND_TIMEOUT_USEC={_EXTEND_SECONDS * 1_000_000}")
        pause(PAUSE_SECONDS)
