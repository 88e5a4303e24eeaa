"""How fast a re-encryption may go: when it is to rest, and for how long. Pure; the clock comes in as values.

    work until ``is_enough``, rest for ``rest_seconds``, work again …

Resting is stopping: no stretch of the volume is held while it lasts (``agent.luks.reencrypt``). Two reasons:

- an operator's rate: a slice of work is as long as it takes to be worth the start, the rest makes up for it;
- users: where the volume's own users keep its disk busy for more than half of the time, work stops after a
  few seconds and rests for one, two, … up to half a minute, as long as they do. It never stops for good.
"""

from __future__ import annotations

from typing import Final

BUSY: Final = 0.5
"""Of the time that the volume has I/O of its users in flight."""

LEAST_SECONDS: Final = 3.0
"""Of work between two rests for the users' sake."""

LONGEST_REST: Final = 30.0

SLICE_SECONDS: Final = 4.0
"""Of the wanted rate: how much is done in a slice of work."""


class Pace:
    """The pace of one re-encryption.

    Args:
        rate: most bytes a second, over a minute or so; None for as fast as users leave room for.
    """

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._yielded = 0
        self._busy = False

    def is_enough(self, *, seconds: float, done: int, busy: float) -> bool:
        """Say whether a slice of work is to end.

        Args:
            seconds: since it began.
            done: bytes in it.
            busy: share of the last second or so that users had I/O in flight, from 0 to 1.
        """
        self._busy = busy >= BUSY and seconds >= LEAST_SECONDS
        return self._busy or (self._rate is not None and done >= self._rate * SLICE_SECONDS)

    def rest_seconds(self, *, seconds: float, done: int) -> float:
        """Return how long to rest after a slice of work that took ``seconds``, ``done`` bytes long."""
        owed = done / self._rate - seconds if self._rate is not None else 0.0
        if not self._busy:
            self._yielded = 0
            return max(0.0, owed)
        self._yielded += 1
        return max(owed, min(LONGEST_REST, 2.0 ** (self._yielded - 1)))
