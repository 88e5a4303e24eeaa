"""A value that costs something to make: made anew at most so often, and by one thread at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from keybroker.wire.problems import KeybrokerError, Problem

T = TypeVar("T")

LEAST_SECONDS: Final = 5.0
REST: Final = 20
"""A value is kept so many times as long as it took to make: that takes a twentieth of one core at most."""


class Lately(Generic[T]):
    """The last value of its kind.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._making = threading.Lock()
        self._kept: T | None = None
        self._until = 0.0

    def get(self, make: Callable[[], T]) -> T:
        """Return the value; whoever comes while another thread makes it gets the one before, without waiting.

        Raises:
            KeybrokerError: UNAVAILABLE while the first one is made by another; and whatever ``make`` raises.
        """
        if self._kept is not None and self._clock() < self._until:
            return self._kept
        if not self._making.acquire(blocking=False):
            if self._kept is None:
                raise KeybrokerError(Problem.UNAVAILABLE, "metrics: are being counted for somebody else")
            return self._kept
        try:
            began = self._clock()
            made = make()
            ended = self._clock()
            self._kept, self._until = made, ended + max(LEAST_SECONDS, REST * (ended - began))
            return made
        finally:
            self._making.release()
