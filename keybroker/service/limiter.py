"""How often hosts have asked lately: buckets in the memory of this process (``keybroker.terms``)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from keybroker.terms import Bucket, draw

_RECORD_SECONDS: Final = 60.0
_MOST: Final = 16384
"""Buckets; one a host and one an add-on, so far more than a broker has."""


@dataclass(frozen=True, slots=True)
class Exhausted:
    """There is no token left.

    Attributes:
        whose: of the rates that were asked about.
        seconds: until there is one again.
        is_first: whether that was not said of it in the last minute.
    """

    whose: str
    seconds: float
    is_first: bool


class Limiter:
    """Token buckets by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[str, Bucket] = {}
        self._said: dict[str, float] = {}

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
                    return Exhausted(whose, seconds, self._is_first(whose, now))
            self._buckets.update(drawn)
            while len(self._buckets) > _MOST:
                # the one that was made first: a full bucket again, or one that fills within a minute
                self._buckets.pop(next(iter(self._buckets)))
            return None

    def _is_first(self, whose: str, now: float) -> bool:
        said = self._said.get(whose)
        if said is not None and 0 <= now - said < _RECORD_SECONDS:
            return False
        if len(self._said) >= _MOST:
            self._said.clear()
        self._said[whose] = now
        return True
