"""The ring: every master key of an installation, of which one wraps and each unwraps what names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from keybroker.envelope import Context, EnvelopeError, Failure, wrapped_by
from keybroker.masterkey.provider import MasterKey
from keybroker.wire.secret import Secret


@dataclass(frozen=True, slots=True)
class _Held:
    keys: dict[str, MasterKey]
    wraps: str


class Ring:
    """A master key that is made of several; shared by all threads, and exchanged as a whole.

    Args:
        keys: each with an identity of its own.
        wraps: identity of the one that wraps.

    Attributes:
        look: is called when something names a key that is not on the ring, and may exchange it.
    """

    def __init__(self, keys: Iterable[MasterKey], wraps: str) -> None:
        self.look: Callable[[], None] | None = None
        self.replace(keys, wraps)

    def replace(self, keys: Iterable[MasterKey], wraps: str) -> None:
        """Hold these keys from here on; whoever is wrapping or unwrapping right now ends with the old ones.

        Raises:
            ValueError: none of them is the one that is to wrap.
        """
        held = {key.identity: key for key in keys}
        if wraps not in held:
            raise ValueError("the key that wraps is not on the ring")
        self._held = _Held(held, wraps)  # one assignment: nobody sees keys and name of two moments

    @property
    def identity(self) -> str:
        """Return the name of the key that wraps, 32 hex digits."""
        return self._held.wraps

    @property
    def keys(self) -> Mapping[str, MasterKey]:
        """Return all keys, by name."""
        return self._held.keys

    @property
    def identities(self) -> frozenset[str]:
        """Return the names of all keys."""
        return frozenset(self._held.keys)

    def wrap(self, key: Secret, context: Context, entropy: bytes) -> bytes:
        """Wrap 32 bytes with the key that wraps; ``envelope.wrapped_by`` says which one that was."""
        held = self._held
        return held.keys[held.wraps].wrap(key, context, entropy)

    def unwrap(self, wrapped: bytes, context: Context) -> Secret:
        """Unwrap something with the key that it names; no other is tried.

        Raises:
            EnvelopeError: a blob that was changed or moved, or that names a key which is not on the ring.
        """
        name = wrapped_by(wrapped).hex()
        key = self._held.keys.get(name)
        if key is None and self.look is not None:
            self.look()
            key = self._held.keys.get(name)
        if key is None:
            raise EnvelopeError(Failure.NO_KEY, f"no master key {name}")
        return key.unwrap(wrapped, context)
