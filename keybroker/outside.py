"""What is asked of an outside CA, and whether the certificate that comes back is just that.

Pure: certificates and times come in as values. Sources: RFC 5280; openssl x509v3_config(5) for the text of
extensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Final, Literal, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keybroker.ca import BACKDATED, Leaf, is_from, leaf_of, spki_digest
from keybroker.wire.names import Identity
from keybroker.wire.problems import KeybrokerError, Problem

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_PURPOSES: Final = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate that is wanted.

    Attributes:
        spki: SHA-256 of the public key, hex.
        common_name: that it may have, beside the names that count.
        uris, dns, addresses: its names, all of them and no other.
    """

    spki: str
    common_name: str
    purpose: Literal["server", "client"]
    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    @classmethod
    def of(cls, spki: str, identity: Identity) -> Wanted:
        """Return the certificate that a host or an operator wants."""
        return cls(spki, identity.name, "client", uris=(identity.uri,))

    def sans(self) -> list[x509.GeneralName]:
        """Return the names."""
        return [
            *map(x509.UniformResourceIdentifier, self.uris),
            *map(x509.DNSName, self.dns),
            *(x509.IPAddress(ip_address(address)) for address in self.addresses),
        ]

    @property
    def usage(self) -> x509.ObjectIdentifier:
        """The extended key usage."""
        return _PURPOSES[self.purpose]

    def extensions(self) -> str:
        """Return the extensions, for ``openssl x509 -req -extfile``."""
        names = [
            *(f"URI:{uri}" for uri in self.uris),
            *(f"DNS:{name}" for name in self.dns),
            *(f"IP:{address}" for address in self.addresses),
        ]
        return (
            "basicConstraints = critical,CA:FALSE\n"
            "keyUsage = critical,digitalSignature\n"
            f"extendedKeyUsage = {self.purpose}Auth\n"
            f"subjectAltName = {','.join(names)}\n"
        )

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "spki": self.spki,
            "common_name": self.common_name,
            "purpose": self.purpose,
            "uris": list(self.uris),
            "dns": list(self.dns),
            "addresses": list(self.addresses),
        }


def check_ca(certificate: x509.Certificate, now: datetime, where: str) -> None:
    """Return if a certificate is of a CA that may sign others.

    Args:
        where: what an error names.

    Raises:
        KeybrokerError: CONFIGURATION.
    """
    basic, usage = _of(certificate, x509.BasicConstraints), _of(certificate, x509.KeyUsage)
    if basic is None or not basic.ca:
        raise KeybrokerError(Problem.CONFIGURATION, f"{where}: is no CA's certificate")
    if usage is not None and not usage.key_cert_sign:
        raise KeybrokerError(Problem.CONFIGURATION, f"{where}: may not sign certificates (its key usage)")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise KeybrokerError(Problem.CONFIGURATION, f"{where}: is not good at this moment")


def check_request(pem: str, wanted: Wanted) -> None:
    """Return if a signing request (PEM) asks for nothing but what is wanted, or for no names at all.

    A CA that copies names out of requests would else give a host a name that means something elsewhere.

    Raises:
        KeybrokerError: MALFORMED.
    """
    request = x509.load_pem_x509_csr(pem.encode())
    subject = [(each.oid, each.value) for each in request.subject]
    try:
        extensions = [each.value for each in request.extensions]
    except ValueError:
        raise KeybrokerError(Problem.MALFORMED, "csr: its extensions cannot be read") from None
    if subject not in ([], [(NameOID.COMMON_NAME, wanted.common_name[:64])]):
        raise _too_much("subject", wanted)
    for each in extensions:
        if isinstance(each, x509.SubjectAlternativeName) and set(each) == set(wanted.sans()):
            continue
        if isinstance(each, x509.ExtendedKeyUsage) and list(each) == [wanted.usage]:
            continue
        raise _too_much("extension", wanted)


def names_anyone(pem: str) -> bool:
    """Say whether a signing request (PEM), which was checked, has names."""
    extensions = x509.load_pem_x509_csr(pem.encode()).extensions
    return any(isinstance(each.value, x509.SubjectAlternativeName) for each in extensions)


def _too_much(what: str, wanted: Wanted) -> KeybrokerError:
    return KeybrokerError(
        Problem.MALFORMED,
        f"csr: has a {what} that is not {wanted.common_name}'s to ask for",
        hint="a request without subject and extensions will do: the names are known here",
    )


def accept(certificate: x509.Certificate, wanted: Wanted, ca: x509.Certificate, now: datetime) -> Leaf:
    """Return a certificate as it is kept, if it is the one that is wanted.

    Raises:
        KeybrokerError: CERTIFICATE, saying what is wrong with it.
    """
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or spki_digest(key) != wanted.spki:
        raise _wrong("it is for another key")
    if not is_from(certificate, ca):
        raise _wrong("it is not signed by the CA")
    if not certificate.not_valid_before_utc <= now + BACKDATED:
        raise _wrong(f"it begins on {certificate.not_valid_before_utc:%F %T} UTC")
    if certificate.not_valid_after_utc <= now:
        raise _wrong(f"it ended on {certificate.not_valid_after_utc:%F}")
    if certificate.not_valid_after_utc > ca.not_valid_after_utc:
        raise _wrong("it ends after its CA")
    why = _unlike(certificate, wanted)
    if why is not None:
        raise _wrong(why)
    return leaf_of(certificate, key)


def _unlike(certificate: x509.Certificate, wanted: Wanted) -> str | None:
    """Say what of a certificate was not asked for."""
    names = _of(certificate, x509.SubjectAlternativeName)
    # One name more would be somebody else's, or another server's.
    if names is None or len(list(names)) != len(set(names)) or set(names) != set(wanted.sans()):
        asked = ", ".join((*wanted.uris, *wanted.dns, *wanted.addresses))
        return f"its names (subjectAltName) are not exactly: {asked}"
    if any(
        each.value != wanted.common_name[:64]
        for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ):
        return f"its common name is not {wanted.common_name[:64]}"
    purposes = _of(certificate, x509.ExtendedKeyUsage)
    if purposes is None or list(purposes) != [wanted.usage]:
        return f"its extended key usage is not {wanted.purpose}Auth alone"
    basic, usage = _of(certificate, x509.BasicConstraints), _of(certificate, x509.KeyUsage)
    if (basic is not None and basic.ca) or (usage is not None and usage.key_cert_sign):
        return "it is a CA's"
    if usage is not None and not usage.digital_signature:
        return "it may not sign (its key usage), which TLS needs"
    return None


def _of(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except ValueError:
        raise _wrong("its extensions cannot be read") from None


def _wrong(why: str) -> KeybrokerError:
    return KeybrokerError(Problem.CERTIFICATE, f"certificate: is not the one that is wanted: {why}")
