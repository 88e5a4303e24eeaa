"""How a VM gets its identity: a one-time token for the first certificate, that one for the next."""

from __future__ import annotations

import hashlib
from datetime import datetime

from keybroker.audit import AuditEvent, Outcome
from keybroker.csr import RequestedKey, read_request
from keybroker.policy import Peer
from keybroker.service.admission import Caller, perform
from keybroker.service.broker import Broker
from keybroker.service.issuing import issue, lasts
from keybroker.service.sentry import denied
from keybroker.service.signing import given, keep, waits
from keybroker.store import Reading, Writing
from keybroker.store.rows import CertificateRow, EnrolmentRow, HostRow
from keybroker.terms import UNCHANGED, outside
from keybroker.wire.messages import Certified, EnrolmentOffer, EnrolmentRequest, RenewalRequest
from keybroker.wire.names import AddonName, HostId, Identity
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret


def token_hash(token: Secret) -> str:
    """Return what the broker keeps of a token: it has 192 random bits, so a plain SHA-256 is enough."""
    return hashlib.sha256(token.reveal()).hexdigest()


def offer(broker: Broker) -> EnrolmentOffer:
    """Return the CA's certificate; whoever asks compares it with the fingerprint in its token."""
    return EnrolmentOffer(broker.authority.anchor_pem)


def enrol(broker: Broker, address: str, request: EnrolmentRequest) -> Certified:
    """Spend a token on the first certificate of the host that it was made for.

    Args:
        address: where the request came from, for the record.

    Returns:
        The certificate. The same token with the same public key gives the same certificate again until the
        token's lifetime is over, so that a lost reply costs nothing; of an outside CA, as long as it is good.

    Raises:
        KeybrokerError: TOKEN_REFUSED for a token that is unknown, expired, used by another key, or comes from
            an address that is not its add-on's, or whose host is revoked; MALFORMED for a request that is not
            a P-256 CSR with a good signature; PENDING until an outside CA has signed; UNAVAILABLE.
    """
    now = broker.clock()
    requested = read_request(request.csr)
    hashed = token_hash(request.token)
    if broker.store.read(lambda reading: reading.enrolment(hashed)) is None:
        # Strangers who guess leave no record, so that they cannot fill the disk with them.
        raise _refused(broker)

    def work(writing: Writing) -> Certified | KeybrokerError | None:
        enrolment = writing.enrolment(hashed)
        if enrolment is None:
            return None
        host = writing.host(enrolment.host)
        if host is None:
            return None
        outside = broker.authority.key is None
        why = _unfit(writing, enrolment, host, requested, now, outside=outside)
        why = why or _elsewhere(broker, writing, host, address)
        if why is not None:
            writing.append(_event(address, hashed, host, "denied", now, why=why))
            return None
        if enrolment.certificate is not None:
            certificate = writing.certificate(enrolment.certificate)
        elif outside:
            if keep(writing, identity_of(broker, host.id), requested, now, hashed):
                writing.append(_event(address, hashed, host, "done", now, waits=requested.spki))
            return waits(identity_of(broker, host.id))
        else:
            certificate = certify(broker, host.id, requested, now)
            writing.enrol_host(hashed, certificate, now)
        if certificate is None:
            return None
        writing.append(_event(address, hashed, host, "done", now, serial=certificate.serial))
        return certified_as(broker, writing, host.id, host.addon, certificate)

    certified = broker.store.write(work)
    if certified is None:
        raise _refused(broker)
    return given(certified)


def _refused(broker: Broker) -> KeybrokerError:
    """Count a refusal, and return all that a stranger is told of it; the record says more."""
    broker.tally.refused("host", Problem.TOKEN_REFUSED)
    return KeybrokerError(Problem.TOKEN_REFUSED, "token: is unknown, used or expired")


def _unfit(
    reading: Reading,
    enrolment: EnrolmentRow,
    host: HostRow,
    requested: RequestedKey,
    now: datetime,
    *,
    outside: bool,
) -> str | None:
    """Say why a token is not good for this key now."""
    if host.revoked is not None:
        return "its host is revoked"
    waiting = reading.signing(token=enrolment.token_hash)
    issued = None if enrolment.certificate is None else reading.certificate(enrolment.certificate)
    # An outside CA takes its time: the key that a token was spent on asks until it is signed, and gets that.
    lasts = waiting is not None or (outside and issued is not None and now < issued.not_after)
    if now >= enrolment.expires and not lasts:
        return "the token is expired"
    spent = waiting or issued
    if spent is not None and spent.spki != requested.spki:
        return "the token was used by another key"
    return None


def _elsewhere(broker: Broker, reading: Reading, host: HostRow, address: str) -> str | None:
    """Say why a host of this add-on may not enrol from there."""
    addon = reading.addon(host.addon)
    terms = UNCHANGED if addon is None else addon.terms
    error = outside(terms, "renew", address, denied=broker.settings.default_deny)
    return None if error is None else error.detail


def _event(
    address: str, hashed: str, host: HostRow, outcome: Outcome, now: datetime, **facts: object
) -> AuditEvent:
    return AuditEvent(
        at=now,
        actor=f"token:{hashed[:8]}",
        fingerprint="",
        address=address,
        verb="enrol",
        outcome=outcome,
        addon=host.addon,
        host=host.id,
        detail=facts,
    )


def renew(broker: Broker, peer: Peer, request: RenewalRequest) -> Certified:
    """Give a host its next certificate; the old one stays good until it expires.

    Returns:
        A new certificate; or, for a key that got one in the first third of its lifetime, that one again.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer, but of its boot only BOOT_DENIED; MALFORMED and
            PENDING as ``enrol``.
    """
    requested = read_request(request.csr)

    def work(writing: Writing, caller: Caller) -> Certified | KeybrokerError:
        host, addon = caller.as_host()
        error = denied(writing, host, peer.boot, peer.address, caller.now)
        if error is not None:
            raise error
        certificate = writing.newest_certificate(host, requested.spki)
        if certificate is None or not lasts(broker, certificate, caller.now):
            if broker.authority.key is None:
                if keep(writing, identity_of(broker, host), requested, caller.now):
                    writing.append(caller.event("done", waits=requested.spki))
                return waits(identity_of(broker, host))
            certificate = certify(broker, host, requested, caller.now)
            writing.add_certificate(certificate)
        writing.append(caller.event("done", serial=certificate.serial))
        return certified_as(broker, writing, host, addon, certificate)

    return given(perform(broker, peer, "renew", work))


def certify(broker: Broker, host: HostId, requested: RequestedKey, now: datetime) -> CertificateRow:
    """Issue a host's certificate for a requested key; to be added by the caller."""
    return issue(broker, identity_of(broker, host), requested, now, broker.settings.host_lifetime)


def identity_of(broker: Broker, host: HostId) -> Identity:
    """Return whom a host's certificates name."""
    return Identity(broker.settings.trust_domain, "host", host)


def certified_as(
    broker: Broker, reading: Reading, host: HostId, addon: AddonName, certificate: CertificateRow
) -> Certified:
    """Return what a host is told with its certificate."""
    return Certified(
        host=host,
        certificate=certificate.pem,
        ca=broker.authority.bundle,
        brokers=broker.settings.brokers,
        records=tuple(row.volume.record for row in reading.volumes(addon) if row.volume.stage != "erased"),
        enrolment=broker.settings.enrolment,
    )
