"""A master key of 32 bytes in this process: how ``file:`` and ``credential:`` wrap once they are read."""

from __future__ import annotations

import hmac

from keybroker.envelope import KEY_BYTES, Context, WrappingKey, seal, unseal
from keybroker.wire.secret import Secret

GENERATION = 1
"""A master key is replaced by another with its own identity, never by another generation of itself."""


class LocalMasterKey:
    """Wraps in the form KBE1, under a key that it holds.

    Args:
        key: 32 random bytes.
    """

    def __init__(self, key: Secret) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError("a master key is 32 bytes")
        # The name is derived from the key, so that no file can claim to be another key than it is.
        name = hmac.digest(key.reveal(), b"KBE1 master key identity", "sha512")[:16]
        self._key = WrappingKey(name, GENERATION, key)

    @property
    def identity(self) -> str:
        """Return its name, 32 hex digits."""
        return self._key.id.hex()

    def wrap(self, key: Secret, context: Context, entropy: bytes) -> bytes:
        """Wrap a key, bound to ``context``; ``entropy`` is ``envelope.ENTROPY_BYTES`` fresh bytes."""
        return seal(self._key, context, key, entropy)

    def unwrap(self, wrapped: bytes, context: Context) -> Secret:
        """Unwrap what ``wrap`` made with the same context.

        Raises:
            EnvelopeError: a blob that was changed, moved, or wrapped by another key.
        """
        return unseal(self._find, context, wrapped)

    def _find(self, name: bytes, generation: int) -> WrappingKey | None:
        return self._key if (name, generation) == (self._key.id, GENERATION) else None
