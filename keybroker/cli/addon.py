"""``keybroker addon``: the databases whose disks are encrypted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from keybroker.cli.access import find_access, operator_options
from keybroker.cli.deletion import delete_addon, pending_facts, undelete_addon
from keybroker.cli.families import Family
from keybroker.cli.master import rekey
from keybroker.cli.policy import policy, policy_facts
from keybroker.cli.record import addon_record
from keybroker.cli.screen import moment, note, print_facts, print_json, print_table
from keybroker.wire.names import ENGINES

_COLUMNS = ("ADDON", "ENGINE", "VOLUMES", "HOSTS", "CREATED", "STATE")


@click.group(cls=Family)
def addon() -> None:
    """Add-ons: the databases whose disks are encrypted.

    An add-on owns volumes and hosts; a host opens its own add-on's volumes and no other's.

    \b
      keybroker addon add shop-db --engine postgresql
      keybroker addon show shop-db
    """


@addon.command()
@click.argument("name")
@click.option("--engine", type=click.Choice(sorted(ENGINES)), required=True, help="What runs on it.")
@operator_options
def add(name: str, engine: str, as_json: bool, **options: Any) -> None:
    """Add an add-on; done again, it changes nothing.

    NAME begins with a letter and has small letters, digits and hyphens, 40 at most.

    \b
      keybroker addon add shop-db --engine postgresql
    """
    from keybroker.cli.client import Client

    answer = Client(find_access(options, Path.home())).put("addons", name, engine=engine)
    if as_json:
        print_json({**answer.document, "changed": answer.created})
        return
    note(f"addon {name}: {'added' if answer.created else 'unchanged'}")
    _show(answer.document)
    if answer.created:
        note(f"next: keybroker volume add {name} data --size 20G --mount /srv/data")


addon.add_command(policy)
addon.add_command(rekey)
addon.add_command(delete_addon, "delete")
addon.add_command(undelete_addon, "undelete")
addon.add_command(addon_record, "record")


@addon.command("list")
@click.option("--all", "everything", is_flag=True, help="With those that were destroyed.")
@operator_options
def list_addons(everything: bool, as_json: bool, **options: Any) -> None:
    """List all add-ons.

    \b
      keybroker addon list
      keybroker addon list --json | jq -r '.addons[].name'
    """
    from keybroker.cli.client import Client

    document = Client(find_access(options, Path.home())).get("addons")
    if as_json:
        print_json(document)
        return
    print_table(
        _COLUMNS,
        [
            (one["name"], one["engine"], one["volumes"], one["hosts"], moment(one["created"]), _state(one))
            for one in document["addons"]
            if everything or one["destroyed"] is None
        ],
    )


@addon.command()
@click.argument("name")
@operator_options
def show(name: str, as_json: bool, **options: Any) -> None:
    """Show one add-on.

    \b
      keybroker addon show shop-db
    """
    from keybroker.cli.client import Client

    document = Client(find_access(options, Path.home())).get("addons", name)
    if as_json:
        print_json(document)
    else:
        _show(document)


def _state(one: dict[str, Any]) -> str | None:
    if one["destroyed"] is not None:
        return "destroyed"
    if one["deletion"] is not None:
        return f"to be destroyed {one['deletion']['due'][:10]}"
    return None if one["policy"]["enabled"] else "disabled"


def _show(one: dict[str, Any]) -> None:
    print_facts(
        [
            ("addon", one["name"]),
            ("engine", one["engine"]),
            ("volumes", one["volumes"]),
            ("hosts", one["hosts"]),
            ("created", moment(one["created"])),
            *([("destroyed", moment(one["destroyed"]))] if one["destroyed"] else []),
            *pending_facts(one["deletion"]),
            *policy_facts(one["policy"]),
        ]
    )
