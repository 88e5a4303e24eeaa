"""Values of a type, made up from its annotations alone, so that its ``as_json`` shows what it writes.

Nothing here is real: the values only have the types that the code says they have.
"""

from __future__ import annotations

import types
from dataclasses import is_dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any, Final, Literal, NewType, Union, cast, get_args, get_origin, get_type_hints

from keybroker.web.openapi.choosing import Choices, each_once
from keybroker.web.openapi.schema import Schema, Tagged, merge, of, pattern
from keybroker.wire import names
from keybroker.wire.secret import Secret

_TIME: Final = datetime(2026, 1, 31, 12, tzinfo=UTC)

_NAMED: Final = {
    "AddonName": ("shop-db", names.ADDON_NAME),
    "VolumeName": ("data", names.VOLUME_NAME),
    "VolumeId": ("kbv-aaaaaaaaaaaa", names.VOLUME_ID),
    "HostId": ("kbh-aaaaaaaaaaaa", names.HOST_ID),
}

_FIELDS: Final = {"detail": "{}", "document": "{}"}
"""Fields that hold JSON as text."""


def schema_of(shape: Any) -> Schema:
    """Return the schema of what a shape (``telling.gives``) is as JSON."""
    return merge(each_once(lambda choices: of(_written(shape, choices))))


def _written(shape: Any, choices: Choices) -> Any:
    if isinstance(shape, tuple):
        first, more = shape
        return {**_written(first, choices), **_written(more, choices)}
    if isinstance(shape, dict):
        return {name: _written(each, choices) for name, each in shape.items()}
    made = specimen(shape, choices)
    return made.as_json() if hasattr(made, "as_json") else made


def specimen(kind: Any, choices: Choices) -> Any:
    """Return a value of a type.

    Raises:
        TypeError: for a type that this does not know.
    """
    origin, given = get_origin(kind), get_args(kind)
    if isinstance(kind, NewType):
        named = _NAMED.get(kind.__name__)
        if named is not None:
            return Tagged(named[0], {"type": "string", "pattern": pattern(named[1])})
        return specimen(kind.__supertype__, choices)
    if origin is Literal:
        schema = {"type": "string", "enum": sorted(given)}
        return Tagged(given[choices.choose(len(given))], schema)
    if origin in (Union, types.UnionType):
        return specimen(given[choices.choose(len(given))], choices)
    if origin is tuple and given[-1] is not Ellipsis:
        return tuple(specimen(one, choices) for one in given)
    if origin in (tuple, list, frozenset):
        return origin([specimen(given[0], choices)] if choices.choose(2) == 0 else [])
    if origin is dict:
        return {specimen(given[0], choices): specimen(given[1], choices)} if choices.choose(2) == 0 else {}
    return _plain(kind, choices)


def _plain(kind: Any, choices: Choices) -> Any:
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if kind is bool:
        return choices.choose(2) == 0
    if kind is type(None):
        return None
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(iter(kind))
    fields = _fields(kind)
    if fields is not None:
        made = {name: specimen(each, choices) for name, each in fields.items() if name not in _FIELDS}
        return cast(Any, kind)(**made, **{name: _FIELDS[name] for name in fields if name in _FIELDS})
    raise TypeError(f"{kind!r}: keybroker/web/openapi/specimen.py makes none yet")


@lru_cache
def _fields(kind: Any) -> dict[str, Any] | None:
    """Return a dataclass's fields and their types, None for other types; the one look that takes time."""
    if not is_dataclass(kind):
        return None
    hints = get_type_hints(kind)
    return {name: hints[name] for name in kind.__dataclass_fields__}


_SIMPLE: Final[dict[Any, Any]] = {
    str: "text",
    int: 1,
    float: 1.5,
    bytes: bytes(32),
    datetime: _TIME,
    Secret: Secret(b"A" * 43),
    Any: "anything",
}
