"""Where the master key is: a Protocol of three members, and its providers by URI scheme."""

from __future__ import annotations

from typing import Protocol

from keybroker.wire.secret import Secret


class MasterKey(Protocol):
    """A key that wraps the add-ons' keys and never leaves its provider."""

    @property
    def identity(self) -> str:
        """Return its name, 32 hex digits; the same key has the same name, another key another one."""
        ...

    def wrap(self, key: Secret, context: bytes, entropy: bytes) -> bytes:
        """Wrap a key, bound to ``context``; ``entropy`` is ``envelope.ENTROPY_BYTES`` fresh bytes."""
        ...

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        """Unwrap what ``wrap`` made with the same context.

        Raises:
            KeybrokerError: CORRUPT.
        """
        ...
