"""Frozen dataclasses with slots, for what starts at every boot.

    from keybroker.wire.values import dataclass, field, replace

``dataclasses`` compiles six methods for each class: with its own import, 33 of the 80 ms that importing the
agent's 60 classes took. Here they share the same few methods; an object takes some microseconds more to make.
To the type checker these are dataclasses, and to the standard ``replace``, ``fields`` and ``asdict`` too
(tests/unit/test_wire_values.py).

Only what is used is there: no inheritance; ``field(repr=False)`` and ``field(default_factory=…)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace

_ABSENT: Any = object()


class _Field:
    """What ``field`` was told."""

    def __init__(self, default_factory: Callable[[], object] | None = None, repr: bool = True) -> None:
        self.default_factory = default_factory
        self.repr = repr


class _DataclassFields:
    """``__dataclass_fields__``, which the standard functions look for; made when one of them asks."""

    def __get__(self, instance: object, owner: type[_Value]) -> dict[str, Any]:
        from dataclasses import make_dataclass

        fields = [(name, owner.__annotations__[name]) for name in owner.__match_args__]
        return make_dataclass(owner.__name__, fields).__dict__["__dataclass_fields__"]  # type: ignore[no-any-return]


class _Value:
    """The methods of every class; copied into each, so that it stands below ``object`` as it was written."""

    __match_args__: tuple[str, ...] = ()
    __defaults__: dict[str, object]
    __shown__: tuple[str, ...]

    def __init__(self, *given: object, **named: object) -> None:
        names, kind = self.__match_args__, type(self)
        if len(given) > len(names):
            raise TypeError(f"{kind.__name__}() takes {len(names)} values, not {len(given)}")
        for name, value in zip(names, given, strict=False):
            object.__setattr__(self, name, value)
        for name in names[len(given) :]:
            value = named.pop(name, _ABSENT)
            if value is _ABSENT:
                value = kind.__defaults__.get(name, _ABSENT)
            if isinstance(value, _Field):
                value = value.default_factory() if value.default_factory else _ABSENT
            if value is _ABSENT:
                raise TypeError(f"{kind.__name__}() is missing {name!r}")
            object.__setattr__(self, name, value)
        if named:
            raise TypeError(f"{kind.__name__}() got {', '.join(map(repr, named))} too often or in vain")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__shown__)
        return f"{type(self).__qualname__}({shown})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__match_args__)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__match_args__))

    def __setattr__(self, name: str, value: object) -> None:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), tuple(getattr(self, name) for name in self.__match_args__)


_METHODS = {name: value for name, value in vars(_Value).items() if callable(value)}


def _made(cls: type) -> type:
    """Return the class again, with slots and the methods: slots can only be given to a class that is new."""
    body = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    names = tuple(body.get("__annotations__", ()))
    defaults = {name: body.pop(name) for name in names if name in body}
    hidden = {name for name, value in defaults.items() if isinstance(value, _Field) and not value.repr}
    body |= _METHODS
    body |= {
        "__slots__": names,
        "__match_args__": names,
        "__defaults__": defaults,
        "__shown__": tuple(name for name in names if name not in hidden),
        "__dataclass_fields__": _DataclassFields(),
        "__qualname__": cls.__qualname__,
    }
    return type(cls)(cls.__name__, cls.__bases__, body)


if not TYPE_CHECKING:

    def dataclass(*, frozen: bool, slots: bool) -> Callable[[type], type]:
        """Make a class a frozen dataclass with slots, and nothing else."""
        if not (frozen and slots):
            raise TypeError("here, dataclasses are frozen and have slots")
        return _made

    def field(*, default_factory: Callable[[], object] | None = None, repr: bool = True) -> _Field:
        """Describe a field whose default is made anew for each object, or that is not shown."""
        return _Field(default_factory, repr)

    def replace(value: _Value, **changes: object) -> _Value:
        """Return another value with some fields changed."""
        return type(value)(**{name: getattr(value, name) for name in value.__match_args__} | changes)
