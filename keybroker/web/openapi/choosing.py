"""Trying what code does with different values: the first of each, then each other one once. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """Answers ``choose`` as it was told to, and remembers how many answers there were.

    Args:
        at, answer: which question gets which answer; all others get the first.
    """

    def __init__(self, at: int = -1, answer: int = 0) -> None:
        self._at, self._answer = at, answer
        self.asked: list[int] = []

    def choose(self, among: int) -> int:
        """Return a number below ``among``."""
        self.asked.append(among)
        return self._answer if len(self.asked) - 1 == self._at and self._answer < among else 0


def each_once(run: Callable[[Choices], T]) -> Iterator[T]:
    """Run something with the first answers, then again for each other answer to each question."""
    first = Choices()
    yield run(first)
    for at, among in enumerate(first.asked):
        for answer in range(1, among):
            yield run(Choices(at, answer))
