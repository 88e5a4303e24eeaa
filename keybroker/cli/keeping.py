"""What operators are told about keeping a master key, and about having it again after a restore."""

from __future__ import annotations

from typing import Final

from keybroker.wire.problems import KeybrokerError

_TOKEN: Final = "pkcs11:"  # noqa: S105  # a scheme


def to_keep(uri: str) -> str:
    """Return what to do so that a master key is not lost."""
    if uri.startswith(_TOKEN):
        return (
            f"the master key is in {_where(uri)} alone: make the token's own backup, or have a second token"
        )
    if uri.startswith("shares:"):
        return f"{_shares(uri)} start the broker, each time: keybroker unseal; without them it stays sealed"
    return f"save the master key ({uri}) where the database's backups are not"


def to_restore(uri: str) -> str | None:
    """Return what a restored broker needs beside its backup; None where a file is put in place."""
    if uri.startswith(_TOKEN):
        from keybroker.masterkey.tokenuri import TokenUri

        named = TokenUri.parse(uri)
        return f"{_where(uri)}, the module {named.module}, and its PIN in {named.pin_source}"
    if uri.startswith("shares:"):
        return f"{_shares(uri)}: keybroker unseal"
    return None


def _shares(uri: str) -> str:
    threshold, count, *_identity = uri.removeprefix("shares:").split("/")
    return f"{threshold} of the master key's {count} shares"


def _where(uri: str) -> str:
    from keybroker.masterkey.tokenuri import TokenUri

    try:
        return str(TokenUri.parse(uri))
    except KeybrokerError:
        return "a token"
