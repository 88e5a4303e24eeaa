"""The broker's certificate authority: ECDSA P-256, one CA, leaves for servers, hosts and operators.

A certificate says who somebody is and until when; whether it is still welcome is looked up on every request,
so there are no revocation lists. Of a signing request nothing counts but its key and that its signature is
made with it: subject, names and extensions are ours to write.

Sources: RFC 5280 (profile), RFC 2986 (PKCS #10), RFC 5758 section 3.2 (ECDSA with SHA-256).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keybroker.wire.names import Identity
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

SERIAL_BYTES: Final = 16
CA_LIFETIME: Final = timedelta(days=20 * 365)
MOST: Final = 2
"""CAs that are trusted at a time."""

BACKDATED: Final = timedelta(minutes=5)
"""Certificates begin a little before they are made, for peers whose clocks are behind."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate that was issued.

    Attributes:
        pem: the certificate alone.
        fingerprint: SHA-256 of its DER, hex.
        serial: hex, no leading zeros.
        spki: SHA-256 of its public key's SubjectPublicKeyInfo, hex.
    """

    pem: str
    fingerprint: str
    serial: str
    spki: str
    not_before: datetime
    not_after: datetime


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key, from OpenSSL's generator."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> Secret:
    """Return a private key in PEM (PKCS #8), unencrypted."""
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def spki_digest(key: ec.EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of a key's SubjectPublicKeyInfo, hex."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def load_key(pem: Secret) -> ec.EllipticCurvePrivateKey:
    """Read a private key in PEM, unencrypted.

    Raises:
        KeybrokerError: CERTIFICATE unless it is a P-256 key.
    """
    try:
        key = load_pem_private_key(pem.reveal(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeybrokerError(Problem.CERTIFICATE, "key: is not an unencrypted PEM key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeybrokerError(Problem.CERTIFICATE, "key: is not ECDSA P-256")
    return key


def serial_number(entropy: bytes) -> int:
    """Make a serial number of ``SERIAL_BYTES`` random bytes (RFC 5280 section 4.1.2.2)."""
    return int.from_bytes(entropy[:SERIAL_BYTES]) | 1 << (8 * SERIAL_BYTES)


def fingerprint_of(pem: str) -> str:
    """Return the SHA-256 of a certificate's DER, hex.

    Args:
        pem: the certificate.

    Raises:
        KeybrokerError: MALFORMED.
    """
    try:
        return x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256()).hex()
    except ValueError:
        raise KeybrokerError(Problem.MALFORMED, "certificate: is not PEM") from None


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA with its key, and the one that is trusted beside it while the CA is changed.

    Attributes:
        certificate: of the CA that issues.
        key: None for an outside CA, which signs elsewhere what waits here.
        before: the certificate of the one that issued before it; None where that is trusted no more.
        following: of the one that is to issue next; None unless a rotation was cut short.
        pem: the certificate.
        fingerprint: SHA-256 of the certificate's DER, hex.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | None = field(repr=False)
    before: x509.Certificate | None = None
    following: x509.Certificate | None = None

    @property
    def signer(self) -> ec.EllipticCurvePrivateKey:
        """The key of the CA that issues.

        Raises:
            KeybrokerError: CONFLICT for an outside CA.
        """
        if self.key is None:
            raise KeybrokerError(
                Problem.CONFLICT,
                "CA: is an outside one, whose key is not here",
                hint="keybroker ca requests --help",
            )
        return self.key

    @property
    def bundle(self) -> str:
        """All that is trusted, in PEM: the CA that issues, then the other."""
        other = self.before or self.following
        return self.pem + ("" if other is None else pem_of(other))

    @property
    def anchor(self) -> x509.Certificate:
        """The CA that this broker's own certificate is from: while two are trusted, the one before.

        A host that was off since before the change knows no other.
        """
        return self.before or self.certificate

    @property
    def anchor_pem(self) -> str:
        """That one in PEM."""
        return pem_of(self.anchor)

    def issued(self, pem: str) -> bool:
        """Say whether a certificate (PEM) is from the CA that issues, and not from the one before."""
        return is_from(x509.load_pem_x509_certificate(pem.encode()), self.certificate)

    @property
    def pem(self) -> str:
        """The certificate in PEM."""
        return pem_of(self.certificate)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate's DER, hex."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @classmethod
    def create(
        cls,
        name: str,
        now: datetime,
        serial: int,
        lifetime: timedelta = CA_LIFETIME,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Authority:
        """Make a CA, which may sign leaves and nothing else.

        Args:
            name: its common name, 64 characters at most.
            key: None for a new one.
        """
        key = key or new_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = _usage(key_cert_sign=True, crl_sign=True)
        builder = (
            x509.CertificateBuilder(subject, subject, key.public_key(), serial)
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, certificate: str, key: Secret, where: str = "CA") -> Authority:
        """Read a CA from the PEM of its certificate and of its key.

        Args:
            certificate: the newest, and that of the CA before, if that is trusted too; the key says which
                one issues.
            where: what an error names.

        Raises:
            KeybrokerError: CONFIGURATION where either cannot be read, or one is not the other's, or there
                are more than two.
        """
        try:
            loaded = x509.load_pem_x509_certificates(certificate.encode())
            private = load_pem_private_key(key.reveal(), None)
            mine = [each for each in loaded if each.public_key() == private.public_key()]
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise KeybrokerError(Problem.CONFIGURATION, f"{where}: it or its key is not PEM") from None
        if not isinstance(private, ec.EllipticCurvePrivateKey) or len(mine) != 1:
            raise KeybrokerError(Problem.CONFIGURATION, f"{where}: the key is not the certificate's")
        if len(loaded) > MOST:
            what = f"{where}: there are {len(loaded)}, two are trusted at most"
            raise KeybrokerError(Problem.CONFIGURATION, what)
        newest, *rest = loaded
        if mine[0] != newest:
            return cls(mine[0], private, following=newest)
        return cls(newest, private, before=rest[0] if rest else None)

    @classmethod
    def outside(cls, certificate: str, where: str = "CA") -> Authority:
        """Read a CA whose key is elsewhere, from the PEM of its certificate, exactly one.

        Raises:
            KeybrokerError: CONFIGURATION.
        """
        try:
            (loaded,) = x509.load_pem_x509_certificates(certificate.encode())
        except ValueError:
            raise KeybrokerError(Problem.CONFIGURATION, f"{where}: is not one certificate in PEM") from None
        return cls(loaded, None)

    def certify_server(
        self,
        key: ec.EllipticCurvePublicKey,
        names: Sequence[str],
        addresses: Sequence[str],
        now: datetime,
        serial: int,
        lifetime: timedelta,
    ) -> Leaf:
        """Issue the certificate of a broker's listeners.

        Args:
            names, addresses: its SANs, one at least.

        Raises:
            ValueError: a name or address that is none.
        """
        sans: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        sans += [x509.IPAddress(ip_address(address)) for address in addresses]
        if not sans:
            raise ValueError("a server certificate needs a name or an address")
        common = (*names, *addresses)[0][:64]
        return self._certify(key, common, sans, ExtendedKeyUsageOID.SERVER_AUTH, now, serial, lifetime)

    def certify_client(
        self,
        key: ec.EllipticCurvePublicKey,
        identity: Identity,
        now: datetime,
        serial: int,
        lifetime: timedelta,
    ) -> Leaf:
        """Issue the certificate of a host or an operator: one URI SAN, good for a TLS client only."""
        sans = [x509.UniformResourceIdentifier(identity.uri)]
        return self._certify(key, identity.name, sans, ExtendedKeyUsageOID.CLIENT_AUTH, now, serial, lifetime)

    def _certify(
        self,
        key: ec.EllipticCurvePublicKey,
        common_name: str,
        sans: Sequence[x509.GeneralName],
        purpose: x509.ObjectIdentifier,
        now: datetime,
        serial: int,
        lifetime: timedelta,
    ) -> Leaf:
        signer = self.signer
        issuer = signer.public_key()
        # A leaf that outlived its CA would fail verification on a day that nobody looks for.
        until = min(now + lifetime, self.certificate.not_valid_after_utc)
        certificate = (
            x509.CertificateBuilder(
                self.certificate.subject,
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]),
                key,
                serial,
            )
            .not_valid_before(now - BACKDATED)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(sans), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
            .sign(signer, hashes.SHA256())
        )
        return leaf_of(certificate, key)


def leaf_of(certificate: x509.Certificate, key: ec.EllipticCurvePublicKey) -> Leaf:
    """Return what is kept of a certificate for a key."""
    return Leaf(
        pem=pem_of(certificate),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        serial=f"{certificate.serial_number:x}",
        spki=spki_digest(key),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def is_from(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    """Say whether one certificate is signed by the other's key."""
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def pem_of(certificate: x509.Certificate) -> str:
    """Return a certificate in PEM."""
    return certificate.public_bytes(Encoding.PEM).decode()


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
