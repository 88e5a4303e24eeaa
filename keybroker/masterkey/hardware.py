"""A master key in a PKCS#11 token: how ``pkcs11:`` wraps, in the form KBP1."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from keybroker.envelope import Context, EnvelopeError, Failure
from keybroker.masterkey.files import credential_path, open_private
from keybroker.masterkey.token import RefusedError, TokenKey
from keybroker.masterkey.tokenform import opened, to_open, to_seal
from keybroker.masterkey.tokenuri import TokenUri
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

_LONGEST_PIN = 255


class TokenMasterKey:
    """Wraps inside a token; raises UNAVAILABLE while the token is away.

    Args:
        key: the one that wraps.
    """

    def __init__(self, key: TokenKey) -> None:
        self._key = key

    @property
    def identity(self) -> str:
        """Return its name, 32 hex digits; it follows from the key, not from its label."""
        return self._key.name.hex()

    def wrap(self, key: Secret, context: Context, entropy: bytes) -> bytes:
        """Wrap a key, bound to ``context``; ``entropy`` is ``envelope.ENTROPY_BYTES`` fresh bytes.

        Raises:
            KeybrokerError: UNAVAILABLE where the token is away; INTERNAL where it does not open what it made.
        """
        sealing = to_seal(self._key.name, key, context, entropy)
        try:
            sealed = self._key.encrypt(sealing.nonce, sealing.associated, sealing.data)
        except RefusedError as error:
            raise KeybrokerError(Problem.UNAVAILABLE, f"token: does not encrypt: {error}") from error
        wrapped = sealing.header + sealed
        # what a token makes is not ours to prove correct, and a key that does not open again is lost data
        if self.unwrap(wrapped, context) != key:
            raise KeybrokerError(Problem.INTERNAL, "token: what it encrypted opens to something else")
        return wrapped

    def unwrap(self, wrapped: bytes, context: Context) -> Secret:
        """Unwrap what ``wrap`` made with the same context.

        Raises:
            EnvelopeError: a blob that was changed, moved, or wrapped by another key.
            KeybrokerError: UNAVAILABLE where the token is away.
        """
        sealing = to_open(self._key.name, context, wrapped)
        try:
            plaintext = self._key.decrypt(sealing.nonce, sealing.associated, sealing.data)
        except RefusedError:
            raise EnvelopeError(Failure.AUTHENTICATION, "it was changed, or is not of this place") from None
        return opened(plaintext)


def open_token_key(uri: str, credentials_directory: Path | None) -> TokenMasterKey:
    """Open the key that a ``pkcs11:`` URI stands for.

    Raises:
        KeybrokerError: CONFIGURATION for the URI, the module, the PIN or the key; UNAVAILABLE for the token.
    """
    named = TokenUri.parse(uri)
    # In a thread of its own: a module that uses OpenSSL (SoftHSM2 does) may leave errors in this thread's
    # queue of them, and the next read of a TLS connection takes those for its own (SSL_get_error(3)).
    with ThreadPoolExecutor(1) as apart:
        key = apart.submit(TokenKey, named, lambda: read_pin(named, credentials_directory)).result()
    return TokenMasterKey(key)


def read_pin(uri: TokenUri, credentials_directory: Path | None) -> Secret:
    """Read a token's PIN; a newline at its end does not count.

    Raises:
        KeybrokerError: CONFIGURATION for a file that is missing, empty, open to others, or no PIN.
    """
    scheme, _, rest = uri.pin_source.partition(":")
    is_credential = scheme == "credential"
    path = credential_path(rest, credentials_directory) if is_credential else Path(rest)
    with open_private(path, credential=is_credential) as file:
        pin = file.read(_LONGEST_PIN + 2).removesuffix(b"\n")
    try:
        fits = 0 < len(pin) <= _LONGEST_PIN and pin.decode().isprintable()
    except UnicodeDecodeError:
        fits = False
    if not fits:
        raise KeybrokerError(Problem.CONFIGURATION, f"{path}: is not a PIN in one line")
    return Secret(pin)
