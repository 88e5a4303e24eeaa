"""A world that dies on command: each effect can be cut before, during, after, done twice, go unanswered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from agent.change.workshop import Broker as ChangeBroker
from agent.change.workshop import Growth, Headers, Legs, Reencryption, Shelving, Wiping, Workshop
from agent.plan import steps
from agent.world import Broker, Disks, Filesystems, Mappings, World
from keybroker.wire.messages import DepositRequest
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
    steps.Stage: ("broker", "stage"),
    steps.Fill: ("headers", "fill"),
    steps.Tag: ("headers", "tag"),
    steps.Enclose: ("headers", "enclose"),
    steps.Backup: ("broker", "deposit"),
    steps.Promote: ("broker", "promote"),
    steps.Clear: ("headers", "clear"),
    steps.Retire: ("broker", "retire"),
    steps.Unlink: ("legs", "unlink"),
    steps.Mirror: ("legs", "mirror"),
    steps.Copy: ("legs", "wait"),
    steps.Verify: ("legs", "verify"),
    steps.Raise: ("headers", "raise_sequence"),
    steps.Switch: ("broker", "switch"),
    steps.Drop: ("legs", "drop"),
    steps.Close: ("legs", "close"),
    steps.Wipe: ("wiping", "wipe"),
    steps.Erased: ("broker", "erased"),
    steps.Grow: ("growth", "grow"),
    steps.Announce: ("broker", "announce"),
    steps.Begin: ("reencryption", "begin"),
    steps.Reencrypt: ("reencryption", "run"),
    steps.Finish: ("broker", "finish"),
    steps.Shelve: ("shelving", "shelve"),
    steps.Adopt: ("broker", "adopt"),
    steps.Detach: ("headers", "detach"),
    steps.Evict: ("headers", "evict"),
}
"""Which method each step is the effect of; a test holds that no step is missing."""

BY_METHOD: Final = {
    **{place: step for step, place in EFFECTS.items() if step is not steps.Backup},
    ("legs", "copy"): steps.Copy,  # offline; the other one is a mirror's
}

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
    """Wraps a world, or a whole workshop.

    Attributes:
        journey: the effects that were begun, in order.
        workshop: of use only where a workshop was wrapped.
    """

    def __init__(self, inner: World | Workshop, partial: Partial, death: Death | None = None) -> None:
        world = inner.world if isinstance(inner, Workshop) else inner
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
        if isinstance(inner, Workshop):
            self.workshop = Workshop(
                world=self.world,
                broker=cast(ChangeBroker, _Proxy(self, "broker", inner.broker)),
                headers=cast(Headers, _Proxy(self, "headers", inner.headers)),
                legs=cast(Legs, _Proxy(self, "legs", inner.legs)),
                growth=cast(Growth, _Proxy(self, "growth", inner.growth)),
                wiping=cast(Wiping, _Proxy(self, "wiping", inner.wiping)),
                reencryption=cast(Reencryption, _Proxy(self, "reencryption", inner.reencryption)),
                shelving=cast(Shelving, _Proxy(self, "shelving", inner.shelving)),
            )

    @property
    def survived(self) -> bool:
        """Say whether the fatal effect never came."""
        return self._death is not None and len(self.journey) <= self._death.effect

    def until_death(self, run: Callable[[Mortal], object]) -> Mortal:
        """Run once, as far as it goes: whatever comes of it, the process is gone then."""
        assert self._death is not None
        try:
            run(self)
        except Crash:
            assert self._death.moment in ("before", "during", "after")
        return self

    def begin(self, step: type, act: Callable[[], Any], arguments: tuple[Any, ...]) -> Any:
        """Do an effect, or as much of it as the moment allows.

        Args:
            arguments: of the effect, for doing it in part.
        """
        with self._lock:
            fatal = self._death is not None and self._death.effect == len(self.journey)
            self.journey.append(step)
        if not fatal or self._death is None:
            return act()
        match self._death.moment:
            case "before":
                raise Crash
            case "during":
                self._partial.partial(step, *arguments)
                raise Crash
            case "after":
                act()
                raise Crash
            case "twice":
                act()
                return act()
            case _:
                act()
                raise KeybrokerError(Problem.UNREACHABLE, "the reply was lost")


class _Proxy:
    def __init__(self, mortal: Mortal, part: str, target: object) -> None:
        self._mortal, self._part, self._target = mortal, part, target

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Any] = getattr(self._target, name)
        step = BY_METHOD.get((self._part, name))
        if step is None:
            return method

        def effect(*arguments: Any, **named: Any) -> Any:
            request = arguments[-1] if arguments else None
            is_backup = isinstance(request, DepositRequest) and request.proof is not None
            taken = steps.Backup if is_backup else step
            return self._mortal.begin(
                taken, lambda: method(*arguments, **named), (*arguments, *named.values())
            )

        return effect
