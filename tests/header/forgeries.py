"""Forged headers by the thousand: every place in the JSON area, times every class of wrong value.

``forge`` is deterministic. Text is written by hand, not by ``json``, so that a key can be there twice, a
number can have a thousand digits, and a string can hold half of a surrogate pair.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Raw:
    """JSON text to be written as it is."""

    text: str


@dataclass(frozen=True)
class Members:
    """The members of an object, of which two may have the same key."""

    pairs: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Forgery:
    """One wrong value at one place.

    Attributes:
        path: where; the empty path is the whole.
        kind: the class of wrong value.
    """

    path: Place
    kind: str
    text: str

    @property
    def name(self) -> str:
        """Where and what, in words."""
        return f"{'.'.join(map(str, self.path)) or 'top'}: {self.kind}"


def write(value: Any) -> str:
    """Write JSON compactly, with what ``Raw`` and ``Members`` add to it."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        return write(Members(tuple(value.items())))
    if isinstance(value, Members):
        return "{" + ",".join(f"{json.dumps(key)}:{write(inner)}" for key, inner in value.pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(write, value)) + "]"
    return json.dumps(value)


def places(value: Any, path: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Name every value in a document, the whole included."""
    yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in inner:
        yield from places(held, (*path, key))


def replaced(document: Any, path: Place, value: Any) -> Any:
    """Return a document with another value at a place."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(document, dict):
        return {k: replaced(v, rest, value) if k == key else v for k, v in document.items()}
    if isinstance(document, list):
        return [replaced(v, rest, value) if i == key else v for i, v in enumerate(document)]
    return document  # the place is gone


MISSING: Final = object()

_BOMB: Final = 4000
"""Deep enough for any recursion, small enough for the smallest JSON area."""

# class: what is written, whatever was there
ANYTHING: Final[dict[str, Any]] = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "minus one": -1,
    "a fraction": Raw("0.5"),
    "an exponent": Raw("1e3"),
    "minus zero as a fraction": Raw("-0.0"),
    "not a number": Raw("NaN"),
    "infinity": Raw("-Infinity"),
    "2 to the 31": 2**31,
    "2 to the 32": 2**32,
    "2 to the 63": 2**63,
    "2 to the 64": 2**64,
    "a number of 5000 digits": Raw("9" * 5000),
    "a number of 400 digits": Raw("9" * 400),
    "a number with a leading zero": Raw("0001000"),
    "a hexadecimal number": Raw("0x1000"),
    "an empty string": "",
    "a space": " ",
    "a NUL": "\0",
    "a word": "x",
    "a number in a string": "1",
    "minus one in a string": "-1",
    "2 to the 64 in a string": str(2**64),
    "2 to the 63 in a string": str(2**63),
    "an overlong string": "A" * 9000,
    "half a surrogate pair": "\ud800",
    "a raw control character": Raw('"a\nb"'),
    "a string in single quotes": Raw("'x'"),
    "a comment": Raw("/* x */ 0"),
    "an empty list": [],
    "an empty object": {},
    "a list of lists": [[[]]],
    "an object in an object": {"0": {"0": {}}},
    "a deep list": Raw("[" * 9 + "]" * 9),
    "a bomb of lists": Raw("[" * _BOMB + "]" * _BOMB),
    "a bomb of objects": Raw('{"a":' * (_BOMB // 3) + "0" + "}" * (_BOMB // 3)),
    "an open bomb": Raw("[" * _BOMB),
    "nothing at all": Raw(""),
}


def _of_string(held: str) -> Iterator[tuple[str, Any]]:
    """Wrong values that resemble the right one."""
    yield "itself and a NUL", held + "\0"
    yield "itself, a NUL and more", held + "\0-x"
    yield "itself and a space", held + " "
    yield "a space and itself", " " + held
    yield "itself and a newline", held + "\n"
    yield "itself twice", held + held
    yield "without its last character", held[:-1]
    yield "a word joiner in it", held[:1] + "\u2060" + held[1:]
    yield "right to left", "\u202e" + held
    yield "a byte order mark", "\ufeff" + held
    yield "its first character fullwidth", chr(ord(held[0]) + 0xFEE0) + held[1:] if held else "\uff10"
    yield "a Cyrillic a in it", held.replace("a", "\u0430") if "a" in held else held + "\u0430"
    yield "in a list", [held]
    yield "in an object", {"0": held}
    if held.upper() != held:
        yield "in capitals", held.upper()
    if held.isdigit():
        yield "with a plus sign", "+" + held
        yield "with a minus sign", "-" + held
        yield "with a leading zero", "0" + held
        yield "in hexadecimal", hex(int(held))
        yield "as a fraction", held + ".0"
        yield "with an underscore", held + "_0"
        yield "in Arabic digits", "".join(chr(0x660 + int(digit)) for digit in held)
        yield "and 2 to the 64 more", str(int(held) + 2**64)
        yield "as a number", int(held)
        yield "and one more", str(int(held) + 1)
        yield "and 256 more", str(int(held) + 256)


def _of_number(held: int) -> Iterator[tuple[str, Any]]:
    yield "as a string", str(held)
    yield "as a fraction", Raw(f"{held}.0")
    yield "with an exponent", Raw(f"{held}e0")
    yield "negative", -held
    yield "with a plus sign", Raw(f"+{held}")
    yield "and 2 to the 32 more", held + 2**32
    yield "and 2 to the 64 more", held + 2**64
    yield "in a list", [held]
    yield "in an object", {"0": held}


def _of_object(held: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    members = tuple(held.items())
    yield "as a list", [*held.values()]
    yield "in a list", [held]
    yield "as a string", json.dumps(held)
    yield "an unknown member", Members((*members, ("kb", 0)))
    yield "an unknown member with an empty key", Members((*members, ("", 0)))
    yield "an unknown member with a NUL for a key", Members((*members, ("\0", 0)))
    yield "an unknown member with an overlong key", Members((*members, ("k" * 5000, 0)))
    yield "an unknown member with a surrogate for a key", Members((*members, ("\ud800", 0)))
    yield "five hundred unknown members", Members((*members, *((f"k{i}", 0) for i in range(500))))
    for key, value in members:
        yield f"{key} is there twice", Members((*members, (key, value)))
        yield f"{key} is there twice, first otherwise", Members(((key, 0), *members))
        yield f"{key} is there twice, then otherwise", Members((*members, (key, {})))
        yield f"{key} once more with a NUL", Members((*members, (key + "\0", value)))
        if not key.isdigit():
            yield f"{key} in capitals", Members(tuple((k.upper() if k == key else k, v) for k, v in members))
        yield f"{key} with a space", Members(tuple((k + " " if k == key else k, v) for k, v in members))
    numbered = [key for key in held if key.isdigit()]
    for key in numbered:
        for name in (
            "00",
            "0" + key,
            "-" + key,
            "+" + key,
            " " + key,
            "32",
            "4294967296",
            "\u0660",
            "\uff10",
            "",
        ):
            yield f"{key} named {name!a}", Members(tuple((name if k == key else k, v) for k, v in members))
    if numbered:
        many = tuple((str(i), held[numbered[0]]) for i in range(33))
        yield "thirty-three of them", Members(many)


def _of_list(held: list[Any]) -> Iterator[tuple[str, Any]]:
    yield "as an object", {str(i): value for i, value in enumerate(held)}
    yield "in a list", [held]
    yield "with null", [*held, None]
    yield "with an object", [*held, {}]
    yield "with a number", [*held, 1]
    yield "with something that is not there", [*held, "31"]
    yield "with an empty string", [*held, ""]
    yield "with a thousand more", [*held, *map(str, range(1000))]
    for value in held[:1]:
        yield "its first element twice", [*held, value]


def forge(document: Any) -> Iterator[Forgery]:
    """Make every forgery of a document, in a fixed order."""
    for path, held in places(document):
        if path:
            yield Forgery(path, "missing", _without(document, path))
        for kind, value in ANYTHING.items():
            if _differs(value, held):
                yield Forgery(path, kind, write(replaced(document, path, value)))
        for kind, value in _resembling(held):
            yield Forgery(path, kind, write(replaced(document, path, value)))


def _without(document: Any, path: Place) -> str:
    *above, key = path
    outer = document
    for step in above:
        outer = outer[step]
    if isinstance(outer, dict):
        left: Any = {k: v for k, v in outer.items() if k != key}
    else:
        left = [v for i, v in enumerate(outer) if i != key]
    return write(replaced(document, tuple(above), left))


def _differs(value: Any, held: Any) -> bool:
    return type(value) is not type(held) or value != held


def _resembling(held: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(held, str):
        return _of_string(held)
    if isinstance(held, dict):
        return _of_object(held)
    if isinstance(held, list):
        return _of_list(held)
    return _of_number(held)


def scrambled(document: Any, seed: int) -> bytes:
    """Make a document wrong at a few random places at once, or its text at a few random bytes."""
    chance = random.Random(seed)
    if chance.random() < 0.3:
        text = bytearray(write(document).encode())
        for _ in range(chance.randint(1, 4)):
            text[chance.randrange(len(text))] = chance.choice(b'\0\t "\\{}[],:0123456789aAzZ\x7f\x80\xff')
        return bytes(text)
    known = list(places(document))
    for _ in range(chance.randint(2, 5)):
        path, held = chance.choice(known)
        choices = [*ANYTHING.values(), *(value for _, value in _resembling(held)), chance.choice(known)[1]]
        document = replaced(document, path, chance.choice(choices))
    return write(document).encode()


def of_segment(number: str, **fields: Any) -> Callable[[Any], None]:
    """Return a change to one segment of a JSON area."""

    def change(metadata: Any) -> None:
        metadata["segments"][number].update(fields)

    return change


def of_keyslot(number: str, **fields: Any) -> Callable[[Any], None]:
    """Return a change to one keyslot of a JSON area."""

    def change(metadata: Any) -> None:
        metadata["keyslots"][number].update(fields)

    return change
