"""Typed reading of JSON, where each error names the path of the field that is wrong.

``Fields`` wraps one JSON object. Each getter takes a key away; ``end`` refuses what is left over, so
that a message with a field that this version does not know is refused, not half understood.

    fields = Fields.parse(body)
    name = fields.text("name", match=NAME)
    fields.end()
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from keybroker.wire.problems import KeybrokerError, Problem

_T = TypeVar("_T")

LARGEST_INTEGER: Final = 2**63 - 1
"""What SQL's BIGINT and every peer can hold."""

_HALF_A_PAIR: Final = re.compile("[\ud800-\udfff]")
"""JSON can write half a surrogate pair, UTF-8 cannot: neither a hash nor a database would take it later."""


def _malformed(path: str, wrong: str) -> KeybrokerError:
    return KeybrokerError(Problem.MALFORMED, f"{path or 'message'}: {wrong}")


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a JSON object that names a key twice: two readers could take different ones."""
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"key {key[:40]!r} is there twice")
        seen[key] = value
    return seen


def _is_text(value: str) -> bool:
    return value.isascii() or _HALF_A_PAIR.search(value) is None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class Fields:
    """The fields of one JSON object, taken one by one."""

    __slots__ = ("_left", "_path")

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise _malformed(path, "must be an object")
        self._left: dict[str, Any] = dict(value)
        self._path = path

    @classmethod
    def parse(cls, text: bytes | str) -> Fields:
        """Read one JSON object (RFC 8259), strictly.

        Raises:
            KeybrokerError: MALFORMED, for anything that is not one object without repeated keys.
        """
        try:
            value = json.loads(text, object_pairs_hook=_no_twice, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise _malformed("", f"not JSON: {str(error)[:120]}") from error
        return cls(value)

    def wrong(self, key: str, what: str) -> KeybrokerError:
        """Return, to be raised, that the field ``key`` is wrong in a way only its reader can know."""
        return _malformed(self._at(key), what)

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _take(self, key: str) -> Any:
        if key not in self._left:
            raise _malformed(self._at(key), "is missing")
        return self._left.pop(key)

    def text(self, key: str, *, match: re.Pattern[str] | None = None, most: int = 256) -> str:
        """Take a string of at most ``most`` characters that ``match`` matches as a whole."""
        value = self._take(key)
        if not isinstance(value, str):
            raise _malformed(self._at(key), "must be a string")
        if len(value) > most:
            raise _malformed(self._at(key), f"is longer than {most} characters")
        if not _is_text(value):
            raise _malformed(self._at(key), "is not text")
        if match is not None and match.fullmatch(value) is None:
            raise _malformed(self._at(key), f"must match {match.pattern}")
        return value

    def number(self, key: str, *, least: int = 0, most: int = LARGEST_INTEGER) -> int:
        """Take a whole number within bounds; true and 1.0 are not whole numbers."""
        value = self._take(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise _malformed(self._at(key), "must be a whole number")
        if not least <= value <= most:
            raise _malformed(self._at(key), f"must be from {least} to {most}")
        return value

    def flag(self, key: str) -> bool:
        """Take true or false."""
        value = self._take(key)
        if not isinstance(value, bool):
            raise _malformed(self._at(key), "must be true or false")
        return value

    def choice(self, key: str, allowed: frozenset[str] | set[str]) -> str:
        """Take one of a few words."""
        value = self.text(key)
        if value not in allowed:
            raise _malformed(self._at(key), f"must be one of {', '.join(sorted(allowed))}")
        return value

    def words(self, key: str, allowed: frozenset[str]) -> tuple[str, ...]:
        """Take a list of some of a few words, one at least and none twice."""
        values = self.texts(key, most=len(allowed))
        if not values or len(set(values)) != len(values) or not allowed.issuperset(values):
            raise _malformed(self._at(key), f"must name some of {', '.join(sorted(allowed))}, none twice")
        return values

    def optional(self, key: str, read: Callable[[str], _T]) -> _T | None:
        """Take ``key`` by ``read`` unless it is absent or null."""
        if self._left.get(key) is None:
            self._left.pop(key, None)
            return None
        return read(key)

    def object(self, key: str) -> Fields:
        """Take an object."""
        return Fields(self._take(key), self._at(key))

    def objects(self, key: str, *, most: int = 1000) -> Iterator[Fields]:
        """Take a list of at most ``most`` objects."""
        for i, value in enumerate(self._list(key, most)):
            yield Fields(value, f"{self._at(key)}[{i}]")

    def texts(self, key: str, *, most: int = 1000, each: int = 256) -> tuple[str, ...]:
        """Take a list of at most ``most`` strings of at most ``each`` characters."""
        values = self._list(key, most)
        for i, value in enumerate(values):
            if not isinstance(value, str) or len(value) > each:
                raise _malformed(f"{self._at(key)}[{i}]", f"must be a string of at most {each} characters")
            if not _is_text(value):
                raise _malformed(f"{self._at(key)}[{i}]", "is not text")
        return tuple(values)

    def one_or_more(self, key: str, *, most: int, each: int) -> tuple[str, ...]:
        """Take one string of at most ``each`` characters, or a list of at most ``most`` of them."""
        if isinstance(self._left.get(key), str):
            return (self.text(key, most=each),)
        return self.texts(key, most=most, each=each)

    def numbers(self, key: str, *, most: int = 64) -> tuple[int, ...]:
        """Take a list of at most ``most`` whole numbers, none negative."""
        values = self._list(key, most)
        for i, value in enumerate(values):
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise _malformed(f"{self._at(key)}[{i}]", "must be a whole number")
        return tuple(values)

    def pairs(self, key: str, *, most: int = 64) -> dict[str, str]:
        """Take an object whose values are all strings."""
        value = self._take(key)
        if not isinstance(value, dict) or len(value) > most:
            raise _malformed(self._at(key), f"must be an object of at most {most} fields")
        for name, text in value.items():
            if not _is_text(name):
                raise _malformed(self._at(key), "has a name that is not text")
            if not isinstance(text, str) or len(text) > 1024 or not _is_text(text):
                raise _malformed(f"{self._at(key)}.{name[:40]}", "must be a short string")
        return dict(value)

    def _list(self, key: str, most: int) -> list[Any]:
        value = self._take(key)
        if not isinstance(value, list):
            raise _malformed(self._at(key), "must be a list")
        if len(value) > most:
            raise _malformed(self._at(key), f"has more than {most} elements")
        return value

    def end(self, *, calm: bool = False) -> None:
        """Refuse fields that nobody took, unless ``calm``."""
        if self._left and not calm:
            unknown = ", ".join(sorted(name[:40] for name in self._left)[:5])
            raise _malformed(self._path, f"has fields that are not known here: {unknown}")

    def ignore_rest(self) -> None:
        """Let go of what is left: a reader of replies takes a newer broker's extra fields calmly."""
        self._left.clear()
