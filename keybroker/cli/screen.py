"""What is printed: one JSON document, or tables that fit the terminal; messages go to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from keybroker.wire.problems import KeybrokerError, Problem

_GAP = "  "
_NARROWEST = 6


def print_json(document: object) -> None:
    """Print the one document that ``--json`` promises."""
    click.echo(json.dumps(document, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their headings; nothing but a remark on stderr where there are none."""
    texts = _texts(rows)
    if not texts:
        note("there are none")
        return
    for line in fit(columns, texts, terminal_width()):
        click.echo(line)


def print_facts(facts: Sequence[tuple[str, object]]) -> None:
    """Print one thing's facts, a line each."""
    widest = max(len(name) for name, _ in facts)
    for name, value in facts:
        click.echo(f"{name:<{widest}}{_GAP}{'-' if value is None else plain(value)}")


def plain(value: object) -> str:
    """Return text that stays where it is put: the words of VMs and strangers come with escapes and all."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in str(value))


def note(text: str) -> None:
    """Tell the user something that is not the result."""
    click.echo(f"keybroker: {text}", err=True)


def terminal_width() -> int | None:
    """Return the terminal's width, or None where a pipe or a file takes the output whole."""
    if not sys.stdout.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except OSError:
        return None


class Ruled:
    """A table that grows: its heading is printed once, and columns only ever get wider."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._widths = [0] * len(columns)
        self._begun = False

    def add(self, rows: Iterable[Sequence[object]]) -> None:
        """Print more rows."""
        texts = _texts(rows)
        if not texts:
            return
        shown = texts if self._begun else [tuple(self._columns), *texts]
        self._begun = True
        self._widths = [max(pair) for pair in zip(self._widths, _widest(shown), strict=True)]
        for line in _laid(shown, _narrowed(self._widths, terminal_width())):
            click.echo(line)


def _texts(rows: Iterable[Sequence[object]]) -> list[tuple[str, ...]]:
    return [tuple("-" if cell is None else plain(cell) for cell in row) for row in rows]


def fit(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Lay out a table; where it is too wide, its widest columns are cut, the first one last of all.

    Args:
        width: in characters, None for as wide as it gets.
    """
    shown = (columns, *rows)
    return _laid(shown, _narrowed(_widest(shown), width))


def _widest(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]


def _narrowed(wanted: Sequence[int], width: int | None) -> list[int]:
    widths = list(wanted)
    over = 0 if width is None else sum(widths) + len(_GAP) * (len(widths) - 1) - width
    while over > 0:
        rest = range(1, len(widths)) if any(size > _NARROWEST for size in widths[1:]) else range(1)
        widest = max(rest, key=lambda i: widths[i])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
        over -= 1
    return widths


def _laid(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    return [
        _GAP.join(_cut(cell, size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _cut(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"


def moment(time: Any) -> str | None:
    """Shorten a time of the wire (RFC 3339) to its seconds."""
    return None if time is None else f"{str(time)[:19].replace('T', ' ')}Z"


def confirm(what: str, deed: str) -> None:
    """Have somebody type the name of what is to be destroyed, or erased.

    Raises:
        KeybrokerError: USAGE where something else is typed, or nobody is there to type.
    """
    try:
        typed = click.prompt(f"Type {what} to {deed} it", err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        click.echo(err=True)
        raise KeybrokerError(
            Problem.USAGE, f"{what}: its name was not typed; nothing was done", hint="--yes, in a script"
        ) from None
    if typed != what:
        raise KeybrokerError(Problem.USAGE, f"{what}: is not what was typed; nothing was done")
