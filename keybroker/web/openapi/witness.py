"""A broker that knows nobody: it turns every request away, and sees by that which use case was asked.

A handler that runs against it does all that it does before it may do anything: it reads its request, asks for
its verb, and is refused, on a record that names the verb.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from flask import request

from keybroker.audit import AuditEvent
from keybroker.policy import Peer
from keybroker.service.broker import Authorities, Broker, BrokerSettings
from keybroker.web.app import Incoming
from keybroker.web.openapi.choosing import Choices
from keybroker.web.openapi.schema import Schema
from keybroker.web.openapi.sketch import Sketch
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.fields import Fields
from keybroker.wire.names import Identity

T = TypeVar("T")

_DOORS = ("keybroker.service.admission", "keybroker.service.broker", "keybroker.service.sentry")


class Witness:
    """What was seen of one request, and the store that saw it.

    Attributes:
        verb: that was asked for; None where nobody has to ask.
        use_case: the function of ``keybroker.service`` that was called.
    """

    def __init__(self) -> None:
        self.verb: str | None = None
        self.use_case: Callable[..., Any] | None = None

    def broker(self) -> Broker:
        """Return a broker with this store and nothing else."""
        authority = SimpleNamespace(pem="", anchor_pem="", before=None, fingerprint="0" * 64)
        settings = BrokerSettings("nowhere.example", ())
        store, nothing = cast(Any, self), cast(Any, None)
        return Broker(store, nothing, Authorities(cast(Any, authority)), _now, bytes, settings)

    def read(self, work: Callable[[Any], T]) -> T:
        """Run ``work`` on a view in which nobody is known (``store.Store``)."""
        self._look()
        return work(_Stranger(self))

    def write(self, work: Callable[[Any], T]) -> T:
        """Run ``work`` likewise."""
        self._look()
        return work(_Stranger(self))

    def _look(self) -> None:
        """Find out which use case this was called from: the outermost function of a service, but a door."""
        frame: Any = sys._getframe(2)
        found: list[tuple[bool, Callable[..., Any]]] = []
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            called = frame.f_globals.get(frame.f_code.co_name)
            if module.startswith("keybroker.service.") and called is not None:
                found.insert(0, (module not in _DOORS, called))
            frame = frame.f_back
        if self.use_case is None and found:
            self.use_case = max(found, key=lambda one: one[0])[1]


class _Stranger:
    """A transaction that finds nobody."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    def admission(self, _fingerprint: str) -> None:
        """Find nobody."""

    def enrolment(self, _token_hash: str) -> None:
        """Find nothing."""

    def certificate(self, _fingerprint: str) -> None:
        """Find nothing."""

    def append(self, *events: AuditEvent) -> tuple[int, str]:
        """See which verb was denied."""
        self._witness.verb = events[0].verb
        return 1, ""


class Asked(Incoming):
    """A request that brings whatever it is asked for."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        self.known = False
        self.names_boot = False
        self.sketch: Sketch | None = None
        self.parameters: dict[str, Schema] = {}

    def peer(self) -> Peer:
        """Return a peer whose certificate is in order and unknown."""
        self.known = True
        return Peer(Identity("nowhere.example", "operator", "nobody"), "0" * 64, request.remote_addr or "")

    def boot(self) -> AskingBoot | None:
        """Say that it is of none, and note that it may be."""
        self.names_boot = True
        return None

    def body(self) -> Fields:
        """Return a body that has every field."""
        self.sketch = Sketch(self._choices)
        return self.sketch

    def query(self, *names: str) -> dict[str, str]:
        """Return a query without parameters, and note which it may have."""
        self.parameters |= {name: {"type": "string"} for name in names}
        return {}

    def whole(self, asked: dict[str, str], name: str, otherwise: int, least: int, most: int) -> int:
        """Note that a parameter is a number."""
        self.parameters[name] = {"type": "integer", "minimum": least, "maximum": most, "default": otherwise}
        return otherwise


def _now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)
