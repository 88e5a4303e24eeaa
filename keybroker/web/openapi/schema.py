"""JSON Schemas (2020-12): read off values, and put together from several looks at the same thing. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

Schema = dict[str, Any]

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class Tagged(str):
    """A string that knows its schema, and keeps it on its way through ``as_json``."""

    schema: Schema

    def __new__(cls, text: str, schema: Schema) -> Tagged:
        """Make one."""
        made = super().__new__(cls, text)
        made.schema = schema
        return made


def pattern(compiled: re.Pattern[str]) -> str:
    """Return a pattern that must match as a whole; JSON Schema's only search."""
    return f"^(?:{compiled.pattern})$"


def of(value: Any) -> Schema:
    """Return the schema of one JSON value; ``merge`` puts those of several together.

    An object whose names are all numbers maps numbers to values; an empty one may hold anything.
    """
    if isinstance(value, Tagged):
        return value.schema
    if isinstance(value, str):
        return {"type": "string", "format": "date-time"} if _TIME.fullmatch(value) else {"type": "string"}
    if value is None:
        return {"type": "null"}
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return {"type": "integer"}
    if isinstance(value, float):
        return {"type": "number"}
    if isinstance(value, list | tuple):
        return {"type": "array", "items": merge(map(of, value))} if value else {"type": "array"}
    if not value:
        return {"type": "object"}
    if all(str(name).isdigit() for name in value):
        return {"type": "object", "additionalProperties": merge(map(of, value.values()))}
    return {
        "type": "object",
        "properties": {str(name): of(each) for name, each in value.items()},
        "required": sorted(map(str, value)),
        "additionalProperties": False,
    }


def merge(schemas: Iterable[Schema]) -> Schema:
    """Return the schema of whatever any of these describes."""
    kinds: dict[str, Schema] = {}
    for schema in schemas:
        for one in schema.get("anyOf", [schema]):
            kind = one.get("type", "")
            kinds[kind] = _both(kinds[kind], one) if kind in kinds else one
    if not kinds:
        return {}
    found = sorted(kinds.values(), key=lambda one: one.get("type") == "null")
    return found[0] if len(found) == 1 else {"anyOf": found}


def _both(one: Schema, other: Schema) -> Schema:
    """Merge two schemas of the same type."""
    if one == other:
        return one
    kind = one.get("type")
    if kind == "array":
        items = [schema["items"] for schema in (one, other) if "items" in schema]
        return {**one, **other, "items": merge(items)} if items else one
    if kind == "object":
        return _both_objects(one, other)
    # what only one of them demands is not demanded
    return {name: value for name, value in one.items() if other.get(name) == value}


def _both_objects(one: Schema, other: Schema) -> Schema:
    if "properties" in one and "properties" in other:
        names = {**one["properties"], **other["properties"]}
        return {
            **one,
            "properties": {
                name: merge(each["properties"][name] for each in (one, other) if name in each["properties"])
                for name in names
            },
            "required": sorted(set(one["required"]) & set(other["required"])),
        }
    full = one if len(one) > 1 else other
    empty = other if full is one else one
    if len(empty) == 1:  # nothing was in it that time
        return {**full, "required": []} if "properties" in full else full
    return {"type": "object"}
