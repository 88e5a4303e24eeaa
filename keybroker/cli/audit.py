"""``keybroker audit``: what was asked of the broker, and what came of it."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from keybroker import cursor
from keybroker.cli.access import find_access, operator_options
from keybroker.cli.families import Family
from keybroker.cli.quantities import parse_moment
from keybroker.cli.screen import Ruled, moment, note, print_json, print_table
from keybroker.cli.trail import export, verify
from keybroker.wire.names import VOLUME_ID
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import name_of

if TYPE_CHECKING:
    from keybroker.cli.client import Client

_COLUMNS: Final = ("SEQUENCE", "TIME", "VERB", "OUTCOME", "ACTOR", "ADDON", "VOLUME", "HOST", "DETAIL")
_FOLLOW_SECONDS: Final = 1.0
_BATCH: Final = 100


@click.group(cls=Family)
def audit() -> None:
    """Read the audit trail: every release of a key, every refusal, every change.

    Each record holds the hash of the one before it in its broker's chain, and signed checkpoints say where
    the chains ended.

    \b
      keybroker audit tail
      keybroker audit search --host kbh-q3m5x7abcdef --since 7d
      keybroker audit verify
      keybroker audit export /srv/audit.jsonl
    """


audit.add_command(export)
audit.add_command(verify)


@audit.command()
@click.option("--after", help="Only records after this one.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many records."
)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is new until interrupted.")
@operator_options
def tail(after: str | None, limit: int, follow: bool, as_json: bool, **options: Any) -> None:
    """Show the newest records, or the first ones above --after.

    With --follow, --json prints one document a line. Where several brokers write to one database each has a
    chain of its own: record 33 of broker b2 is b2/33, and --after b2/33,1200 goes on behind both.

    \b
      keybroker audit tail
      keybroker audit tail -f
      keybroker audit tail --after 1200 --limit 1000 --json
    """
    from keybroker.cli.client import Client

    begin = "-1" if after is None else _begin(after)
    client = Client(find_access(options, Path.home()))
    document = client.get("audit", after=begin, limit=limit)
    found = document["audit"]
    if follow:
        _follow(client, found, document["through"], as_json)
    elif as_json:
        print_json({"audit": found})
    else:
        print_table(_COLUMNS, map(_row, found))


def _begin(after: str) -> str:
    """Check a place that was given."""
    try:
        return cursor.text_of(cursor.parse(after, "command line: --after"))
    except KeybrokerError as error:
        raise KeybrokerError(Problem.USAGE, error.detail) from error


def _follow(client: Client, found: list[dict[str, Any]], through: str, as_json: bool) -> None:
    """Print records as they come; a broker that is away for a while is waited for."""
    with _interruptions() as interrupted:
        _follow_until(interrupted, client, found, through, as_json)


@contextlib.contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Keep note of an interruption: where it meets a finalizer, Python drops the exception that it raises."""
    said: list[int] = []

    def take(number: int, frame: FrameType | None) -> None:
        said.append(number)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, take)
    try:
        yield said
    finally:
        signal.signal(signal.SIGINT, before)


def _follow_until(
    interrupted: list[int], client: Client, found: list[dict[str, Any]], through: str, as_json: bool
) -> None:
    table, away = Ruled(_COLUMNS), False
    while True:
        if interrupted:
            raise KeyboardInterrupt
        if as_json:
            for one in found:
                click.echo(json.dumps(one))
        else:
            table.add(map(_row, found))
        if not found:
            time.sleep(_FOLLOW_SECONDS)
        try:
            document = client.get("audit", after=through, limit=1000)
        except KeybrokerError as error:
            if not error.problem.temporary:
                raise
            if not away:
                note(f"{error.detail}; waiting for it")
            found, away = [], True
            continue
        _check_shrunk(cursor.parse(through), document)
        found, through, away = document["audit"], document["through"], False


def _check_shrunk(place: dict[str, int], document: dict[str, Any]) -> None:
    """Check that no chain is shorter than it was read already."""
    from keybroker.cli.pages import place_of

    ends = place_of(document)
    for writer, sequence in sorted(place.items()):
        if ends.get(writer, 0) < sequence:
            raise KeybrokerError(
                Problem.CORRUPT,
                f"audit record {name_of(writer, sequence)}: was there, and the trail ends at"
                f" {name_of(writer, ends.get(writer, 0))}: it was cut, or the database set back",
            )


@audit.command()
@click.option("--writer", help="In the chain of this broker.")
@click.option("--actor", help="Who asked: host/ID, operator/NAME, a whole URI, token:…, local or broker.")
@click.option("--verb", help="What was asked, such as unlock or volume.rotate.")
@click.option(
    "--outcome", type=click.Choice(["done", "released", "refused", "denied"]), help="What came of it."
)
@click.option("--addon", help="About this add-on.")
@click.option("--volume", help="About this volume, by its id; by its name, with --addon.")
@click.option("--host", help="About this host.")
@click.option("--since", help="Not before: 2026-01-31, 2026-01-31T12:00Z, or 7d for 7 days ago.")
@click.option("--until", help="Before, written likewise.")
@click.option("--after", default="0", help="Only records after this one, or these: b2/33,1200.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="At most so many records."
)
@operator_options
def search(limit: int, after: str, as_json: bool, **options: Any) -> None:
    """Show the records that match all that is given, the oldest first.

    \b
      keybroker audit search --outcome refused --since 24h
      keybroker audit search --addon shop-db --volume data --verb unlock
      keybroker audit search --actor operator/alice --since 2026-01-01 --until 2026-02-01 --json
    """
    from keybroker.cli import pages
    from keybroker.cli.client import Client

    query = _query(options, datetime.now(UTC))
    client = Client(find_access(options, Path.home()))
    volume = query.get("volume")
    if volume is not None and VOLUME_ID.fullmatch(volume) is None:
        query["volume"] = _id(client, query.get("addon"), volume)
    place = cursor.parse(_begin(after))
    found = pages.matching(client, cursor.text_of(place), query)
    shown = _show(islice(found, limit), place, as_json)
    if not shown and not as_json:
        note("there are none")
    elif shown and next(found, None) is not None:
        note(f"there are more; go on with --after {cursor.text_of(place)}, or raise --limit")


def _show(found: Iterator[dict[str, Any]], place: dict[str, int], as_json: bool) -> bool:
    """Print records, a batch at a time where they are a table; say whether there were any.

    Args:
        place: of the last one of each writer, once they are printed.
    """
    documents: list[dict[str, Any]] = []
    table = None if as_json else Ruled(_COLUMNS)
    shown = False
    while batch := list(islice(found, _BATCH)):
        place |= {one["writer"]: one["sequence"] for one in batch}
        shown = True
        if table is None:
            documents += batch
        else:
            table.add(map(_row, batch))
    if as_json:
        print_json({"audit": documents})
    return shown


def _query(options: dict[str, Any], now: datetime) -> dict[str, str]:
    """Return the query that the options stand for; they are taken out of ``options``."""
    given = {
        name: options.pop(name)
        for name in ("writer", "actor", "verb", "outcome", "addon", "volume", "host", "since", "until")
    }
    query = {name: value for name, value in given.items() if value is not None}
    for name in ("since", "until"):
        if name in query:
            query[name] = parse_moment(query[name], now).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return query


def _id(client: Client, addon: str | None, name: str) -> str:
    if addon is None:
        raise KeybrokerError(
            Problem.USAGE,
            f"command line: volume {name} is no id, and --addon is missing",
            hint="--addon shop-db",
        )
    found: str = client.get("addons", addon, "volumes", name)["volume"]
    return found


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    detail = one["detail"]
    words = (
        detail if isinstance(detail, str) else ", ".join(f"{name}={detail[name]}" for name in sorted(detail))
    )
    return (
        name_of(one["writer"], one["sequence"]),
        moment(one["at"]),
        one["verb"],
        one["outcome"],
        _short(one["actor"]),
        one["addon"],
        one["volume"],
        one["host"],
        words or None,
    )


def _short(actor: str) -> str:
    """Leave out the trust domain, which is the same for everybody here."""
    return "/".join(actor.split("/")[3:]) if actor.startswith("spiffe://") else actor
