"""The broker's certificate authority: ECDSA P-256, one CA, leaves for servers, hosts and operators."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA with its key.

    Attributes:
        certificate: PEM.
        fingerprint: SHA-256 of the certificate's DER, hex.
    """

    certificate: str
    fingerprint: str
