"""How a host that was off for long gets its next certificate, after its last one has ended.

The main listener refuses an ended certificate in the handshake, so the host comes to the enrolment listener,
with no identity that TLS has proven. Its proof is the signature of its signing request, made with the key of
the certificate that this broker gave it last:

| what is sent | reply |
|---|---|
| a certificate that was never given to a host | no-identity, and no record |
| a request that is not signed with the key of one of the host's certificates | no-identity |
| by a host that is revoked, elsewhere, or whose add-on is disabled | revoked, wrong-address, disabled |
| by a host that was revoked, and told to close its volumes | lock, also after the grace |
| by a boot that an approver has said no to | boot-denied |
| while that key's newest certificate is good | that one again: a lost reply, or a clock that is ahead |
| within the grace after its end | a new one, for the same key |
| while the newest certificate is good | that one again: a lost reply, or a clock that is ahead |
| within the grace after its end | a new one, for the same key; pending until an outside CA has signed it |
| later | certificate |

A request that is sent again by somebody else gives a certificate for a key that he does not have; it takes
nothing from the host, whose certificates stay what they are. Each key has a grace of its own: a copy of the
VM that renewed first has a newer one, and must not lock the VM itself out by that.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from keybroker.audit import AuditEvent, Outcome
from keybroker.ca import fingerprint_of
from keybroker.csr import read_request
from keybroker.service.broker import Broker
from keybroker.service.enrolment import certified_as, certify, identity_of
from keybroker.service.repeats import Recording
from keybroker.service.sentry import denied
from keybroker.service.signing import keep, waits
from keybroker.store import Writing
from keybroker.store.rows import CertificateRow, HostRow
from keybroker.terms import UNCHANGED, Terms, outside
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.messages import Certified, LateRenewalRequest
from keybroker.wire.names import Identity
from keybroker.wire.problems import KeybrokerError, Problem

A_MINUTE: Final = 6
"""Late renewals of one host; refusals of one host that are put on record."""


def renew(
    broker: Broker, address: str, request: LateRenewalRequest, boot: AskingBoot | None = None
) -> Certified:
    """Give a host its next certificate, for the key of the last one that it has.

    Args:
        address: where the request came from.
        boot: of which it says that it is.

    Raises:
        KeybrokerError: NO_IDENTITY, REVOKED, LOCK, WRONG_ADDRESS, DISABLED, BOOT_DENIED or CERTIFICATE as the
            table above has it; PENDING; BUSY; MALFORMED for what is no certificate or no P-256 CSR with a
            good signature; UNAVAILABLE.
    """
    requested, fingerprint = read_request(request.csr), fingerprint_of(request.certificate)
    shown = broker.store.read(lambda reading: reading.certificate(fingerprint))
    if shown is None or shown.host is None:
        # Strangers who guess leave no record, so that they cannot fill the disk with them.
        broker.tally.refused("host", Problem.NO_IDENTITY)
        raise _stranger()
    host_id, now = shown.host, broker.clock()

    def work(writing: Writing, recording: Recording) -> Certified | KeybrokerError:
        host, newest = writing.host(host_id), writing.newest_certificate(host_id, requested.spki)
        if host is None:
            return _stranger()

        def event(outcome: Outcome, **facts: object) -> AuditEvent:
            uri = Identity(broker.settings.trust_domain, "host", host_id).uri
            return AuditEvent(
                now, uri, fingerprint, address, "renew.late", outcome, host.addon, host=host.id, detail=facts
            )

        if newest is None:
            # Whoever has seen a certificate can be here: his tries are recorded so often and no more, and
            # cost the host nothing of its own rate. Nor are they a sign that a newer database knows more.
            if _drawn(broker, f"late refusals of host {host.id}", now) is None:
                refusal = event("denied", why="made with a key of no certificate")
                writing.append(*recording.pick([refusal]))
            return _stranger()
        busy = _drawn(broker, f"late renewals of host {host.id}", now)
        if busy is not None:
            return busy
        addon = writing.addon(host.addon)
        terms = UNCHANGED if addon is None else addon.terms
        error = unfit(host, newest, terms, address, now, broker.settings.grace, broker.settings.default_deny)
        error = error or denied(writing, host.id, boot, address, now)
        if error is not None:
            refusal = event("denied", problem=error.problem.slug, why=error.detail)
            writing.append(*recording.pick([refusal]))
            return error
        certificate = newest
        if newest.not_after <= now or not broker.authority.issued(newest.pem):
            if broker.authority.key is None:
                if keep(writing, identity_of(broker, host.id), requested, now):
                    writing.append(event("done", waits=requested.spki))
                return waits()
            certificate = certify(broker, host.id, requested, now)
            writing.add_certificate(certificate)
        writing.append(event("done", serial=certificate.serial, before=newest.serial))
        return certified_as(broker, writing, host.id, host.addon, certificate)

    with broker.repeats.recording() as recording:
        found = broker.store.write(lambda writing: work(writing, recording))
    if isinstance(found, KeybrokerError):
        broker.tally.refused("host", found.problem)
        raise found
    return found


def unfit(
    host: HostRow,
    newest: CertificateRow,
    terms: Terms,
    address: str,
    now: datetime,
    grace: timedelta,
    default_deny: bool,
) -> KeybrokerError | None:
    """Say why a host that has proven its newest certificate's key gets none; None where it does. Pure."""
    if host.revoked is not None:
        if host.lock:  # at its report, too, it would come no further than this
            return KeybrokerError(Problem.LOCK, f"host {host.id}: is revoked, and is to close its volumes")
        return KeybrokerError(Problem.REVOKED, f"host {host.id}: is revoked")
    # As for a boot, which this is for: a disabled add-on's hosts wait until it is enabled again.
    error = outside(terms, "unlock", address, denied=default_deny)
    if error is not None:
        return error
    if now >= newest.not_after + grace:
        return KeybrokerError(
            Problem.CERTIFICATE,
            f"certificate: ended on {newest.not_after:%F}, and is renewed for {grace.days} days after that",
            hint="enrol this machine again: keybroker host enrol ADDON",
        )
    return None


def _stranger() -> KeybrokerError:
    """Return all that somebody is told who has proven nothing; the record says more."""
    return KeybrokerError(
        Problem.NO_IDENTITY,
        "certificate: is not a host's of this broker, or the request is not made with the key of one",
        hint="enrol this machine again: keybroker host enrol ADDON",
    )


def _drawn(broker: Broker, whose: str, now: datetime) -> KeybrokerError | None:
    """Take one of so many a minute; the error where there is none left."""
    found = broker.limiter.draw({whose: A_MINUTE}, now.timestamp())
    if found is None:
        return None
    return KeybrokerError(Problem.BUSY, f"{whose}: more than {A_MINUTE} a minute", retry_after=found.seconds)
