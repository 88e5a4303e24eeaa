"""Signing requests of this machine's: a key, and the name that it has, where it is known by then.

Ours says itself who somebody is; an outside CA may take the names from the request alone (RFC 2986).
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID


def request(key: ec.EllipticCurvePrivateKey, uri: str | None) -> str:
    """Return a signing request in PEM.

    Args:
        uri: this host's name, as its certificates have it; None where a token is all that says it so far.
    """
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    if uri is not None:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=False)
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def uri_of(certificate: x509.Certificate) -> str | None:
    """Return the one URI that a certificate names, None where it has none or several."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if len(uris) == 1 else None
