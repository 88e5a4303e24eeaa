"""A client's certificate, issued and put into a row; whose it is decides nothing here."""

from __future__ import annotations

from datetime import datetime, timedelta

from keybroker.ca import SERIAL_BYTES, Leaf, serial_number
from keybroker.csr import RequestedKey
from keybroker.service.broker import Broker
from keybroker.store.rows import CertificateRow
from keybroker.wire.names import HostId, Identity


def issue(
    broker: Broker, identity: Identity, requested: RequestedKey, now: datetime, lifetime: timedelta
) -> CertificateRow:
    """Issue the certificate of a host or an operator for a requested key."""
    leaf = broker.authority.certify_client(
        requested.public_key, identity, now, serial_number(broker.entropy(SERIAL_BYTES)), lifetime
    )
    return row_of(leaf, identity, now)


def row_of(leaf: Leaf, identity: Identity, now: datetime) -> CertificateRow:
    """Return the row of a certificate that is a host's or an operator's."""
    return CertificateRow(
        fingerprint=leaf.fingerprint,
        serial=leaf.serial,
        host=HostId(identity.name) if identity.kind == "host" else None,
        operator=identity.name if identity.kind == "operator" else None,
        spki=leaf.spki,
        not_before=leaf.not_before,
        not_after=leaf.not_after,
        issued=now,
        pem=leaf.pem,
    )


def lasts(broker: Broker, certificate: CertificateRow, now: datetime) -> bool:
    """Say whether a certificate is of the CA that issues, and in the first third of its lifetime.

    A repeated call gets such a one again. An outside CA's is fetched later than it is made, and costs a
    person's time: it is given again while there is a third left.
    """
    if broker.authority.key is None:
        left = certificate.not_after - now
        return left * 3 > certificate.not_after - certificate.issued
    return broker.authority.issued(certificate.pem) and is_young(certificate, now)


def is_young(certificate: CertificateRow, now: datetime) -> bool:
    """Say whether a certificate is in the first third of its lifetime."""
    return (now - certificate.issued) * 3 < certificate.not_after - certificate.issued
