"""Encrypting to an offline key, and decrypting with it: the age format, which stock ``age`` opens.

Only X25519 recipients are taken (``age-keygen`` makes the pair). Each recipient alone opens what is encrypted
to several: age has no k of n; who wants that splits the identity itself (docs/recovery-drill.md).

Source: https://age-encryption.org/v1 (C2SP age).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Final

import pyrage

from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.recovery import MOST_RECIPIENTS
from keybroker.wire.secret import Secret

_LARGEST_IDENTITY_FILE: Final = 64 << 10


def read_recipients(given: Iterable[str]) -> tuple[str, ...]:
    """Check recipients (``age1…``), and return them without repetition, in their order.

    Raises:
        KeybrokerError: MALFORMED for one that is none, for none at all, or for more than eight.
    """
    recipients = tuple(dict.fromkeys(one.strip() for one in given))
    if not 1 <= len(recipients) <= MOST_RECIPIENTS:
        raise KeybrokerError(Problem.MALFORMED, f"recipients: must be 1 to {MOST_RECIPIENTS}")
    for one in recipients:
        _recipient(one)
    return recipients


def encrypt(secret: Secret, recipients: Sequence[str]) -> bytes:
    """Encrypt to all recipients; each of them alone can decrypt it."""
    made: bytes = pyrage.encrypt(secret.reveal(), [_recipient(one) for one in recipients])
    return made


def encrypt_stream(source: IO[bytes], target: IO[bytes], recipients: Sequence[str]) -> None:
    """Encrypt what can be read from ``source`` to its end; little of it is in memory at a time.

    Raises:
        OSError: one of the two cannot be read or written.
    """
    pyrage.encrypt_io(source, target, [_recipient(one) for one in recipients])


class Identities:
    """Offline keys: what decrypts. They are read from a file, and never shown."""

    def __init__(self, keys: list[Any]) -> None:
        self._keys = keys

    @classmethod
    def read(cls, path: Path) -> Identities:
        """Read a file as ``age-keygen`` writes it: one ``AGE-SECRET-KEY-1…`` a line; ``#`` begins a remark.

        Raises:
            KeybrokerError: CONFIGURATION where it cannot be read or holds no such key; nothing of it is
                repeated.
        """
        try:
            with path.open("rb") as file:
                text = file.read(_LARGEST_IDENTITY_FILE + 1)
        except OSError as error:
            reason = (error.strerror or "cannot be read").lower()
            raise KeybrokerError(Problem.CONFIGURATION, f"{path}: {reason}") from None
        lines = [line.strip() for line in text.decode("ascii", "replace").splitlines()]
        try:
            keys = [
                pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")
            ]
        except pyrage.IdentityError:
            keys = []
        if not keys:
            raise KeybrokerError(
                Problem.CONFIGURATION, f"{path}: holds no age identity", hint="age-keygen makes one"
            )
        return cls(keys)

    def recipients(self) -> tuple[str, ...]:
        """Return the public halves."""
        return tuple(str(key.to_public()) for key in self._keys)

    def decrypt(self, ciphertext: bytes) -> Secret:
        """Decrypt something small.

        Raises:
            KeybrokerError: CORRUPT where it is not encrypted to any of these keys, or was changed.
        """
        try:
            return Secret(pyrage.decrypt(ciphertext, self._keys))
        except pyrage.DecryptError as error:
            raise _unopened(error) from None

    def decrypt_stream(self, source: IO[bytes], target: IO[bytes]) -> None:
        """Decrypt a file of any size; what was written is good only once this returns.

        Raises:
            KeybrokerError: CORRUPT, as ``decrypt``.
            OSError: one of the two cannot be read or written.
        """
        try:
            pyrage.decrypt_io(source, target, self._keys)
        except pyrage.DecryptError as error:
            raise _unopened(error) from None
        except OSError as error:
            if error.errno is None:  # age's own: what it read was changed or cut
                raise _unopened(error) from None
            raise


def _recipient(text: str) -> Any:
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise KeybrokerError(
            Problem.MALFORMED,
            f"recipient {text[:80]!a}: is no age recipient (age1…)",
            hint="age-keygen -o recovery.key prints one",
        ) from None


def _unopened(error: Exception) -> KeybrokerError:
    return KeybrokerError(Problem.CORRUPT, f"age: does not open with this identity: {str(error).lower()}")
