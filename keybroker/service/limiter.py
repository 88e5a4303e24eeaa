"""How often hosts have asked lately: buckets in the memory of this process (``keybroker.terms``)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from keybroker.terms import Bucket, draw

_MOST: Final = 16384
"""Buckets: some a host and one an add-on, so far more than a broker has in use."""


@dataclass(frozen=True, slots=True)
class Exhausted:
    """There is no token left.

    Attributes:
        whose: of the rates that were asked about.
        seconds: until there is one again.
    """

    whose: str
    seconds: float


class Limiter:
    """Token buckets by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[str, Bucket] = {}

    def draw(self, rates: Mapping[str, int], now: float) -> Exhausted | None:
        """Take a token of each bucket, or of none where one of them is empty.

        Args:
            rates: tokens a minute, by whose they are; 0 for no limit.
            now: seconds.
        """
        with self._lock:
            drawn: dict[str, Bucket] = {}
            for whose, rate in rates.items():
                if rate == 0:
                    continue
                drawn[whose], seconds = draw(self._buckets.get(whose), rate, now)
                if seconds > 0:
                    return Exhausted(whose, seconds)
            self._buckets.update(drawn)
            while len(self._buckets) > _MOST:
                # the one that was made first: a full bucket again, or one that fills within a minute
                self._buckets.pop(next(iter(self._buckets)))
            return None
