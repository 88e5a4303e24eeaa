"""The CA and the server's certificate, changed on the broker's machine while hosts go on asking.

    ca.crt            whom is trusted: the newest CA, then the one before it, if that is trusted still
    ca.key            of the CA that issues: it is what says which one that is
    ca-next.key       while a rotation is under way: made first, and renamed to ca.key last
    ca-before.key     of the CA before, for as long as that is trusted

| ``rotate`` writes | a crash after it, and the next run |
|---|---|
| ca-next.key | its certificate is made again: nobody has seen it |
| ca.crt with both | both are trusted, the one before issues: goes on |
| the database: which CA issues, and the record | the same |
| ca-before.key, a link to ca.key | the same |
| ca-next.key renamed to ca.key | done, the new one issues: a repeated run changes nothing |

The server's certificate stays one of the CA before until ``retire``: a host that was off all the time trusts
no other, and has to boot.
``retire`` writes a server certificate of the new CA first, then takes ca-before.key away, then writes ca.crt
without the one before, so that a run that was cut goes on. It refuses
while a host has not yet come with a certificate of the new CA, or an operator has none: a host that has come
with one has stored it, and in the same instant the new CA's certificate.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from keybroker.audit import AuditEvent
from keybroker.ca import SERIAL_BYTES, Authority, is_from, key_pem, new_key, pem_of, serial_number
from keybroker.service import served
from keybroker.service.broker import Broker
from keybroker.service.installation import Installation, load_authority
from keybroker.service.placing import Maker, replace, sync
from keybroker.store import Reading, Writing
from keybroker.wire.problems import KeybrokerError, Problem

SERVER_LIFETIME: Final = timedelta(days=3650)
_SHOWN: Final = 5

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom the broker trusts, and who depends on whom.

    Attributes:
        authorities: the CA that issues first; fingerprint, name, and when it ends.
        server: fingerprint of the CA that the server's certificate is from; None for another.
        server_ends: when that certificate is over; None where an outside CA has not signed it yet.
        outside: whether the CA is an outside one.
        waiting: hosts and operators that have not come with a certificate of the CA that issues.
    """

    authorities: tuple[tuple[str, str, datetime], ...]
    server: str | None
    server_ends: datetime | None
    outside: bool
    waiting: tuple[str, ...]

    @property
    def is_changing(self) -> bool:
        """Say whether two CAs are trusted."""
        return len(self.authorities) > 1

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "authorities": [
                {"fingerprint": fingerprint, "name": name, "ends": f"{ends:%FT%TZ}", "issues": number == 0}
                for number, (fingerprint, name, ends) in enumerate(self.authorities)
            ],
            "outside": self.outside,
            "server": {
                "authority": self.server,
                "ends": None if self.server_ends is None else f"{self.server_ends:%FT%TZ}",
            },
            "waiting": list(self.waiting),
        }


def trust(broker: Broker, installation: Installation) -> Trust:
    """Return how the CA stands.

    Raises:
        KeybrokerError: CONFIGURATION for a file that cannot be read.
    """
    authority = broker.authority
    server = served.certificate(installation)
    other = authority.before or authority.following
    known = (authority.certificate, *([other] if other else []))
    return Trust(
        tuple((_fingerprint(each), _name(each), each.not_valid_after_utc) for each in known),
        next((_fingerprint(each) for each in known if server is not None and is_from(server, each)), None),
        None if server is None else server.not_valid_after_utc,
        authority.key is None,
        broker.store.read(lambda reading: waiting(reading, authority, broker.clock(), broker.settings.grace)),
    )


def waiting(reading: Reading, authority: Authority, now: datetime, grace: timedelta) -> tuple[str, ...]:
    """Name who would be cut off if only the CA that issues were trusted; sorted.

    Whose last certificate is over, and for a host its grace too, depends on no CA any more.
    """
    if authority.before is None:
        return ()
    shown = reading.shown_certificates()
    there: set[str] = set()
    moved: set[str] = set()
    for row in reading.welcome_certificates(now - max(grace, timedelta(0))):
        who = f"host {row.host}" if row.host is not None else f"operator {row.operator}"
        if row.host is not None or row.not_after > now:
            there.add(who)
        # An operator who only reads leaves no trace of the certificate that he comes with.
        if (row.fingerprint in shown or row.operator is not None) and authority.issued(row.pem):
            moved.add(who)
    return tuple(sorted(there - moved))


def rotate(broker: Broker, installation: Installation, who: str) -> bool:
    """Have a new CA issue from here on, and trust both; cut anywhere, it goes on when it is run again.

    Args:
        who: in words, for the record.

    Returns:
        False, and nothing done, where two are trusted already.

    Raises:
        KeybrokerError: CONFIGURATION for a file that cannot be read or written; UNAVAILABLE.
    """
    now, authority = broker.clock(), broker.authority
    _ = authority.signer
    path, following = installation.ca_certificate, installation.next_ca_key
    if authority.before is not None:
        return False
    try:
        key = _following(following)
        fresh = _made_before(authority, key) or _new(broker, key, now)
        replace(path, (pem_of(fresh) + authority.pem).encode(), 0o444)
        named = _fingerprint(fresh)

        def keep(writing: Writing) -> None:
            row = writing.installation()
            if row is not None and row.ca_fingerprint != named:
                writing.set_ca(named)
                facts = {"who": who, "ca": named, "before": authority.fingerprint}
                writing.append(AuditEvent(now, "local", "", "local", "ca.rotate", "done", detail=facts))

        broker.store.write(keep)
        before = installation.former_ca_key
        before.unlink(missing_ok=True)
        os.link(installation.ca_key, before)
        sync(before.parent)
        os.rename(following, installation.ca_key)
        sync(before.parent)
    except OSError as error:
        raise _cannot(path, error) from None
    broker.authorities.current = load_authority(installation)
    return True


def retire(broker: Broker, installation: Installation, who: str, *, force: bool) -> bool:
    """Trust the CA before no more; cut anywhere, it goes on when it is run again.

    Args:
        force: although somebody has nothing else; hosts that have not are to be enrolled anew.

    Returns:
        False, and nothing done, where only one is trusted already.

    Raises:
        KeybrokerError: CONFLICT, naming who has not come with a certificate of the new CA, or where a
            rotation was cut; CONFIGURATION; UNAVAILABLE.
    """
    now, authority = broker.clock(), broker.authority
    if authority.following is not None:
        raise KeybrokerError(
            Problem.CONFLICT, "CA: its rotation was cut short", hint="keybroker ca rotate: it goes on"
        )
    if authority.before is None:
        return False

    def keep(writing: Writing) -> None:
        left = waiting(writing, authority, now, broker.settings.grace)
        if left and not force:
            shown = ", ".join(left[:_SHOWN]) + (" …" if len(left) > _SHOWN else "")
            raise KeybrokerError(
                Problem.CONFLICT,
                f"CA: {len(left)} have not come with a certificate of the new one: {shown}",
                hint="keybroker ca show; they renew by themselves within about half an hour of being on;"
                " --force cuts them off",
            )
        facts = {"who": who, "ca": authority.fingerprint, "forced": bool(left), "left": list(left[:100])}
        writing.append(AuditEvent(now, "local", "", "local", "ca.retire", "done", detail=facts))

    broker.store.write(keep)
    try:
        _certify_server(installation, authority.certificate, authority.signer, now, broker.entropy)
        installation.former_ca_key.unlink(missing_ok=True)
        sync(installation.ca_key.parent)
        replace(installation.ca_certificate, authority.pem.encode(), 0o444)
    except OSError as error:
        raise _cannot(installation.ca_certificate, error) from None
    broker.authorities.current = load_authority(installation)
    return True


def renew_server(broker: Broker, installation: Installation, who: str) -> datetime:
    """Give the server a new certificate, for the key and the names that it has.

    While two CAs are trusted it is from the one before, which every host trusts.

    Returns:
        When the new one ends.

    Raises:
        KeybrokerError: CONFIGURATION for a file that cannot be read or written, or where the key of the CA
            before is not here; UNAVAILABLE.
    """
    now, authority = broker.clock(), broker.authority
    try:
        key = authority.signer if authority.before is None else _key_before(installation)
        if key.public_key() != authority.anchor.public_key():
            raise KeybrokerError(
                Problem.CONFIGURATION,
                f"{installation.former_ca_key}: is not the key of the CA before",
                hint="keybroker ca show",
            )
        event = AuditEvent(now, "local", "", "local", "ca.renew-server", "done", detail={"who": who})
        broker.store.write(lambda writing: writing.append(event))
        renewed = _certify_server(installation, authority.anchor, key, now, broker.entropy)
    except OSError as error:
        raise _cannot(installation.server_certificate, error) from None
    return renewed


def _following(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key that waits to issue, or make it and have it on the disk first."""
    if not os.path.lexists(path):
        beside = path.with_name(f".{path.name}.new")
        beside.unlink(missing_ok=True)
        Maker(None).file(beside, key_pem(new_key()).reveal(), 0o400)
        beside.rename(path)
        sync(path.parent)
    return served.read_key(path)


def _key_before(installation: Installation) -> ec.EllipticCurvePrivateKey:
    path = installation.former_ca_key
    if not os.path.lexists(path):
        raise KeybrokerError(
            Problem.CONFIGURATION,
            f"{path}: is not here, and the server's certificate has to be of the CA before",
            hint="keybroker ca retire gives it one of the new CA",
        )
    return served.read_key(path)


def _made_before(authority: Authority, key: ec.EllipticCurvePrivateKey) -> x509.Certificate | None:
    """Return that key's certificate, where a run that was cut has put it among those that are trusted."""
    known = authority.following
    return known if known is not None and known.public_key() == key.public_key() else None


def _new(broker: Broker, key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    # A name of its own: a client that looks an issuer up by name alone must not find the one before.
    name = f"Keybroker CA {now:%Y%m%d-%H%M%S} {broker.settings.trust_domain}"[:64]
    number = serial_number(broker.entropy(SERIAL_BYTES))
    return Authority.create(name, now, number, key=key).certificate


def _certify_server(
    installation: Installation,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    entropy: Entropy,
) -> datetime:
    """Write a new server certificate with the names and the key of the one that is there: one rename.

    Returns:
        When it ends.
    """
    dns, addresses = served.names(installation)
    key = served.key(installation)
    leaf = Authority(issuer, issuer_key).certify_server(
        key.public_key(),
        dns,
        addresses,
        now,
        serial_number(entropy(SERIAL_BYTES)),
        SERVER_LIFETIME,
    )
    replace(installation.server_certificate, leaf.pem.encode(), 0o444)
    return leaf.not_after


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(SHA256()).hex()


def _name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _cannot(path: Path, error: OSError) -> KeybrokerError:
    return KeybrokerError(
        Problem.CONFIGURATION, f"{error.filename or path}: cannot be written: {error.strerror or error}"
    )
