"""Our dataclasses against the standard library's: the same classes, made by both, behave the same."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from keybroker.wire import values


def classes(module: Any) -> Any:
    """Make the same classes with the tools of one or of the other module."""

    @module.dataclass(frozen=True, slots=True)
    class Plain:
        """A plain one."""

        name: str
        size: int = 3

        @property
        def twice(self) -> int:
            return self.size * 2

    @module.dataclass(frozen=True, slots=True)
    class Rich:
        """One with every kind of field."""

        plain: Plain
        key: bytes = module.field(repr=False)
        held: dict[str, int] = module.field(default_factory=dict)

    return SimpleNamespace(Plain=Plain, Rich=Rich, replace=module.replace)


OURS, THEIRS = classes(values), classes(dataclasses)

CASES: dict[str, Callable[[Any], object]] = {
    "positions": lambda m: repr(m.Plain("a", 2)),
    "names": lambda m: repr(m.Plain(size=2, name="a")),
    "defaults": lambda m: repr(m.Plain("a")),
    "hidden": lambda m: repr(m.Rich(m.Plain("a"), b"secret")),
    "equal": lambda m: m.Plain("a") == m.Plain("a", 3),
    "unequal": lambda m: m.Plain("a") == m.Plain("a", 4),
    "not equal to a tuple": lambda m: m.Plain("a") == ("a", 3),
    "hash": lambda m: hash(m.Plain("a")) == hash(m.Plain("a", 3)),
    "no hash of a dictionary": lambda m: hash(m.Rich(m.Plain("a"), b"")),
    "factory makes another each time": lambda m: (
        m.Rich(m.Plain("a"), b"").held is m.Rich(m.Plain("a"), b"").held
    ),
    "property": lambda m: m.Plain("a").twice,
    "frozen": lambda m: setattr(m.Plain("a"), "size", 4),
    "frozen against deletion": lambda m: delattr(m.Plain("a"), "size"),
    "no dictionary": lambda m: hasattr(m.Plain("a"), "__dict__"),
    "slots": lambda m: m.Plain.__slots__,
    "pattern": lambda m: m.Rich.__match_args__,
    "missing": lambda m: m.Plain(),
    "missing, with a hidden field": lambda m: m.Rich(m.Plain("a")),
    "too many": lambda m: m.Plain("a", 1, 2),
    "twice": lambda m: m.Plain("a", name="b"),
    "unknown": lambda m: m.Plain("a", colour=1),
    "replace": lambda m: repr(m.replace(m.Plain("a"), size=9)),
    "replace with the unknown": lambda m: m.replace(m.Plain("a"), colour=9),
    "standard replace": lambda m: repr(dataclasses.replace(m.Plain("a"), size=9)),
    "standard fields": lambda m: [(f.name, f.type) for f in dataclasses.fields(m.Plain)],
    "standard asdict": lambda m: dataclasses.asdict(m.Rich(m.Plain("a"), b"k", {"b": 1})),
    "copy": lambda m: repr(copy.deepcopy(m.Rich(m.Plain("a"), b"k", {"b": 1}))),
    "name and text": lambda m: (m.Plain.__name__, m.Plain.__qualname__, m.Plain.__module__, m.Plain.__doc__),
}


def outcome(act: Callable[[Any], object], module: Any) -> object:
    try:
        return act(module)
    except Exception as error:  # what is raised is what is compared
        return type(error)


@pytest.mark.parametrize("case", CASES)
def test_behaves_as_the_standard_librarys(case: str) -> None:
    assert outcome(CASES[case], OURS) == outcome(CASES[case], THEIRS)


@pytest.mark.parametrize("wrong", [{"frozen": False, "slots": True}, {"frozen": True, "slots": False}])
def test_makes_no_other_kind(wrong: dict[str, bool]) -> None:
    with pytest.raises(TypeError, match="frozen and have slots"):
        values.dataclass(**wrong)


def test_the_path_of_a_boot_does_not_import_dataclasses() -> None:
    program = "import sys, agent.cli, agent.unlocking; print('dataclasses' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
