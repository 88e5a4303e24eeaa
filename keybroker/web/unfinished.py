"""Connections that end within a request's header fields: a line of log for each, but for a flood of them."""

from __future__ import annotations

import logging
from typing import Final

LINES: Final = 20
"""That are logged in ``SECONDS``; of more only their number."""

SECONDS: Final = 60.0

_log = logging.getLogger("keybroker.access")


class Unfinished:
    """Tells of requests that never came to their end; for one thread, that of the event loop."""

    def __init__(self) -> None:
        self._began = float("-inf")
        self._said = 0
        self._more = 0

    def tell(self, listener: str, address: str, fingerprint: str | None, now: float) -> None:
        """Log one.

        Args:
            fingerprint: of the client's certificate, as the audit trail has it; None where it showed none.
            now: seconds on a clock that is never set.
        """
        if now - self._began >= SECONDS:
            if self._more:
                _log.warning("requests without an end: %d more in the time before", self._more)
            self._began, self._said, self._more = now, 0, 0
        if self._said >= LINES:
            self._more += 1
            return
        self._said += 1
        who = "no certificate" if fingerprint is None else f"certificate {fingerprint}"
        _log.warning("%s: %s: ended within a request's header fields, %s", listener, address, who)
