"""Lets so many requests in at a time; the others wait in a line, or are told when to come again."""

from __future__ import annotations

import asyncio
import random
import time

from keybroker.terms import Priority
from keybroker.web.line import Line, Recall


class Turnstile:
    """For one event loop, in which all its methods are called.

    Args:
        inside: how many may be inside at a time.
        room: how many may wait.
    """

    def __init__(self, inside: int, room: int) -> None:
        self._most = inside
        self._inside = 0
        self._line: Line[asyncio.Future[bool]] = Line(room)
        self._recall = Recall()

    @property
    def waiting(self) -> int:
        """How many are inside, or wait to be."""
        return self._inside + len(self._line)

    async def enter(self, priority: Priority) -> bool:
        """Wait for a turn; False, at once or later, for whoever has no place. Who is in must ``leave``."""
        if self._inside < self._most:
            self._inside += 1
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        gone = self._line.join(turn, priority)
        if gone is not None:
            gone.set_result(False)
        return await turn

    def leave(self) -> None:
        """Give a turn to whoever is next."""
        self._recall.moved(time.monotonic(), len(self._line))
        following = self._line.next()
        if following is None:
            self._inside -= 1
        else:
            following.set_result(True)

    def again_after(self, priority: Priority) -> float:
        """Return after how many seconds one who had no place may come again: each at another time."""
        chance = random.random()  # noqa: S311  # jitter and no secret
        return self._recall.after(priority, time.monotonic(), self.waiting, chance)
