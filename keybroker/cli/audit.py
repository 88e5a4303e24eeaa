"""``keybroker audit``: what was asked of the broker, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from keybroker.cli.access import find_access, operator_options
from keybroker.cli.screen import moment, print_json, print_table

_COLUMNS = ("SEQUENCE", "TIME", "VERB", "OUTCOME", "ACTOR", "ADDON", "VOLUME", "HOST", "DETAIL")


@click.group()
def audit() -> None:
    """Read the audit trail: every release of a key, every refusal, every change.

    Each record holds the hash of the one before it; `keybroker check` verifies the chain.

    \b
      keybroker audit tail
    """


@audit.command()
@click.option("--after", type=click.IntRange(min=0), help="Only records above this sequence number.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many records."
)
@operator_options
def tail(after: int | None, limit: int, as_json: bool, **options: Any) -> None:
    """Show the newest records, or the first ones above --after.

    \b
      keybroker audit tail
      keybroker audit tail --after 1200 --limit 1000 --json
    """
    from keybroker.cli.client import Client

    document = Client(find_access(options, Path.home())).get(
        "audit", after=-1 if after is None else after, limit=limit
    )
    if as_json:
        print_json({"audit": document["audit"]})
        return
    print_table(
        _COLUMNS,
        [
            (
                one["sequence"],
                moment(one["at"]),
                one["verb"],
                one["outcome"],
                _short(one["actor"]),
                one["addon"],
                one["volume"],
                one["host"],
                ", ".join(f"{name}={value}" for name, value in sorted(one["detail"].items())) or None,
            )
            for one in document["audit"]
        ],
    )


def _short(actor: str) -> str:
    """Leave out the trust domain, which is the same for everybody here."""
    return "/".join(actor.split("/")[3:]) if actor.startswith("spiffe://") else actor
