"""Threads that lose nothing: what is raised in one is raised where somebody waits for it.

``concurrent.futures`` would do as well, but importing it imports ``logging``, and this is the boot path.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


class Aside(threading.Thread):
    """A thread that acts on one item from the moment it is made."""

    def __init__(self, act: Callable[[_Item], object], item: _Item) -> None:
        super().__init__()
        self._act: Callable[[], object] = lambda: act(item)
        self._raised: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Act."""
        try:
            self._act()
        except BaseException as raised:  # not handled here, only carried over to where somebody waits
            self._raised = raised

    def hand_over(self) -> None:
        """Raise here what was raised there; the thread must have ended."""
        if self._raised is not None:
            raise self._raised


def join(threads: Sequence[Aside]) -> None:
    """Wait for all, and only then raise what one of them raised: nobody is left behind."""
    for thread in threads:
        thread.join()
    for thread in threads:
        thread.hand_over()


def at_once(act: Callable[[_Item], object], items: Iterable[_Item]) -> None:
    """Call ``act`` on all items, each on a thread of its own, and return when all have ended."""
    join([Aside(act, item) for item in items])
