"""Operators: who they are, their roles and their certificates. The rules are in ``keybroker.rights``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import cast

from keybroker.audit import AuditEvent
from keybroker.csr import RequestedKey, read_request
from keybroker.policy import Peer
from keybroker.rights import MANAGES, beyond
from keybroker.service.admission import Caller, consult, perform
from keybroker.service.broker import Broker
from keybroker.service.issuing import issue, lasts
from keybroker.service.reasons import check_reason
from keybroker.service.signing import given, keep, waits
from keybroker.service.views import Appointment, OperatorView
from keybroker.store import Reading, Writing
from keybroker.store.rows import CertificateRow, OperatorRow
from keybroker.wire import names
from keybroker.wire.names import Identity, Role
from keybroker.wire.problems import KeybrokerError, Problem

__all__ = [
    "Appointment",
    "OperatorView",
    "add",
    "certify",
    "change_roles",
    "managers",
    "myself",
    "operator",
    "operators",
    "recover",
    "renew",
    "revoke",
]


def add(broker: Broker, peer: Peer, name: str, roles: Iterable[str], csr: str) -> tuple[Appointment, bool]:
    """Add an operator, with a certificate for the key of a signing request (PEM, P-256).

    Returns:
        The operator with its certificate, and whether it is new; False where it was there already with these
        roles and a certificate for this key.

    Raises:
        KeybrokerError: NOT_ALLOWED, NO_IDENTITY, REVOKED or CERTIFICATE for the peer; NOT_ALLOWED for a role
            that the peer cannot give; MALFORMED for a name, role or request that is none; EXISTS where it is
            there and differs, or is revoked; UNAVAILABLE.
    """
    requested = read_request(csr)

    def work(writing: Writing, caller: Caller) -> tuple[Appointment, bool] | KeybrokerError:
        wanted = _roles(roles)
        if names.OPERATOR_NAME.fullmatch(name) is None:
            raise _malformed("name", f"must match {names.OPERATOR_NAME.pattern}")
        _check_within(caller, name, wanted)
        row = writing.operator(name)
        if row is not None:
            found = _same(broker, writing, row, wanted, requested)
            return found if isinstance(found, KeybrokerError) else (found, False)
        writing.add_operator(OperatorRow(name, caller.now, wanted, caller.peer.identity.name, caller.now))
        certificate = _certify(broker, writing, name, requested, caller.now)
        facts = _facts(certificate, requested)
        writing.append(caller.about("done", operator=name, roles=_words(wanted), **facts))
        if isinstance(certificate, KeybrokerError):
            return certificate
        return _appointment(broker, _named(writing, name), certificate), True

    return given(perform(broker, peer, "operator.add", work))


def _same(
    broker: Broker, reading: Reading, row: OperatorRow, roles: frozenset[Role], requested: RequestedKey
) -> Appointment | KeybrokerError:
    """Return an operator that is there just as it is asked for."""
    if row.revoked is not None:
        raise KeybrokerError(
            Problem.EXISTS,
            f"operator {row.name}: was there and is revoked",
            hint="a name stays with one person, for it stands in the audit trail: take another",
        )
    certificate = reading.operators_certificate(row.name, requested.spki)
    waiting = reading.signing(spki=requested.spki)
    if row.roles == roles and waiting is not None and waiting.operator == row.name:
        return waits()
    if row.roles != roles or certificate is None:
        raise KeybrokerError(
            Problem.EXISTS,
            f"operator {row.name}: is there, with other roles or another key",
            hint=f"keybroker operator show {row.name}; then operator roles, or operator renew --csr",
        )
    return _appointment(broker, row, certificate)


def operators(broker: Broker, peer: Peer) -> tuple[OperatorView, ...]:
    """Return all operators by name, revoked ones too.

    Raises:
        KeybrokerError: as ``add`` for the peer.
    """
    return consult(
        broker, peer, "operator.read", lambda reading: tuple(map(OperatorView.of, reading.operators()))
    )


def operator(broker: Broker, peer: Peer, name: str) -> OperatorView:
    """Return one operator.

    Raises:
        KeybrokerError: as ``add`` for the peer; UNKNOWN.
    """
    return consult(broker, peer, "operator.read", lambda reading: OperatorView.of(_named(reading, name)))


def myself(broker: Broker, peer: Peer) -> OperatorView:
    """Return the operator that asks, whatever its roles are.

    Raises:
        KeybrokerError: as ``add`` for the peer.
    """
    name = peer.identity.name
    return consult(broker, peer, "self.read", lambda reading: OperatorView.of(_named(reading, name)))


def change_roles(broker: Broker, peer: Peer, name: str, roles: Iterable[str]) -> OperatorView:
    """Give an operator these roles and no others, from its next request on.

    Raises:
        KeybrokerError: as ``add`` for the peer; NOT_ALLOWED where a role is given or taken that the peer
            lacks; UNKNOWN; CONFLICT for a revoked one, and for the last who can manage operators.
    """

    def work(writing: Writing, caller: Caller) -> OperatorView:
        wanted, row = _roles(roles), _named(writing, name)
        _check_welcome(row)
        _check_within(caller, name, wanted ^ row.roles)
        if wanted == row.roles:
            return OperatorView.of(row)
        if MANAGES not in wanted:
            _check_not_last(writing, name, caller.now)
        writing.change_roles(name, wanted)
        writing.append(caller.about("done", operator=name, roles=_words(wanted), before=_words(row.roles)))
        return OperatorView.of(_named(writing, name))

    return perform(broker, peer, "operator.roles", work)


def revoke(broker: Broker, peer: Peer, name: str, reason: str) -> OperatorView:
    """Turn an operator away from its next request on, for good; again, it changes nothing.

    Args:
        reason: 1 to 500 characters, for the record; that of the first revocation stays.

    Raises:
        KeybrokerError: as ``add`` for the peer; UNKNOWN; MALFORMED reason; CONFLICT for the last who can
            manage operators.
    """

    def work(writing: Writing, caller: Caller) -> OperatorView:
        check_reason(reason)
        row = _named(writing, name)
        if row.revoked is None:
            _check_not_last(writing, name, caller.now)
            writing.revoke_operator(name, reason, caller.now)
        writing.append(caller.about("done", operator=name, reason=reason))
        return OperatorView.of(_named(writing, name))

    return perform(broker, peer, "operator.revoke", work)


def certify(broker: Broker, peer: Peer, name: str, csr: str) -> Appointment:
    """Give an operator a certificate for another key; those that it had count no more.

    Returns:
        The certificate; for a key that got one in the first third of its lifetime, that one again.

    Raises:
        KeybrokerError: as ``add`` for the peer; NOT_ALLOWED where the operator has a role that the peer
            lacks; UNKNOWN; CONFLICT for a revoked one; MALFORMED request.
    """
    requested = read_request(csr)

    def work(writing: Writing, caller: Caller) -> Appointment | KeybrokerError:
        row = _named(writing, name)
        _check_welcome(row)
        _check_within(caller, name, row.roles)
        found = writing.operators_certificate(name, requested.spki)
        if found is not None and lasts(broker, found, caller.now):
            writing.append(caller.about("done", operator=name, serial=found.serial))
            return _appointment(broker, row, found)
        writing.replace_certificates(name, caller.now)
        certificate = _certify(broker, writing, name, requested, caller.now)
        writing.append(caller.about("done", operator=name, **_facts(certificate, requested)))
        if isinstance(certificate, KeybrokerError):
            return certificate
        return _appointment(broker, _named(writing, name), certificate)

    return given(perform(broker, peer, "operator.certify", work))


def renew(broker: Broker, peer: Peer, csr: str) -> Appointment:
    """Give the operator that asks its next certificate; the old one stays good until it expires.

    Returns:
        As ``certify``.

    Raises:
        KeybrokerError: as ``add`` for the peer; MALFORMED request.
    """
    requested, name = read_request(csr), peer.identity.name

    def work(writing: Writing, caller: Caller) -> Appointment | KeybrokerError:
        found = writing.operators_certificate(name, requested.spki)
        young = found is not None and lasts(broker, found, caller.now)
        certificate = (
            found if found is not None and young else _certify(broker, writing, name, requested, caller.now)
        )
        writing.append(caller.about("done", **_facts(certificate, requested)))
        if isinstance(certificate, KeybrokerError):
            return certificate
        return _appointment(broker, _named(writing, name), certificate)

    return given(perform(broker, peer, "self.renew", work))


def recover(broker: Broker, name: str, roles: Iterable[str], csr: str) -> Appointment:
    """Make an operator, or give one that is there more roles and a new certificate; on the broker's machine.

    Whoever runs this has the CA's key, so nobody's roles are asked for; it is on record all the same.

    Raises:
        KeybrokerError: MALFORMED for a name, role or request that is none; CONFLICT for a revoked one;
            UNAVAILABLE.
    """
    requested, added, now = read_request(csr), _roles(roles), broker.clock()
    if names.OPERATOR_NAME.fullmatch(name) is None:
        raise _malformed("name", f"must match {names.OPERATOR_NAME.pattern}")

    def work(writing: Writing) -> Appointment | KeybrokerError:
        row = writing.operator(name)
        if row is None:
            writing.add_operator(OperatorRow(name, now, added, None, now))
        else:
            _check_welcome(row)
            writing.change_roles(name, added | row.roles)
            writing.replace_certificates(name, now)
        certificate = _certify(broker, writing, name, requested, now)
        made = _named(writing, name)
        detail = {"operator": name, "roles": _words(made.roles), **_facts(certificate, requested)}
        writing.append(AuditEvent(now, "local", "", "local", "operator.recover", "done", detail=detail))
        if isinstance(certificate, KeybrokerError):
            return certificate
        return _appointment(broker, made, certificate)

    return given(broker.store.write(work))


def managers(reading: Reading, now: datetime) -> list[str]:
    """Return who can manage operators: the role, not revoked, with a certificate that is not over."""
    return [
        row.name
        for row in reading.operators()
        if MANAGES in row.roles and row.revoked is None and row.expires is not None and row.expires > now
    ]


def _check_not_last(reading: Reading, name: str, now: datetime) -> None:
    if managers(reading, now) == [name]:
        raise KeybrokerError(
            Problem.CONFLICT,
            f"operator {name}: is the last one who can manage operators",
            hint=f"first: keybroker operator add ... --role {MANAGES}",
        )


def _check_welcome(row: OperatorRow) -> None:
    if row.revoked is not None:
        raise KeybrokerError(
            Problem.CONFLICT, f"operator {row.name}: is revoked", hint="add one of another name"
        )


def _check_within(caller: Caller, name: str, touched: Iterable[Role]) -> None:
    """Check that the caller gets no role by way of somebody else, and takes none that it lacks."""
    lacking = beyond(caller.roles, touched)
    if lacking:
        raise KeybrokerError(
            Problem.NOT_ALLOWED,
            f"operator {name}: {', '.join(lacking)}: only somebody who has that role gives or takes it",
            hint="keybroker operator list",
        )


def _named(reading: Reading, name: str) -> OperatorRow:
    row = reading.operator(name)
    if row is None:
        raise KeybrokerError(
            Problem.UNKNOWN, f"operator {name[:64]}: there is none", hint="keybroker operator list"
        )
    return row


def _roles(words: Iterable[str]) -> frozenset[Role]:
    given = frozenset(words)
    if not given or not given <= names.ROLES:
        raise _malformed("roles", f"must be one or more of {', '.join(sorted(names.ROLES))}")
    return cast(frozenset[Role], given)


def _words(roles: Iterable[Role]) -> str:
    return " ".join(sorted(roles))


def _certify(
    broker: Broker, writing: Writing, name: str, requested: RequestedKey, now: datetime
) -> CertificateRow | KeybrokerError:
    """Issue a certificate and keep it; or, where an outside CA has to, have the request wait."""
    settings = broker.settings
    identity = Identity(settings.trust_domain, "operator", name)
    if broker.authority.key is None:
        keep(writing, identity, requested, now)
        return waits()
    certificate = issue(broker, identity, requested, now, settings.operator_lifetime)
    writing.add_certificate(certificate)
    return certificate


def _facts(certificate: CertificateRow | KeybrokerError, requested: RequestedKey) -> dict[str, str]:
    """Return what the record says of it."""
    if isinstance(certificate, KeybrokerError):
        return {"waits": requested.spki}
    return {"serial": certificate.serial}


def _appointment(broker: Broker, row: OperatorRow, certificate: CertificateRow) -> Appointment:
    return Appointment(
        OperatorView.of(row), certificate.pem, broker.authority.bundle, broker.settings.brokers
    )


def _malformed(field: str, what: str) -> KeybrokerError:
    return KeybrokerError(Problem.MALFORMED, f"{field}: {what}")
