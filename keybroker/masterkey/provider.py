"""What a master key provider is."""

from __future__ import annotations

from typing import Protocol

from keybroker.envelope import Context
from keybroker.wire.secret import Secret


class MasterKey(Protocol):
    """A key that wraps the add-ons' keys and never leaves its provider."""

    @property
    def identity(self) -> str:
        """Return its name, 32 hex digits; the same key has the same name, another key another one."""
        ...

    def wrap(self, key: Secret, context: Context, entropy: bytes) -> bytes:
        """Wrap 32 bytes, bound to ``context``; ``entropy`` is ``envelope.ENTROPY_BYTES`` fresh bytes."""
        ...

    def unwrap(self, wrapped: bytes, context: Context) -> Secret:
        """Unwrap what ``wrap`` made with the same context.

        Raises:
            EnvelopeError: a blob that was changed, moved, or wrapped by another key.
        """
        ...
