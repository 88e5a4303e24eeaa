"""The server's certificate, its key, and the names that it is to have, from the installation's files."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from keybroker.ca import load_key
from keybroker.masterkey.files import open_private
from keybroker.service.installation import Installation
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret


def key(installation: Installation) -> ec.EllipticCurvePrivateKey:
    """Return the server's key (errors as ``read_key``)."""
    return read_key(installation.server_key)


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key in a file that is private.

    Raises:
        KeybrokerError: CONFIGURATION for the file; CERTIFICATE for a key that is none.
    """
    with open_private(path) as file:
        return load_key(Secret(file.readall()))


def certificate(installation: Installation) -> x509.Certificate | None:
    """Return the server's certificate; None where an outside CA has not signed it yet.

    Raises:
        KeybrokerError: CONFIGURATION.
    """
    path = installation.server_certificate
    if installation.outside_ca and not os.path.lexists(path):
        return None
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        raise KeybrokerError(Problem.CONFIGURATION, f"{path}: is not a certificate") from None


def names(installation: Installation) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the DNS names and the addresses of the certificate, or of the request for the first one.

    Raises:
        KeybrokerError: CONFIGURATION.
    """
    found: x509.Certificate | x509.CertificateSigningRequest | None = certificate(installation)
    path = installation.server_certificate if found is not None else installation.server_request
    try:
        found = found or x509.load_pem_x509_csr(path.read_bytes())
        sans = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        raise KeybrokerError(Problem.CONFIGURATION, f"{path}: names no server") from None
    return (
        tuple(sans.get_values_for_type(x509.DNSName)),
        tuple(str(address) for address in sans.get_values_for_type(x509.IPAddress)),
    )
