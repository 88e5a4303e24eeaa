"""Key material, wrapped so that it does not slip out by accident.

A ``Secret`` has no text form: ``repr``, ``str``, ``format``, pickling and copying either say
``<secret, 43 bytes>`` or raise. ``reveal`` is the one way in, and each of its callers is a place
where an auditor looks.

What this promises is "not in logs, messages, arguments or dumps", not "zeroised": Python moves and
copies bytes as it likes (reference: pyca/cryptography, "limitations").
"""

from __future__ import annotations

import hmac
import re
from typing import Final, NoReturn

PASSPHRASE_FORM: Final = re.compile(rb"[A-Za-z0-9_-]{43}")
"""A passphrase is 32 random bytes in unpadded base64url (RFC 4648 section 5): 43 characters."""


class Secret:
    """Bytes that refuse to be printed, pickled or copied."""

    __slots__ = ("_bytes",)

    def __init__(self, value: bytes | bytearray) -> None:
        self._bytes = bytearray(value)

    def reveal(self) -> bytes:
        """Return the bytes themselves; hand them to a pipe or a cipher and nowhere else."""
        return bytes(self._bytes)

    def wipe(self) -> None:
        """Overwrite this object's own copy; copies that the interpreter made are out of reach."""
        for i in range(len(self._bytes)):
            self._bytes[i] = 0
        del self._bytes[:]

    def __len__(self) -> int:
        return len(self._bytes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes, other._bytes)

    __hash__ = None  # type: ignore[assignment]  # a hash of a key is a fact about the key

    def __repr__(self) -> str:
        return f"<secret, {len(self._bytes)} bytes>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled or copied")


def passphrase(value: bytes) -> Secret:
    """Take the bytes of a passphrase, checked for their exact form.

    Args:
        value: 43 characters of unpadded base64url, without a newline. cryptsetup reads a key file to
            its end, newline included (cryptsetup(8), "NOTES ON PASSPHRASE PROCESSING FOR LUKS"), so a
            stray newline would be another passphrase.

    Raises:
        ValueError: anything else; the message does not repeat the value.
    """
    if PASSPHRASE_FORM.fullmatch(value) is None:
        raise ValueError("a passphrase is 43 characters of unpadded base64url")
    return Secret(value)
