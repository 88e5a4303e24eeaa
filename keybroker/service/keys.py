"""Making, wrapping and unwrapping keys: which context each belongs to is said here and nowhere else."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from datetime import datetime

from keybroker.envelope import (
    ENTROPY_BYTES,
    KEY_BYTES,
    Context,
    Purpose,
    WrappingKey,
    seal,
    unseal,
    wrapped_by,
)
from keybroker.masterkey import MasterKey
from keybroker.model import Volume
from keybroker.store.rows import AddonKeyRow
from keybroker.wire.names import AddonName, KeyVersion
from keybroker.wire.secret import Secret, passphrase

KEY_CHECK = Context("", "", "", 1, Purpose.KEY_CHECK)
"""Where 32 zero bytes are wrapped, so that a wrong master key is found out before it does anything."""


STATEMENT_KEY = Context("", "", "", 1, Purpose.STATEMENT_KEY)
"""Where the key is wrapped that signs statements of destruction, by the master key itself."""


def recovery_key_context(number: int) -> Context:
    """Return the place of the SHA-256 of an offline recovery key's recipients, wrapped by the master key."""
    return Context("", "", "", number, Purpose.RECOVERY_RECIPIENTS)


def recovery_context(volume: Volume, version: KeyVersion) -> Context:
    """Return the place of the SHA-256 of a recovery ciphertext of a version of a volume's passphrase."""
    return Context(volume.addon, volume.id, volume.luks_uuid, version, Purpose.RECOVERY_CIPHERTEXT)


def new_passphrase(entropy: Callable[[int], bytes]) -> Secret:
    """Make a passphrase: 256 random bits as 43 characters of unpadded base64url."""
    return passphrase(base64.urlsafe_b64encode(entropy(32)).rstrip(b"="))


def addon_key_context(addon: str, generation: int) -> Context:
    """Return the place of an add-on's key."""
    return Context(addon, "", "", generation, Purpose.ADDON_KEY)


def passphrase_context(volume: Volume, version: KeyVersion) -> Context:
    """Return the place of a version of a volume's passphrase."""
    return Context(volume.addon, volume.id, volume.luks_uuid, version, Purpose.PASSPHRASE)


def header_context(volume: Volume, number: int) -> Context:
    """Return the place of a copy of a volume's header."""
    return Context(volume.addon, volume.id, volume.luks_uuid, number, Purpose.HEADER_COPY)


def new_addon_key(
    masterkey: MasterKey, addon: AddonName, generation: int, entropy: Callable[[int], bytes], now: datetime
) -> AddonKeyRow:
    """Make a generation of an add-on's key, wrapped."""
    context = addon_key_context(addon, generation)
    key_id = entropy(16)
    wrapped = masterkey.wrap(Secret(entropy(KEY_BYTES)), context, entropy(ENTROPY_BYTES))
    master = wrapped_by(wrapped).hex()  # by the blob's own word: the ring may have changed since
    return AddonKeyRow(addon, generation, key_id, wrapped, master, now, master)


class AddonKeys:
    """The generations of one add-on's key, each unwrapped when it is first needed.

    Args:
        rows: the newest generation last; it wraps.
    """

    def __init__(self, masterkey: MasterKey, rows: Iterable[AddonKeyRow]) -> None:
        self._masterkey = masterkey
        self._rows = {(row.id, row.generation): row for row in rows}
        self._open: dict[tuple[bytes, int], WrappingKey] = {}

    def _find(self, name: bytes, generation: int) -> WrappingKey | None:
        row = self._rows.get((name, generation))
        if row is None:
            return None
        if (name, generation) not in self._open:
            context = addon_key_context(row.addon, generation)
            key = self._masterkey.unwrap(row.wrapped, context)
            self._open[name, generation] = WrappingKey(name, generation, key)
        return self._open[name, generation]

    def wrap(self, secret: Secret, context: Context, entropy: Callable[[int], bytes]) -> bytes:
        """Wrap something with the newest generation.

        Raises:
            EnvelopeError: that key itself does not open.
        """
        newest = self._find(*list(self._rows)[-1])
        assert newest is not None, "an add-on is made with a key"  # noqa: S101
        return seal(newest, context, secret, entropy(ENTROPY_BYTES))

    def unwrap(self, wrapped: bytes, context: Context) -> Secret:
        """Unwrap something with the generation that it names.

        Raises:
            EnvelopeError: it does not open, or the key that it names does not.
        """
        return unseal(self._find, context, wrapped)
