"""A request that is not there: it gives a handler whatever it asks for, and notes down what that was.

``Sketch`` stands for the JSON object of a request's body. The schema is what its readers demanded of it, so
it is the parser's own; where a reader decides by what it read, ``Choices`` leads it down each way once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from keybroker.web.openapi.choosing import Choices
from keybroker.web.openapi.schema import Schema, pattern
from keybroker.wire.fields import LARGEST_INTEGER, Fields

_T = TypeVar("_T")

_NAMED: Final[dict[str, str]] = {
    "csr": """-----BEGIN CERTIFICATE REQUEST-----
MIG6MGICAQAwADBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKyNJ3L/Q4mamfWw
NXxZBKoemCiAbilIN/V3HwfW7FCh9BWyfEKTLJIyBzuYkvuVy0C/RtkY0cV8KNSp
tiACQ7qgADAKBggqhkjOPQQDAgNIADBFAiEAiovO18MOYnAKw6e4MUqxByBZGU/8
Lu9Aqy2t7dG0ztcCIHn5APnT1cTkcsV9LIHF7ta2wYzJswUt/wWbYgONUDnm
-----END CERTIFICATE REQUEST-----
""",
    "certificate": """-----BEGIN CERTIFICATE-----
MIIBbTCCAROgAwIBAgIUYFezdjjTdU+SoR4G4XPyhGJVkO0wCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBaDAeFw0yNjExMjYxMTQ4MTRaFw0yNjExMjcxMTQ4MTRaMAwx
CjAIBgNVBAMMAWgwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATZbWzSr59cOAPW
p6xgFgAfHkax2w9o8d4VPUR+7w4pd6zFLuOy8UTA2JBZL2P9MBZMLdvbrFwDdw0N
5Hsi7Ku5o1MwUTAdBgNVHQ4EFgQUIi7HMZo2zwgFCPV+oh9MaLPmw1cwHwYDVR0j
BBgwFoAUIi7HMZo2zwgFCPV+oh9MaLPmw1cwDwYDVR0TAQH/BAUwAwEB/zAKBggq
hkjOPQQDAgNIADBFAiEAxtAEBS/6RBsbzDk6N9NuXXK3uUe22XFFZML7HQ4t0oEC
IDKqyRywrL8/qioI+uihWPHj/20yhIpDjxsTVCbNRmST
-----END CERTIFICATE-----
""",
    "passphrase": "A" * 43,
}
"""Texts that their readers take, by the field's name, where no pattern says what they look like."""

_EXAMPLES: Final[tuple[str, ...]] = (
    "AAAA",
    "a",
    "kbv-aaaaaaaaaaaa",
    "kbh-aaaaaaaaaaaa",
    "0" * 32,
    "0" * 64,
    "sha256:" + "0" * 64,
    "00000000-0000-4000-8000-000000000000",
    f"kbe1.{'A' * 32}.{'A' * 43}",
    "/srv/data",
    "2026-01-31T12:00:00.000000Z",
    "192.0.2.0/24",
    "1",
    "YWdlLWVuY3J5cHRpb24ub3JnL3Yx" + "A" * 400,
)


class Sketch(Fields):
    """An object with every field that anybody asks for."""

    __slots__ = ("_choices", "_required", "schema")

    def __init__(self, choices: Choices, path: str = "") -> None:
        super().__init__({}, path)
        self._choices = choices
        self._required = True
        self.schema: Schema = {"type": "object", "properties": {}, "required": []}

    def _note(self, key: str, schema: Schema) -> None:
        properties, required = self.schema["properties"], self.schema["required"]
        if self._required:
            properties[key] = schema
            required.append(key)
        else:
            properties[key] = {"anyOf": [schema, {"type": "null"}]}

    def text(self, key: str, *, match: re.Pattern[str] | None = None, most: int = 256) -> str:
        """Note a string, and give one that matches."""
        schema: Schema = {"type": "string", "maxLength": most}
        if match is not None:
            schema["pattern"] = pattern(match)
        self._note(key, schema)
        examples: tuple[str, ...] = (_NAMED[key], *_EXAMPLES) if key in _NAMED else _EXAMPLES
        for example in examples:
            if match is None or match.fullmatch(example):
                return example
        raise LookupError(f"{self._at(key)}: no example in keybroker/web/openapi/sketch.py is {match}")

    def number(self, key: str, *, least: int = 0, most: int = LARGEST_INTEGER) -> int:
        """Note a whole number, and give the least."""
        self._note(key, {"type": "integer", "minimum": least, "maximum": most})
        return least

    def flag(self, key: str) -> bool:
        """Note a flag."""
        self._note(key, {"type": "boolean"})
        return self._choices.choose(2) == 1

    def choice(self, key: str, allowed: frozenset[str] | set[str]) -> str:
        """Note one of a few words."""
        words = sorted(allowed)
        self._note(key, {"type": "string", "enum": words})
        return words[self._choices.choose(len(words))]

    def words(self, key: str, allowed: frozenset[str]) -> tuple[str, ...]:
        """Note a list of some of a few words."""
        words = sorted(allowed)
        items = {"type": "string", "enum": words}
        self._note(key, {"type": "array", "items": items, "minItems": 1, "uniqueItems": True})
        return (words[self._choices.choose(len(words))],)

    def optional(self, key: str, read: Callable[[str], _T]) -> _T | None:
        """Note what is read, but as something that may be left out."""
        before, self._required = self._required, False
        try:
            found = read(key)
        finally:
            self._required = before
        return found if self._choices.choose(2) == 0 else None

    def object(self, key: str) -> Fields:
        """Note an object."""
        inner = Sketch(self._choices, self._at(key))
        self._note(key, inner.schema)
        return inner

    def objects(self, key: str, *, most: int = 1000) -> Iterator[Fields]:
        """Note a list of objects, and give one."""
        inner = Sketch(self._choices, f"{self._at(key)}[0]")
        self._note(key, {"type": "array", "maxItems": most, "items": inner.schema})
        yield inner

    def texts(self, key: str, *, most: int = 1000, each: int = 256) -> tuple[str, ...]:
        """Note a list of strings."""
        self._note(key, {"type": "array", "maxItems": most, "items": {"type": "string", "maxLength": each}})
        return ()

    def one_or_more(self, key: str, *, most: int, each: int) -> tuple[str, ...]:
        """Note a string or a list of them."""
        one: Schema = {"type": "string", "maxLength": each}
        self._note(key, {"anyOf": [one, {"type": "array", "maxItems": most, "items": one}]})
        return ("AAAA",)

    def numbers(self, key: str, *, most: int = 64) -> tuple[int, ...]:
        """Note a list of whole numbers."""
        self._note(key, {"type": "array", "maxItems": most, "items": {"type": "integer", "minimum": 0}})
        return ()

    def pairs(self, key: str, *, most: int = 64) -> dict[str, str]:
        """Note an object of strings."""
        values = {"type": "string", "maxLength": 1024}
        self._note(key, {"type": "object", "maxProperties": most, "additionalProperties": values})
        return {}

    def end(self, *, calm: bool = False) -> None:
        """Note that there are no other fields."""
        if not calm:
            self.schema["additionalProperties"] = False

    def ignore_rest(self) -> None:
        """Note that there may be other fields."""
