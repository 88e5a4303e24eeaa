"""A world that dies on command: each effect can be cut before, during, after, done twice, go unanswered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from agent.plan import steps
from agent.world import Broker, Disks, Filesystems, Mappings, World
from keybroker.wire.problems import KeybrokerError, Problem

EFFECTS: Final[dict[type, tuple[str, str]]] = {
    steps.Ask: ("broker", "unlock"),
    steps.Claim: ("broker", "claim"),
    steps.Deposit: ("broker", "deposit"),
    steps.Inscribe: ("disks", "inscribe"),
    steps.Open: ("mappings", "open"),
    steps.Link: ("mappings", "link"),
    steps.MakeFilesystem: ("filesystems", "make"),
    steps.Ready: ("broker", "ready"),
    steps.Mount: ("filesystems", "mount"),
    steps.Mark: ("disks", "mark"),
    steps.SwapOn: ("mappings", "swap_on"),
}
"""Which method each step is the effect of; a test holds that no step is missing."""

BY_METHOD: Final = {place: step for step, place in EFFECTS.items()}

MOMENTS: Final = ("before", "during", "after", "twice", "unanswered")


class Crash(BaseException):
    """The process or the machine ends here; no handler of ours may swallow it."""


class Partial(Protocol):
    """What can leave an effect half-done."""

    def partial(self, step: type, *arguments: Any) -> None:
        """Do part of a step's effect: as much as can be on the medium when the power goes."""


@dataclass(frozen=True, slots=True)
class Death:
    """When to die: at which of the effects of a run, counted from 0, and in which moment of it."""

    effect: int
    moment: str


class Mortal:
    """Wraps a world.

    Attributes:
        journey: the effects that were begun, in order.
    """

    def __init__(self, world: World, partial: Partial, death: Death | None = None) -> None:
        self._partial = partial
        self._death = death
        self._lock = threading.Lock()
        self.journey: list[type] = []
        self.world = World(
            broker=cast(Broker, _Proxy(self, "broker", world.broker)),
            disks=cast(Disks, _Proxy(self, "disks", world.disks)),
            mappings=cast(Mappings, _Proxy(self, "mappings", world.mappings)),
            filesystems=cast(Filesystems, _Proxy(self, "filesystems", world.filesystems)),
        )

    @property
    def survived(self) -> bool:
        """Say whether the fatal effect never came."""
        return self._death is not None and len(self.journey) <= self._death.effect

    def begin(self, step: type, act: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Do an effect, or as much of it as the moment allows."""
        with self._lock:
            fatal = self._death is not None and self._death.effect == len(self.journey)
            self.journey.append(step)
        if not fatal or self._death is None:
            return act(*arguments)
        match self._death.moment:
            case "before":
                raise Crash
            case "during":
                self._partial.partial(step, *arguments)
                raise Crash
            case "after":
                act(*arguments)
                raise Crash
            case "twice":
                act(*arguments)
                return act(*arguments)
            case _:
                act(*arguments)
                raise KeybrokerError(Problem.UNREACHABLE, "the reply was lost")


class _Proxy:
    def __init__(self, mortal: Mortal, part: str, target: object) -> None:
        self._mortal, self._part, self._target = mortal, part, target

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Any] = getattr(self._target, name)
        step = BY_METHOD.get((self._part, name))
        if step is None:
            return method
        return lambda *arguments: self._mortal.begin(step, method, arguments)
