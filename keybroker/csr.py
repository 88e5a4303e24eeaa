"""Signing requests: a P-256 key, and the proof that whoever asks has it; names are the CA's to say.

Source: RFC 2986 (PKCS #10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from keybroker.ca import spki_digest
from keybroker.wire.problems import KeybrokerError, Problem


@dataclass(frozen=True, slots=True)
class RequestedKey:
    """The key of a signing request, whose signature was found good.

    Attributes:
        spki: SHA-256 of its SubjectPublicKeyInfo, hex.
        pem: the request.
    """

    public_key: ec.EllipticCurvePublicKey
    spki: str
    pem: str


def signing_request(
    key: ec.EllipticCurvePrivateKey,
    common_name: str = "",
    sans: Sequence[x509.GeneralName] = (),
    purpose: x509.ObjectIdentifier | None = None,
) -> str:
    """Return a PEM signing request for a key.

    Args:
        common_name, sans, purpose: only an outside CA may look at them; ours says itself who somebody is.
    """
    named = [x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])] if common_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(named))
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def read_request(pem: str) -> RequestedKey:
    """Take the key out of a PEM signing request.

    Raises:
        KeybrokerError: MALFORMED unless it is a PKCS #10 request for a P-256 key, signed with that key.
    """
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key = request.public_key()
        signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeybrokerError(Problem.MALFORMED, "csr: is not a PEM certificate signing request") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeybrokerError(Problem.MALFORMED, "csr: its key is not ECDSA P-256")
    if not signed:
        raise KeybrokerError(Problem.MALFORMED, "csr: its signature is not made with its key")
    return RequestedKey(key, spki_digest(key), request.public_bytes(Encoding.PEM).decode())
