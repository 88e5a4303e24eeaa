"""The door of every use case: who asks, may they, and the record of those who may not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from keybroker.audit import AuditEvent, Outcome
from keybroker.model import Deletion
from keybroker.policy import Peer, Standing, Verb, may
from keybroker.service.broker import Broker
from keybroker.store import Reading, Writing
from keybroker.store.rows import AdmissionRow
from keybroker.terms import EVEN_DISABLED, UNCHANGED, Terms, outside
from keybroker.wire.names import AddonName, HostId, Role
from keybroker.wire.problems import KeybrokerError, Problem

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Caller:
    """A peer that may do what it asks.

    Attributes:
        host, addon: None for an operator.
        roles: an operator's, as they are now; a host has none.
        now: the time of this request, one for all that it does.
        terms: the policy of the host's add-on.
    """

    peer: Peer
    verb: Verb
    now: datetime
    host: HostId | None
    addon: AddonName | None
    roles: frozenset[Role] = frozenset()
    terms: Terms = UNCHANGED

    def as_host(self) -> tuple[HostId, AddonName]:
        """Return which host this is, and whose; ``policy.may`` lets nobody else in for a host's verbs."""
        if self.host is None or self.addon is None:
            raise KeybrokerError(Problem.NOT_ALLOWED, f"{self.peer.identity.uri}: is not a host")
        return self.host, self.addon

    def event(self, outcome: Outcome, *, volume: str | None = None, **detail: Any) -> AuditEvent:
        """Return a record of what came of the request, about the caller's own add-on."""
        return self.about(outcome, addon=self.addon, volume=volume, host=self.host, **detail)

    def about(
        self,
        outcome: Outcome,
        *,
        addon: str | None = None,
        volume: str | None = None,
        host: str | None = None,
        **detail: Any,
    ) -> AuditEvent:
        """Return a record of what came of the request, about whatever it was about."""
        return AuditEvent(
            at=self.now,
            actor=self.peer.identity.uri,
            fingerprint=self.peer.fingerprint,
            address=self.peer.address,
            verb=self.verb,
            outcome=outcome,
            addon=addon,
            volume=volume,
            host=host,
            detail=detail,
        )


def admit(broker: Broker, reading: Reading, peer: Peer, verb: Verb, now: datetime) -> Caller:
    """Look a peer up, and let it in.

    Raises:
        Stopped: it may not.
    """
    row = reading.admission(peer.fingerprint)
    if row is None:
        caller, standing = Caller(peer, verb, now, None, None), None
    else:
        caller = Caller(peer, verb, now, row.host, row.addon, row.roles, row.terms)
        standing = _standing(row)
    error = may(peer, verb, standing, broker.settings.trust_domain, now)
    if error is None and caller.host is not None:
        error = outside(caller.terms, verb, peer.address, denied=broker.settings.default_deny)
    if error is None and row is not None and row.deletion is not None:
        error = _leaving(caller, row.deletion)
    if error is not None:
        raise Stopped(caller, "denied", error)
    return caller


def note_shown(broker: Broker, writing: Writing, peer: Peer, now: datetime) -> None:
    """Keep, while two CAs are trusted, that an admitted peer has come with its certificate.

    Whoever has come with it has stored it, and with it whom to trust (``service.rollover``).
    """
    if broker.authority.before is not None and not writing.shown_certificates(peer.fingerprint):
        writing.show_certificate(peer.fingerprint, now)


def draw(broker: Broker, caller: Caller, rates: Mapping[str, int]) -> None:
    """Count a request against some rates.

    Args:
        rates: requests a minute, by whose they are; 0 for no limit.

    Raises:
        Stopped: BUSY, with the time after which there is room again.
    """
    found = broker.limiter.draw(rates, caller.now.timestamp())
    if found is None:
        return
    said = f"{found.whose}: more than {rates[found.whose]} requests a minute"
    error = KeybrokerError(Problem.BUSY, said, retry_after=found.seconds)
    raise Stopped(caller, "refused", error)


def _leaving(caller: Caller, pending: Deletion) -> KeybrokerError | None:
    """Say why a host of an add-on that is to be destroyed may not ask this; None where it may.

    It may report and renew its certificate, so that it is whole when the destruction is called off.
    """
    if caller.verb in EVEN_DISABLED:
        return None
    return KeybrokerError(
        Problem.DELETED,
        f"add-on {caller.addon}: is to be destroyed after {pending.due:%F %T}Z; what is open stays open",
        hint=f"an operator can call that off: keybroker addon undelete {caller.addon}",
    )


def _standing(row: AdmissionRow) -> Standing:
    if row.host is not None:
        return Standing("host", row.host, row.not_before, row.not_after, row.revoked, lock=row.lock)
    name = row.operator or ""
    return Standing("operator", name, row.not_before, row.not_after, row.revoked, row.roles)


class Stopped(Exception):
    """A request came to nothing; never leaves this package, ``settle`` records it and raises its error.

    Attributes:
        instead: is run in a transaction of its own, and puts it on record as it sees fit.
    """

    def __init__(
        self,
        caller: Caller,
        outcome: Outcome,
        error: KeybrokerError,
        *,
        instead: Callable[[Writing], None] | None = None,
    ) -> None:
        super().__init__(error.detail)
        self.instead = instead
        self.caller = caller
        self.outcome = outcome
        self.error = error


def settle(broker: Broker, ask: Callable[[], T]) -> T:
    """Run ``ask``; where it was stopped, put that on record (``repeats``) and raise what is wrong.

    What cannot be read is not worth a record, and where nothing can be written there is none; neither hands
    out anything.
    """
    try:
        return ask()
    except Stopped as stopped:
        broker.tally.refused(stopped.caller.peer.identity.kind, stopped.error.problem)
        error, instead = stopped.error, stopped.instead
        event = stopped.caller.event(stopped.outcome, problem=error.problem.slug, why=error.detail)
    if instead is not None:
        broker.store.write(instead)
    elif error.problem not in (Problem.UNAVAILABLE, Problem.MALFORMED):
        with broker.repeats.recording() as recording:
            records = recording.pick([event])
            if records:
                broker.store.write(lambda writing: writing.append(*records))
    raise error


def perform(broker: Broker, peer: Peer, verb: Verb, work: Callable[[Writing, Caller], T]) -> T:
    """Run a change in one durable transaction, once the peer is let in, inside it.

    Raises:
        KeybrokerError: what ``policy.may`` or ``work`` says. Whoever is turned away, and whatever is refused,
            is on record before this raises.
    """
    now = broker.clock()

    def admitted(writing: Writing) -> T:
        caller = admit(broker, writing, peer, verb, now)
        note_shown(broker, writing, peer, now)
        try:
            return work(writing, caller)
        except KeybrokerError as error:
            raise Stopped(caller, "refused", error) from error

    return settle(broker, lambda: broker.store.write(admitted))


def consult(broker: Broker, peer: Peer, verb: Verb, work: Callable[[Reading], T]) -> T:
    """Read something, once the peer is let in; only a peer that is turned away is put on record."""
    now = broker.clock()

    def admitted(reading: Reading) -> T:
        admit(broker, reading, peer, verb, now)
        return work(reading)

    return settle(broker, lambda: broker.store.read(admitted))


def known(broker: Broker, peer: Peer) -> None:
    """Return if the peer is known here and welcome, whatever it may do.

    Raises:
        KeybrokerError: NO_IDENTITY, REVOKED or CERTIFICATE for the peer.
    """
    consult(broker, peer, "describe", lambda _reading: None)
