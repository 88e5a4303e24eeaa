"""Requests that wait for a thread: who is next, who has to go, and when those who went may come again. Pure.

| a request comes and | then |
|---|---|
| there is room | it waits behind those of its class |
| the line is full, and somebody of a lower class stands there | the newest of the lowest such class goes |
| … but each class keeps an eighth of the places, once it has them | the next lower class that has more |
| otherwise | it goes itself, at once |

Next is the first of the highest class; every fourth time it is whoever waits longest, so that no class stands
still however many of a higher one come. Whoever goes is given a time of their own: as if the line went on at
the pace at which it moves now, each behind the one who was sent away before; the high class sooner, the low
one later. So a storm that does not fit is spread over the time that it takes, and does not come back as one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from keybroker.terms import PRIORITIES, Priority

T = TypeVar("T")

OLDEST_EACH: Final = 4
"""Every so many turns whoever waits longest is next, whatever their class."""

KEPT: Final = 8
"""The part of the places, one in so many, that a class is not displaced from."""

LONGEST_SECONDS: Final = 60.0
"""Nobody is sent away for longer, before the jitter that agents add."""

_SHARE: Final[dict[Priority, float]] = {"high": 0.4, "normal": 1.0, "low": 1.25}
"""Of that time, what each class is sent away for."""

_LEAST: Final = 0.55
_JITTER: Final = 0.15
"""Agents wait for up to half as long again: on average that is a little less than was reckoned."""

_PACE: Final = 0.005
_SLOWEST: Final = 1.0
_WEIGHT: Final = 0.05


@dataclass(frozen=True, slots=True)
class _Place(Generic[T]):
    number: int
    who: T


class Line(Generic[T]):
    """A bounded line with classes.

    Args:
        room: how many may stand in it.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._classes: dict[Priority, deque[_Place[T]]] = {name: deque() for name in PRIORITIES}
        self._joined = 0
        self._turns = 0

    def __len__(self) -> int:
        return sum(len(each) for each in self._classes.values())

    def join(self, who: T, priority: Priority) -> T | None:
        """Let somebody in; return who has to go for it, they themselves if need be, or None."""
        gone = None
        if len(self) >= self._room:
            lower = PRIORITIES[: PRIORITIES.index(priority) : -1]
            most = self._room // KEPT
            crowded = next((self._classes[name] for name in lower if len(self._classes[name]) > most), None)
            if crowded is None:
                return who
            gone = crowded.pop().who
        self._joined += 1
        self._classes[priority].append(_Place(self._joined, who))
        return gone

    def next(self) -> T | None:
        """Take out whose turn it is; None where nobody waits."""
        waiting = [each for each in self._classes.values() if each]
        if not waiting:
            return None
        self._turns += 1
        first = waiting[0]
        if self._turns % OLDEST_EACH == 0:
            first = min(waiting, key=lambda each: each[0].number)
        return first.popleft().who


class Recall:
    """When those who are sent away may come again.

    Its pace is how fast the line has moved while somebody stood in it.
    """

    def __init__(self) -> None:
        self._pace = _PACE
        self._last: float | None = None
        self._until = 0.0

    def moved(self, now: float, waiting: int) -> None:
        """Take note that a request was answered.

        Args:
            now: seconds on any clock, the same for all calls.
            waiting: how many stand in the line; with nobody there, no pace can be seen.
        """
        if self._last is not None:
            self._pace += _WEIGHT * (min(now - self._last, _SLOWEST) - self._pace)
        self._last = now if waiting else None

    def after(self, priority: Priority, now: float, waiting: int, chance: float) -> float:
        """Return after how many seconds the next one who is sent away may come again.

        Args:
            chance: from [0, 1). Agents add up to a half of it; others may not, so that it has jitter itself.
        """
        self._until = max(self._until, now + waiting * self._pace) + self._pace
        self._until = min(self._until, now + LONGEST_SECONDS)
        seconds = min((self._until - now) * _SHARE[priority], LONGEST_SECONDS)
        return seconds * (_LEAST + _JITTER * chance)
