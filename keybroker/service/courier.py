"""Requests on their way to an outside CA, and certificates on their way back (docs/decisions/0021)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from keybroker.audit import AuditEvent
from keybroker.ca import load_key, pem_of, spki_digest
from keybroker.csr import signing_request
from keybroker.outside import Wanted, accept
from keybroker.service import served
from keybroker.service.broker import Broker
from keybroker.service.installation import Installation
from keybroker.service.issuing import row_of
from keybroker.service.placing import replace
from keybroker.store import Reading, Writing
from keybroker.store.signings import SigningRow
from keybroker.wire.names import Identity
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

SERVER_LIFETIME: Final = timedelta(days=365)
_SERVER_SOON: Final = timedelta(days=60)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that waits.

    Attributes:
        name: of its files, without a suffix.
        who: in words.
        at: when it came; None for the server's.
        lifetime: that the configuration has for it.
        csr: PEM.
    """

    name: str
    who: str
    at: datetime | None
    lifetime: timedelta
    csr: str
    wanted: Wanted

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "name": self.name,
            "who": self.who,
            "asked": None if self.at is None else f"{self.at:%FT%TZ}",
            "days": self.lifetime.days,
            "csr": self.csr,
            **self.wanted.as_json(),
        }


@dataclass(frozen=True, slots=True)
class Taken:
    """A certificate that came in; unchanged, where it was here already."""

    who: str
    fingerprint: str
    ends: datetime
    changed: bool

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        ends = f"{self.ends:%FT%TZ}"
        return {"who": self.who, "fingerprint": self.fingerprint, "ends": ends, "changed": self.changed}


def requests(broker: Broker, installation: Installation, *, server: bool = False) -> tuple[Asked, ...]:
    """Return what waits; the server's first, where it has no certificate or that ends soon.

    Args:
        server: the server's whatever it has.

    Raises:
        KeybrokerError: CONFLICT where the CA is our own; CONFIGURATION for a file that cannot be read.
    """
    _check_outside(broker)
    return tuple(_asked(broker, installation, server=server))


def _asked(broker: Broker, installation: Installation, *, server: bool) -> Iterator[Asked]:
    key, settings = served.key(installation), broker.settings
    present = served.certificate(installation)
    if server or present is None or _ends_soon(present, broker.clock()):
        wanted = _wanted_server(installation, key)
        csr = signing_request(key, wanted.common_name, wanted.sans(), wanted.usage)
        yield Asked("server", "server", None, SERVER_LIFETIME, csr, wanted)
    for row in broker.store.read(lambda reading: reading.signings()):
        who, identity = _whose(broker, row)
        lifetime = settings.operator_lifetime if row.host is None else settings.host_lifetime
        wanted = Wanted.of(row.spki, identity)
        yield Asked(f"{who.replace(' ', '-')}-{row.spki[:8]}", who, row.asked, lifetime, row.csr, wanted)


def _ends_soon(certificate: x509.Certificate, now: datetime) -> bool:
    ends = certificate.not_valid_after_utc
    return ends - now < min(_SERVER_SOON, (ends - certificate.not_valid_before_utc) / 3)


def take(broker: Broker, installation: Installation, pem: bytes, who: str) -> Taken:
    """Take in a certificate that was signed elsewhere, for the server or for whoever waits for it.

    Args:
        who: imports it, in words, for the record.

    Raises:
        KeybrokerError: CERTIFICATE for one that is not what was asked, or that nobody waits for; CONFLICT
            where the CA is our own; CONFIGURATION; UNAVAILABLE.
    """
    _check_outside(broker)
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
    except ValueError:
        raise KeybrokerError(Problem.CERTIFICATE, "certificate: is not PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise KeybrokerError(Problem.CERTIFICATE, "certificate: its key is not ECDSA P-256")
    own = served.key(installation)
    if key == own.public_key():
        return _take_server(broker, installation, certificate, own, who)
    return _take_client(broker, installation, certificate, spki_digest(key), who)


def _take_server(
    broker: Broker,
    installation: Installation,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    who: str,
) -> Taken:
    now = broker.clock()
    leaf = accept(certificate, _wanted_server(installation, key), broker.authority.certificate, now)
    if served.certificate(installation) == certificate:
        return Taken("server", leaf.fingerprint, leaf.not_after, changed=False)
    facts = {"who": who, "whose": "server", "serial": leaf.serial}
    event = AuditEvent(now, "local", "", "local", "ca.import", "done", detail=facts)
    broker.store.write(lambda writing: writing.append(event))
    try:
        replace(installation.server_certificate, leaf.pem.encode(), 0o444)
    except OSError as error:
        raise KeybrokerError(
            Problem.CONFIGURATION, f"{installation.server_certificate}: cannot be written: {error.strerror}"
        ) from None
    return Taken("server", leaf.fingerprint, leaf.not_after, changed=True)


def _take_client(
    broker: Broker, installation: Installation, certificate: x509.Certificate, spki: str, who: str
) -> Taken:
    now = broker.clock()

    def work(writing: Writing) -> Taken:
        row = writing.signing(spki=spki)
        if row is None:
            return _known(broker, writing, certificate)
        whose, identity = _whose(broker, row)
        wanted = Wanted.of(spki, identity)
        leaf = accept(certificate, wanted, broker.authority.certificate, now)
        _check_welcome(writing, row, whose)
        if writing.certificate(leaf.fingerprint) is not None:
            raise KeybrokerError(
                Problem.CERTIFICATE,
                f"certificate: is the one that {whose} has",
                hint="a new one is waited for: sign the request again",
            )
        writing.end_signing(spki)
        issued = row_of(leaf, identity, now)
        if row.token is None:
            writing.add_certificate(issued)
        else:
            writing.enrol_host(row.token, issued, now)
        facts = {"who": who, "whose": whose, "serial": leaf.serial}
        event = AuditEvent(now, "local", "", "local", "ca.import", "done", host=row.host, detail=facts)
        writing.append(event)
        return Taken(whose, leaf.fingerprint, leaf.not_after, changed=True)

    taken = broker.store.write(work)
    _put_beside(installation, certificate, taken.who)
    return taken


def _known(broker: Broker, writing: Writing, certificate: x509.Certificate) -> Taken:
    """Return one that came in before."""
    fingerprint = certificate.fingerprint(SHA256()).hex()
    row = writing.certificate(fingerprint)
    if row is None:
        raise KeybrokerError(
            Problem.CERTIFICATE,
            "certificate: nobody waits for it: its key is in no request",
            hint="keybroker ca requests",
        )
    who = f"host {row.host}" if row.host is not None else f"operator {row.operator}"
    return Taken(who, fingerprint, row.not_after, changed=False)


def _check_outside(broker: Broker) -> None:
    if broker.authority.key is not None:
        raise KeybrokerError(
            Problem.CONFLICT,
            "CA: is this broker's own, and issues certificates by itself",
            hint="keybroker ca show; an outside one is named at the beginning: keybroker init --outside-ca",
        )


def _whose(broker: Broker, row: SigningRow) -> tuple[str, Identity]:
    domain = broker.settings.trust_domain
    if row.host is not None:
        return f"host {row.host}", Identity(domain, "host", row.host)
    return f"operator {row.operator}", Identity(domain, "operator", row.operator or "")


def _check_welcome(reading: Reading, row: SigningRow, whose: str) -> None:
    host = None if row.host is None else reading.host(row.host)
    operator = None if row.operator is None else reading.operator(row.operator)
    found = host or operator
    if found is None or found.revoked is not None:
        raise KeybrokerError(Problem.CERTIFICATE, f"certificate: {whose} was revoked since it asked")


def _wanted_server(installation: Installation, key: ec.EllipticCurvePrivateKey) -> Wanted:
    dns, addresses = served.names(installation)
    return Wanted(
        spki_digest(key.public_key()), (*dns, *addresses)[0], "server", dns=dns, addresses=addresses
    )


def _put_beside(installation: Installation, certificate: x509.Certificate, who: str) -> None:
    """Put an operator's certificate beside its key, where that is still on the broker's machine."""
    kind, _, name = who.partition(" ")
    path = installation.ca_certificate.with_name("operators") / f"{name}.key"
    if kind != "operator" or not path.is_file():
        return
    try:
        if load_key(Secret(path.read_bytes())).public_key() == certificate.public_key():
            replace(path.with_name(f"{name}.crt"), pem_of(certificate).encode(), 0o444)
    except OSError as error:
        what = f"{error.filename or path}: {error.strerror}"
        raise KeybrokerError(Problem.CONFIGURATION, what, hint="then import it again") from None
