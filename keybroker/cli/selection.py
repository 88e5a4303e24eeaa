"""Which volumes a verb is about: one, an add-on's, or all of some age."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from keybroker.cli.access import find_access
from keybroker.cli.quantities import parse_duration
from keybroker.wire.problems import KeybrokerError, Problem

if TYPE_CHECKING:
    from keybroker.cli.client import Client

F = TypeVar("F", bound=Callable[..., Any])


def selection_options(verb: F) -> F:
    """Add the arguments and options that say which volumes: ADDON, NAME, --all, --older-than, --dry-run."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Say which volumes it would be, and do nothing."),
        click.option("--older-than", metavar="AGE", help="Only where the current key is older: 90d, 12h."),
        click.option("--all", "everything", is_flag=True, help="All volumes of all add-ons."),
        click.argument("name", required=False),
        click.argument("addon", required=False),
    ):
        verb = option(verb)
    return verb


def waiting_options(verb: F) -> F:
    """Add the options of waiting: --wait, --timeout."""
    for option in (
        click.option("--timeout", metavar="SPAN", help="Wait so long at most: 30m, 2h."),
        click.option("--wait", is_flag=True, help="Show how it goes, and return when it is done."),
    ):
        verb = option(verb)
    return verb


def connect(options: dict[str, Any]) -> Client:
    """Return the connection that a verb's options lead to; only now is there need of an HTTP client."""
    from keybroker.cli.client import Client

    return Client(find_access(options, Path.home()))


def key_age(one: dict[str, Any]) -> float | None:
    """Return the age of a volume's current key in seconds, None where it has none."""
    since = one["current_since"]
    return None if since is None else time.time() - datetime.fromisoformat(since).timestamp()


def shown_age(one: dict[str, Any]) -> str | None:
    """Return the age of a volume's current key in days: nobody rotates by the hour."""
    age = key_age(one)
    return None if age is None else f"{age // 86400:.0f}d"


def select(
    client: Client,
    addon: str | None,
    name: str | None,
    *,
    everything: bool,
    older_than: str | None,
    stages: tuple[str, ...] = ("ready",),
) -> list[dict[str, Any]]:
    """Return the volumes that are meant.

    Args:
        name: with it, that one volume, whatever its stage: the broker says what is wrong with it.
        stages: of a selection, those at these stages; swap has no keys and is never among it.

    Raises:
        KeybrokerError: USAGE; what the broker says.
    """
    if (addon is None) == (not everything):
        raise KeybrokerError(
            Problem.USAGE, "command line: name an add-on and a volume, an add-on, or --all", hint="--help"
        )
    if name is not None:
        return [client.get("addons", addon or "", "volumes", name)]
    oldest = None if older_than is None else parse_duration(older_than)
    found = client.get("volumes", **({} if addon is None else {"addon": addon}))["volumes"]
    return [
        one
        for one in found
        if one["role"] == "holder"
        and one["stage"] in stages
        and one["filesystem"] != "swap"
        and (oldest is None or (key_age(one) or 0) > oldest)
    ]
