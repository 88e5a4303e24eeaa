"""A key in a PKCS#11 token, by its URI (RFC 7512): ``pkcs11:token=…;object=…?module-path=…&pin-source=…``.

| attribute | says | |
|---|---|---|
| token, serial | which token: its label, its serial number | one of them at least |
| object, id | which key in it: its label, its CKA_ID (percent-encoded bytes) | one of them at least |
| type | ``secret-key`` | optional |
| module-path | the library that speaks to it, an absolute path | required |
| pin-source | the file with the PIN, ``file:/path``; or ``credential:NAME`` | required |

``pin-value`` is refused: a configuration and a command line are read by more people than may know a PIN.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote_to_bytes

from keybroker.wire.problems import KeybrokerError, Problem

SCHEME: Final = "pkcs11:"
_PATH: Final = frozenset({"token", "serial", "object", "id", "type"})
_QUERY: Final = frozenset({"module-path", "pin-source"})
_VALUE: Final = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=&/ -]|%[0-9A-Fa-f]{2})+")
EXAMPLE: Final = (
    "pkcs11:token=keybroker;object=master-1"
    "?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/keybroker/token.pin"
)


@dataclass(frozen=True, slots=True)
class TokenUri:
    """What such a URI says.

    Attributes:
        token, serial, label, id: None where it does not say.
        module: path of the PKCS#11 library.
        pin_source: ``file:/path`` or ``credential:NAME``.
    """

    token: str | None
    serial: bytes | None
    label: str | None
    id: bytes | None
    module: str
    pin_source: str

    def __str__(self) -> str:
        named = self.label if self.label is not None else (self.id or b"").hex()
        where = self.token if self.token is not None else (self.serial or b"").decode("latin-1")
        return f"token {where}: key {named}"

    @classmethod
    def parse(cls, uri: str) -> TokenUri:
        """Read a URI.

        Raises:
            KeybrokerError: CONFIGURATION; its message does not repeat the URI, which may hold a PIN.
        """
        path, _, query = uri.removeprefix(SCHEME).partition("?")
        if not uri.startswith(SCHEME):
            raise _wrong("is no pkcs11: URI")
        named = _attributes(path, ";", _PATH)
        asked = _attributes(query, "&", _QUERY)
        if named.pop("type", b"secret-key") != b"secret-key":
            raise _wrong("type is not secret-key")
        if not named.keys() & {"token", "serial"}:
            raise _wrong("does not say which token: token=LABEL or serial=NUMBER")
        if not named.keys() & {"object", "id"}:
            raise _wrong("does not say which key: object=LABEL or id=%01")
        module = _text("module-path", asked.get("module-path", b""))
        if not PurePosixPath(module).is_absolute():
            raise _wrong("module-path must be an absolute path")
        source = _text("pin-source", asked.get("pin-source", b""))
        if source.startswith("/"):
            source = f"file:{source}"
        if not source.startswith(("file:/", "credential:")):
            raise _wrong("pin-source must be file:/absolute/path or credential:NAME")
        return cls(
            token=_text("token", named["token"]) if "token" in named else None,
            serial=named.get("serial"),
            label=_text("object", named["object"]) if "object" in named else None,
            id=named.get("id"),
            module=module,
            pin_source=source,
        )


def _attributes(text: str, between: str, known: frozenset[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for each in filter(None, text.split(between)):
        name, equals, value = each.partition("=")
        if name in ("pin-value", "pin"):
            raise _wrong(
                "a PIN does not belong into it", hint="write it to a file of mode 0400: pin-source=file:/path"
            )
        if name not in known:
            raise _wrong(f"attribute {name[:40]!r} is not known")
        if name in found:
            raise _wrong(f"{name} is there twice")
        if not equals or _VALUE.fullmatch(value) is None:
            raise _wrong(f"{name} has no value, or one with characters that have to be percent-encoded")
        found[name] = unquote_to_bytes(value)
    return found


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise _wrong(f"{name} is not UTF-8") from None
    if not text.isprintable():
        raise _wrong(f"{name} has characters that cannot be printed")
    return text


def _wrong(what: str, hint: str | None = None) -> KeybrokerError:
    return KeybrokerError(Problem.CONFIGURATION, f"master key pkcs11: {what}", hint=hint or EXAMPLE)
