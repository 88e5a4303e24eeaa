"""Who is at the other end: read from the certificate of the TLS connection, and from nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID

from keybroker.policy import Peer
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.names import Identity
from keybroker.wire.problems import KeybrokerError, Problem


@dataclass(frozen=True, slots=True)
class _Named:
    """What a certificate says of itself; the same for each of its connections."""

    identity: Identity | None
    fingerprint: str
    begins: datetime
    ends: datetime


def read_peer(
    certificate: bytes | None, address: str, trust_domain: str, now: datetime, boot: AskingBoot | None = None
) -> Peer:
    """Return the peer that a verified client certificate names.

    Args:
        certificate: DER, as the TLS connection has it; OpenSSL has checked its chain and its purpose.
        address: IP address of the connection.
        now: UTC. A connection outlives its handshake, and so may outlive its certificate.
        boot: as the request says.

    Raises:
        KeybrokerError: NO_IDENTITY for a certificate that names nobody of this trust domain; CERTIFICATE for
            one that is over, or has not begun.
    """
    if certificate is None:
        raise KeybrokerError(Problem.NO_IDENTITY, "connection: there is no client certificate")
    named = _read(certificate)
    if named.identity is None or named.identity.trust_domain != trust_domain:
        raise KeybrokerError(Problem.NO_IDENTITY, f"certificate: names nobody of {trust_domain}")
    if not named.begins <= now <= named.ends:
        raise KeybrokerError(
            Problem.CERTIFICATE, f"certificate: is good from {named.begins:%F %T} to {named.ends:%F %T} UTC"
        )
    return Peer(named.identity, named.fingerprint, address, boot)


@lru_cache(maxsize=4096)
def _read(certificate: bytes) -> _Named:
    parsed = x509.load_der_x509_certificate(certificate)
    return _Named(
        identity=_identity(parsed),
        fingerprint=parsed.fingerprint(SHA256()).hex(),
        begins=parsed.not_valid_before_utc,
        ends=parsed.not_valid_after_utc,
    )


def _identity(certificate: x509.Certificate) -> Identity | None:
    """Return the identity of a client's leaf certificate: exactly one URI SAN, and meant for clients."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage or len(uris) != 1:
        return None
    return Identity.parse(uris[0])
