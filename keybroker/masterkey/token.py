"""One key in a PKCS#11 token: a session that comes back after the token was away. The only door to PKCS#11.

A token that is away is UNAVAILABLE, and asked again after some seconds. A PIN that was refused is never given
again in this process, and never for the last try: after the third wrong one a token locks itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from keybroker.masterkey.cryptoki import Module, module_at, said
from keybroker.masterkey.tokenform import COMMITTED, NAMING, name_of
from keybroker.masterkey.tokenuri import TokenUri
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

_AWAY_SECONDS: Final = 2
_FINAL_TRY: Final = 0x00020000  # CKF_USER_PIN_FINAL_TRY
_LOCKED: Final = 0x00040000  # CKF_USER_PIN_LOCKED
_TAG_BITS: Final = 128

_T = TypeVar("_T")


class RefusedError(Exception):
    """The token answers, and does not do what was asked: what it was given is wrong."""


class TokenKey:
    """An AES-256 key that encrypts and decrypts inside its token, and does not leave it.

    Args:
        uri: which key.
        pin: reads the PIN, each time that it is needed.

    Raises:
        KeybrokerError: CONFIGURATION for a module, PIN or key that is no good; UNAVAILABLE for a token that
            is not there, or fails.
    """

    def __init__(self, uri: TokenUri, pin: Callable[[], Secret]) -> None:
        self._uri = uri
        self._pin = pin
        self._module = module_at(uri.module)
        self._key: Any = None
        self._generation = -1
        self._away_until = 0.0
        self._name: bytes | None = None
        self._alone(self._open)

    @property
    def name(self) -> bytes:
        """Return the key's name, 16 bytes; it follows from the key."""
        assert self._name is not None  # noqa: S101
        return self._name

    def encrypt(self, nonce: bytes, associated: bytes, data: bytes) -> bytes:
        """Return the ciphertext with its tag (AES-256-GCM).

        Raises:
            RefusedError: the token answers, and does not do it.
            KeybrokerError: UNAVAILABLE.
        """
        return self._alone(lambda: self._do(lambda key: _gcm(key.encrypt, nonce, associated, data)))

    def decrypt(self, nonce: bytes, associated: bytes, data: bytes) -> bytes:
        """Return the plaintext (errors as ``encrypt``; RefusedError is what a changed ciphertext gives)."""
        return self._alone(lambda: self._do(lambda key: _gcm(key.decrypt, nonce, associated, data)))

    def _do(self, work: Callable[[Any], bytes]) -> bytes:
        import pkcs11

        if self._key is None or self._generation != self._module.generation:
            self._open()
        try:
            return work(self._key)
        except pkcs11.PKCS11Error as error:
            # modules differ in what they say of a changed ciphertext (SoftHSM2: CKR_GENERAL_ERROR), so the
            # token is asked for something that it must be able to do
            if self._answers():
                raise RefusedError(said(error)) from error
        self._open()
        try:
            return work(self._key)
        except pkcs11.PKCS11Error as error:
            if self._answers():
                raise RefusedError(said(error)) from error
            self._key = None
            raise self._unavailable(f"failed: {said(error)}") from error

    def _alone(self, job: Callable[[], _T]) -> _T:
        try:
            return self._module.call(job)
        except TimeoutError:
            raise self._unavailable("does not answer") from None

    def _answers(self) -> bool:
        import pkcs11

        try:
            return self._name is not None and self._named() == self._name
        except pkcs11.PKCS11Error:
            return False

    def _named(self) -> bytes:
        assert self._key is not None  # noqa: S101
        return name_of(_gcm(self._key.encrypt, *NAMING, COMMITTED))

    def _open(self) -> None:
        """Find the key; whatever keeps a key from being found again that was there before may pass."""
        try:
            self._look()
        except KeybrokerError as error:
            self._key = None
            if self._name is None or error.problem is Problem.UNAVAILABLE:
                raise
            raise KeybrokerError(
                Problem.UNAVAILABLE, error.detail, hint=error.hint, retry_after=_AWAY_SECONDS
            ) from error

    def _look(self) -> None:
        import pkcs11

        self._key = None
        if time.monotonic() < self._away_until:
            raise self._unavailable("is away")
        self._away_until = time.monotonic() + _AWAY_SECONDS
        try:
            session = log_in(self._module, self._uri, self._pin)
            key = find(session, self._uri)
            if key is None:
                raise _wrong(self._uri, "there is no such key", hint="keybroker master create 'pkcs11:…'")
            check(key, self._uri)
            self._key, self._generation = key, self._module.generation
            name = self._named()
        except pkcs11.MechanismInvalid:
            raise _wrong(self._uri, "the token does not do AES-GCM (CKM_AES_GCM)", hint=None) from None
        except pkcs11.PKCS11Error as error:
            raise self._unavailable(f"failed: {said(error)}") from error
        if self._name not in (None, name):
            raise self._unavailable("holds another key of that name now")
        self._name = name
        self._away_until = 0.0

    def _unavailable(self, what: str) -> KeybrokerError:
        return KeybrokerError(
            Problem.UNAVAILABLE, f"{self._uri}: the token {what}", retry_after=_AWAY_SECONDS
        )


def log_in(module: Module, uri: TokenUri, pin: Callable[[], Secret], *, rw: bool = False) -> Any:
    """Return a session that may use private objects.

    Raises:
        KeybrokerError: CONFIGURATION for the PIN; UNAVAILABLE for a token that is not there.
        pkcs11.PKCS11Error: it fails otherwise.
    """
    import pkcs11

    token = _token(module, uri)
    flags = int(token.flags)
    if flags & _LOCKED:
        raise _wrong(
            uri, "the token is locked: its PIN was wrong too often", hint="the security officer's PIN"
        )
    serial = bytes(token.serial)
    given = pin()
    refused = _wrong(uri, "the PIN was refused, and is not tried again", hint=f"look at {uri.pin_source}")
    if module.refused.get(serial) == given:
        raise refused
    if flags & _FINAL_TRY:
        raise _wrong(
            uri,
            "the PIN was wrong before, and the next wrong one locks the token: it is left to you",
            hint="pkcs11-tool --login --list-objects",
        )
    try:
        return token.open(rw=rw, user_pin=given.reveal().decode())
    except pkcs11.UserAlreadyLoggedIn:
        return token.open(rw=rw)  # a login is the process's, for all of its sessions (PKCS#11 2.40, 2.6)
    except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange):
        module.refused[serial] = given
        raise refused from None
    except (pkcs11.PinLocked, pkcs11.PinExpired) as error:
        module.refused[serial] = given
        raise _wrong(uri, f"the token lets nobody in: {said(error)}", hint=None) from None


def _token(module: Module, uri: TokenUri) -> Any:
    import pkcs11

    wanted: dict[str, Any] = {}
    if uri.token is not None:
        wanted["token_label"] = uri.token
    if uri.serial is not None:
        wanted["token_serial"] = uri.serial
    try:
        try:
            return module.library.get_token(**wanted)
        except pkcs11.MultipleTokensReturned:
            raise
        except pkcs11.PKCS11Error:
            module.again()
            return module.library.get_token(**wanted)
    except pkcs11.MultipleTokensReturned:
        raise _wrong(
            uri, "there is more than one such token", hint="name its serial number: serial="
        ) from None
    except pkcs11.PKCS11Error:
        raise KeybrokerError(
            Problem.UNAVAILABLE,
            f"{uri}: the token is not there",
            hint=f"pkcs11-tool --module {uri.module} --list-slots",
            retry_after=_AWAY_SECONDS,
        ) from None


def find(session: Any, uri: TokenUri) -> Any:
    """Return the key, None where there is none.

    Raises:
        KeybrokerError: CONFIGURATION where there are several.
    """
    import pkcs11

    wanted: dict[Any, Any] = {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY}
    if uri.label is not None:
        wanted[pkcs11.Attribute.LABEL] = uri.label
    if uri.id is not None:
        wanted[pkcs11.Attribute.ID] = uri.id
    found = list(session.get_objects(wanted))
    if len(found) > 1:
        raise _wrong(uri, f"there are {len(found)} such keys", hint="name its id: id=%01")
    return found[0] if found else None


def check(key: Any, uri: TokenUri) -> None:
    """Check that a key is for AES-256 and cannot leave its token.

    Raises:
        KeybrokerError: CONFIGURATION.
    """
    import pkcs11

    if key.key_type is not pkcs11.KeyType.AES or key.key_length != 256:
        raise _wrong(uri, "is not a key for AES-256", hint="keybroker master create 'pkcs11:…'")
    if not key[pkcs11.Attribute.SENSITIVE] or key[pkcs11.Attribute.EXTRACTABLE]:
        raise _wrong(
            uri,
            "can leave its token (CKA_SENSITIVE must be true, CKA_EXTRACTABLE false)",
            hint="keybroker master create 'pkcs11:…'",
        )
    if not (key[pkcs11.Attribute.ENCRYPT] and key[pkcs11.Attribute.DECRYPT]):
        raise _wrong(uri, "may not encrypt and decrypt", hint="keybroker master create 'pkcs11:…'")


def create(uri: TokenUri, pin: Callable[[], Secret]) -> bool:
    """Have the token make a key that can never leave it; return whether it is new.

    Raises:
        KeybrokerError: as ``TokenKey``; also CONFIGURATION where the URI has no label.
    """
    import pkcs11

    if uri.label is None:
        raise _wrong(uri, "a new key needs a label", hint="object=master-1")
    module = module_at(uri.module)

    def work() -> bool:
        session = log_in(module, uri, pin, rw=True)
        key = find(session, uri)
        if key is not None:
            check(key, uri)
            return False
        session.generate_key(
            pkcs11.KeyType.AES,
            256,
            id=uri.id,
            label=uri.label,
            store=True,
            capabilities=pkcs11.MechanismFlag.ENCRYPT | pkcs11.MechanismFlag.DECRYPT,
            template={
                pkcs11.Attribute.PRIVATE: True,
                pkcs11.Attribute.SENSITIVE: True,
                pkcs11.Attribute.EXTRACTABLE: False,
            },
        )
        return True

    try:
        return module.call(work)
    except (pkcs11.PKCS11Error, TimeoutError) as error:
        raise KeybrokerError(Problem.UNAVAILABLE, f"{uri}: cannot be made: {said(error)}") from error


def _gcm(call: Callable[..., bytes], nonce: bytes, associated: bytes, data: bytes) -> bytes:
    import pkcs11

    parameters = pkcs11.GCMParams(nonce, associated, _TAG_BITS)
    return call(data, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=parameters)


def _wrong(uri: TokenUri, what: str, hint: str | None) -> KeybrokerError:
    return KeybrokerError(Problem.CONFIGURATION, f"{uri}: {what}", hint=hint)
