"""Where the master key is: a Protocol of three members, and its providers by URI scheme.

| URI | the key is | checked |
|---|---|---|
| ``file:/absolute/path`` | 32 bytes in that file | regular, no link, owner, mode 0400 |
| ``credential:NAME`` | 32 bytes in that credential, systemd.exec(5) | the same, or as systemd left it |
"""

from __future__ import annotations

from pathlib import Path

from keybroker.masterkey.files import credential_path, file_path, read_key
from keybroker.masterkey.local import LocalMasterKey
from keybroker.masterkey.provider import MasterKey
from keybroker.masterkey.ring import Ring
from keybroker.wire.problems import KeybrokerError, Problem

__all__ = ["LocalMasterKey", "MasterKey", "Ring", "key_file", "open_master_key"]


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
