"""The broker's trail, read page by page over its API."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, TypeVar

import click

from keybroker.audit import AuditEntry
from keybroker.cli.client import Client
from keybroker.proofreading import Item, Note, merged

T = TypeVar("T")

PAGE: Final = 1000
_SHOW_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class End:
    """Where the trail ended when that was asked: the last record, and the newest checkpoint's number."""

    sequence: int
    hash: str
    checkpoint: int


def end(client: Client) -> End:
    """Ask where the trail ends; both as of one moment, so that the checkpoint has seen no other records."""
    document = client.get("audit", after=-1, limit=1)
    return End(document["last"]["sequence"], document["last"]["hash"], document["checkpoint"])


def trail(client: Client, first: int, last: int, checkpoint: int) -> Iterator[Item]:
    """Yield the records from ``first`` to ``last`` and the checkpoints that have seen their end.

    Args:
        checkpoint: number of the newest one that is wanted.
    """
    start = 1 if first <= 1 else _first_number(client, first - 1, checkpoint)
    notes = takewhile(lambda note: note.sequence <= last, _notes(client, start, checkpoint))
    return merged(_records(client, first, last), notes)


def matching(client: Client, after: int, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the wire form of each record that a query matches, page by page."""
    while True:
        document = client.get("audit", after=after, limit=PAGE, **query)
        yield from document["audit"]
        after = document["through"]
        if after >= document["last"]["sequence"]:
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


def _records(client: Client, first: int, last: int) -> Iterator[AuditEntry]:
    after = first - 1
    while after < last:
        page = client.get("audit", after=after, limit=PAGE)["audit"]
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


def _first_number(client: Client, sequence: int, newest: int) -> int:
    """Return the number of the first checkpoint that has seen record ``sequence``, by halving."""
    low, high = 1, newest + 1
    while low < high:
        middle = (low + high) // 2
        page = client.get("audit", "checkpoints", after=middle - 1, limit=1)["checkpoints"]
        if not page or Note.read(page[0]).sequence >= sequence:
            high = middle
        else:
            low = middle + 1
    return low
