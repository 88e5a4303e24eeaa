"""Where the master key is: a Protocol of three members, and its providers by URI scheme.

| URI | the key is | checked |
|---|---|---|
| ``file:/absolute/path`` | 32 bytes in that file | regular, no link, owner, mode 0400 |
| ``credential:NAME`` | 32 bytes in that credential, systemd.exec(5) | the same, or as systemd left it |
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from keybroker.envelope import Context
from keybroker.masterkey.files import credential_path, file_path, read_key
from keybroker.masterkey.local import LocalMasterKey
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

__all__ = ["LocalMasterKey", "MasterKey", "key_file", "open_master_key"]


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


def key_file(uri: str, credentials_directory: Path | None) -> Path:
    """Return the file that a master key's URI stands for.

    Raises:
        KeybrokerError: CONFIGURATION for an unknown scheme or form, or a credential outside of a unit.
    """
    scheme, _, rest = uri.partition(":")
    if scheme == "file":
        return file_path(rest)
    if scheme == "credential":
        return credential_path(rest, credentials_directory)
    raise KeybrokerError(
        Problem.CONFIGURATION,
        f"master key {uri!r}: its scheme is not known",
        hint="use file:/absolute/path or credential:NAME",
    )


def open_master_key(uri: str, credentials_directory: Path | None) -> MasterKey:
    """Open the master key that ``uri`` stands for.

    Raises:
        KeybrokerError: CONFIGURATION for a file that is missing, is not 32 bytes, or is open to others.
    """
    path = key_file(uri, credentials_directory)
    return LocalMasterKey(read_key(path, credential=uri.startswith("credential:")))
