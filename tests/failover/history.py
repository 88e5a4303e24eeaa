"""What clients did to the brokers and what came back, with times; and what stood in the end. Pure values."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Outcome = Literal["ok", "refused", "unknown"]
"""``unknown``: no answer, or one that does not say whether anything was done."""

HOSTS: Final = frozenset({"claim", "deposit", "ready", "stage", "promote", "backup", "retire"})
"""Changes of a volume by its host: each has a record that names the revision it led to."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a reply said.

    Attributes:
        revision: of the volume.
        current: its current key version.
        keys: fingerprints of the keys that came with it, by version.
        receipt: the audit record that stands for it; None where the reply has none.
    """

    revision: int | None = None
    current: int | None = None
    keys: Mapping[int, str] = field(default_factory=dict)
    receipt: tuple[object, ...] | None = None


@dataclass(frozen=True, slots=True)
class Op:
    """One call of one client.

    Attributes:
        verb: as the audit trail has it.
        subject: the volume's id; the host's for ``enrol`` and ``host.revoke``; an add-on for ``host.invite``.
        host: who asked, where that was a host.
        began, ended: on one monotonic clock, in seconds.
        version: of the key that is promoted or retired.
        proven: whether a promotion came with a proof that is one.
        problem: why it was refused, or is unknown.
    """

    number: int
    verb: str
    subject: str
    host: str
    began: float
    ended: float
    outcome: Outcome
    facts: Facts = Facts()
    version: int | None = None
    proven: bool = True
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """An audit record, as far as it is looked at.

    Attributes:
        receipt: what a reply's receipt would be that stands for it.
        revision: of the volume, where the record says so.
    """

    receipt: tuple[object, ...]
    verb: str
    outcome: str
    volume: str | None
    host: str | None
    revision: int | None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """A volume in the end.

    Attributes:
        keys: fingerprints of what its host is handed, by version; empty where it gets none.
    """

    stage: str
    revision: int
    current: int | None
    deleted: bool
    ordered: bool
    keys: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class End:
    """What stood when everything was over.

    Attributes:
        hosts: whether each is revoked, by id; those too that were invited and never came.
        invited: how many hosts each add-on has.
    """

    volumes: Mapping[str, Standing]
    hosts: Mapping[str, bool]
    invited: Mapping[str, int]
    trail: tuple[Entry, ...]


class History:
    """Takes down calls; safe for all threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._ops: list[Op] = []

    def add(
        self,
        verb: str,
        subject: str,
        began: float,
        outcome: Outcome,
        facts: Facts = Facts(),
        *,
        host: str = "",
        version: int | None = None,
        proven: bool = True,
        problem: str = "",
    ) -> None:
        """Take down a call that has ended just now."""
        ended = self.clock()
        with self._lock:
            number = next(self._numbers)
            self._ops.append(
                Op(number, verb, subject, host, began, ended, outcome, facts, version, proven, problem)
            )

    def ops(self) -> tuple[Op, ...]:
        """Return what was taken down so far."""
        with self._lock:
            return tuple(self._ops)
