"""The broker's trail, read page by page over its API."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, TypeVar

import click

from keybroker import cursor
from keybroker.audit import AuditEntry
from keybroker.cli.client import Client
from keybroker.proofreading import Item, Note, merged
from keybroker.wire.receipt import name_of

T = TypeVar("T")

PAGE: Final = 1000
_SHOW_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class End:
    """Where the trail ended when that was asked: each writer's last record, and the newest checkpoint."""

    place: Mapping[str, int]
    checkpoint: int


def end(client: Client) -> End:
    """Ask where the trail ends; both as of one moment, so that the checkpoint has seen no other records."""
    document = client.get("audit", after=-1, limit=1)
    return End(place_of(document), document["checkpoint"])


def place_of(document: dict[str, Any]) -> dict[str, int]:
    """Return where each writer's chain ended as of a page."""
    return {head["writer"]: head["sequence"] for head in document["heads"]}


def is_behind(place: Mapping[str, int], end: Mapping[str, int]) -> bool:
    """Say whether there is anything between a place and the end."""
    return any(place.get(writer, 0) < last for writer, last in end.items())


def trail(client: Client, chains: Mapping[str, tuple[int, int]], checkpoint: int) -> Iterator[Item]:
    """Yield each writer's records from the first to the last, and the checkpoints that have seen their ends.

    Args:
        chains: sequence numbers of the first and the last record, by writer.
        checkpoint: number of the newest one that is wanted.
    """
    first = {writer: first for writer, (first, _last) in chains.items()}
    start = 1 if all(number <= 1 for number in first.values()) else _first_number(client, first, checkpoint)

    def is_within(note: Note) -> bool:
        return all(number <= chains.get(writer, (1, 0))[1] for writer, number in note.place.items())

    notes = takewhile(is_within, _notes(client, start, checkpoint))
    records = {writer: _records(client, writer, *numbers) for writer, numbers in chains.items()}
    return merged(records, notes)


def matching(client: Client, after: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the wire form of each record that a query matches, page by page.

    Args:
        after: a place (``keybroker.cursor``).
    """
    while True:
        document = client.get("audit", after=after, limit=PAGE, **query)
        yield from document["audit"]
        after = document["through"]
        end = place_of(document)
        if "writer" in query:
            end = {query["writer"]: end.get(query["writer"], 0)}
        if not is_behind(cursor.parse(after), end):
            return


def counted(items: Iterable[T], total: int) -> Iterator[T]:
    """Pass items on, and on a terminal say now and then how many those were."""
    show = sys.stderr.isatty()
    said = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        if show and time.monotonic() - said >= _SHOW_SECONDS:
            click.echo(f"\rkeybroker: {number} of about {total} records", err=True, nl=False)
            said = time.monotonic()
    if show:
        click.echo("\r\x1b[K", err=True, nl=False)


def _records(client: Client, writer: str, first: int, last: int) -> Iterator[AuditEntry]:
    after = first - 1
    while after < last:
        page = client.get("audit", after=name_of(writer, after), limit=PAGE, writer=writer)["audit"]
        if not page:
            return
        for one in page:
            entry = AuditEntry.read(one)
            if entry.sequence > last:
                return
            yield entry
            after = entry.sequence


def _notes(client: Client, first: int, last: int) -> Iterator[Note]:
    # By how many there were, not by what they say of themselves: that is still to be checked.
    after = first - 1
    while after < last:
        page = client.get("audit", "checkpoints", after=after, limit=PAGE)["checkpoints"]
        if not page:
            return
        for one in page[: last - after]:
            yield Note.read(one)
        after += len(page)


def _first_number(client: Client, first: Mapping[str, int], newest: int) -> int:
    """Return the number of the first checkpoint that any of these records follows or is in, by halving."""

    def has_seen(note: Note) -> bool:
        return any(note.place.get(writer, 0) >= number - 1 for writer, number in first.items())

    low, high = 1, newest + 1
    while low < high:
        middle = (low + high) // 2
        page = client.get("audit", "checkpoints", after=middle - 1, limit=1)["checkpoints"]
        if not page or has_seen(Note.read(page[0])):
            high = middle
        else:
            low = middle + 1
    return low
