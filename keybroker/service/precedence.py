"""Who goes first while more requests come than can be answered: known before a request is read."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from keybroker.terms import Priority


class Precedence:
    """The classes of certificates, as of the last time that they were looked up.

    It decides about places in a line and nothing else; whoever is in is looked up in the database. Operators
    go with the high class, so that they can see to a storm.
    """

    def __init__(self) -> None:
        self._others: Mapping[bytes, Priority] = {}

    def replace(self, others: Mapping[str, Priority]) -> None:
        """Take note of the classes of all certificates that are not of the normal one, by fingerprint."""
        self._others = {bytes.fromhex(fingerprint): priority for fingerprint, priority in others.items()}

    def of(self, certificate: bytes | None) -> Priority:
        """Return the class of a certificate in DER; an unknown one is normal."""
        if certificate is None or not self._others:
            return "normal"
        return self._others.get(sha256(certificate).digest(), "normal")
