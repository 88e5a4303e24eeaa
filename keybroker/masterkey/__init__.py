"""Where the master key is: a Protocol of three members, and its providers by URI scheme.

| URI | the key is | checked |
|---|---|---|
| ``file:/absolute/path`` | 32 bytes in that file | regular, no link, owner, mode 0400 |
| ``credential:NAME`` | 32 bytes in that credential, systemd.exec(5) | the same, or as systemd left it |
| ``shares:K/N/IDENTITY`` | here, once K of N shares were given | its identity |
| ``pkcs11:token=…;object=…?…`` | in that token, and never here | AES-256; sensitive, not extractable |
"""

from __future__ import annotations

from pathlib import Path

from keybroker.masterkey.files import credential_path, file_path, read_key
from keybroker.masterkey.hardware import open_token_key, read_pin
from keybroker.masterkey.local import LocalMasterKey
from keybroker.masterkey.provider import MasterKey
from keybroker.masterkey.ring import Ring
from keybroker.masterkey.sealed import SharesMasterKey, is_sealed
from keybroker.masterkey.shares import ShareSet
from keybroker.masterkey.tokenuri import SCHEME, TokenUri
from keybroker.wire.problems import KeybrokerError, Problem

__all__ = [
    "LocalMasterKey",
    "MasterKey",
    "Ring",
    "SharesMasterKey",
    "create_in_token",
    "credentials_of",
    "is_sealed",
    "key_file",
    "open_master_key",
]


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
        f"master key {uri[:300]!r}: its scheme is not known",
        hint="use file:/absolute/path, credential:NAME, pkcs11:token=…;object=…?… or shares:K/N",
    )


def open_master_key(uri: str, credentials_directory: Path | None) -> MasterKey:
    """Open the master key that ``uri`` stands for.

    Raises:
        KeybrokerError: CONFIGURATION for a file that is missing, is not 32 bytes, or is open to others; for a
            token's module, PIN or key. UNAVAILABLE for a token that is not there.
    """
    if uri.startswith(SCHEME):
        return open_token_key(uri, credentials_directory)
    if uri.startswith("shares:"):
        return SharesMasterKey(ShareSet.parse(uri))
    path = key_file(uri, credentials_directory)
    return LocalMasterKey(read_key(path, credential=uri.startswith("credential:")))


def create_in_token(uri: str, credentials_directory: Path | None) -> bool:
    """Have a token make the key that ``uri`` names; return whether it is new.

    Raises:
        KeybrokerError: CONFIGURATION, also for a URI of another scheme; UNAVAILABLE.
    """
    from keybroker.masterkey import token

    named = TokenUri.parse(uri)
    return token.create(named, lambda: read_pin(named, credentials_directory))


def credentials_of(uri: str) -> tuple[str, ...]:
    """Return the names of the credentials that a master key's URI needs: the key, or its token's PIN."""
    source = TokenUri.parse(uri).pin_source if uri.startswith(SCHEME) else uri
    scheme, _, name = source.partition(":")
    return (name,) if scheme == "credential" else ()
