"""``keybroker store``: where the database is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from keybroker.cli.access import config_option, json_option
from keybroker.cli.owner import become_owner, credentials_directory_here
from keybroker.cli.screen import note, print_facts, print_json
from keybroker.wire.problems import KeybrokerError, Problem

if TYPE_CHECKING:
    from keybroker.store.transfer import Copied


@click.group()
def store() -> None:
    """Move the database from this machine's file to PostgreSQL, for several brokers.

    \b
      keybroker store migrate --to 'postgresql+psycopg://keybroker@db1,db2/keybroker'
    """


@store.command()
@click.option("--to", "target", required=True, metavar="URI", help="postgresql+psycopg://…, and empty.")
@config_option
@json_option
def migrate(target: str, config: Path, as_json: bool) -> None:
    """Copy the database to PostgreSQL, compare every table, and verify the audit trail there.

    Stop the broker first. The file here is not changed, and neither is the configuration: what is to stand
    there is printed. All is copied in one transaction; cut at any moment, the target is empty, and the same
    command begins anew. Done again, it compares and changes nothing.

    \b
      systemctl stop keybroker
      keybroker store migrate --to 'postgresql+psycopg://keybroker@db1,db2/keybroker'
    """
    from keybroker.config import load
    from keybroker.service.relocation import relocate
    from keybroker.store.places import Cluster, read_place

    place = read_place(target, Path())
    if not isinstance(place, Cluster):
        raise KeybrokerError(Problem.USAGE, "--to: is for PostgreSQL, postgresql+psycopg://…")
    become_owner(config)
    installation = load(config, credentials_directory=credentials_directory_here()).installation
    tables: list[Copied] = []

    def told(table: Copied) -> None:
        tables.append(table)
        if not as_json:
            note(f"the same on both sides: {table.table}, rows: {table.rows}")

    copied, records = relocate(installation, place, told)
    if as_json:
        named = [{"table": one.table, "rows": one.rows, "sha256": one.hash} for one in tables]
        print_json({"copied": copied, "tables": named, "audit_records": records, "database": str(place)})
        return
    note(f"database: {'copied' if copied else 'was copied already, and is the same'}")
    print_facts([("tables", len(tables)), ("audit records", records)])
    note(f"next, in {config}, below [files], and then start the broker:")
    note(f'  database = "{place}"')
    if installation.state_directory != Path("/var/lib/keybroker"):
        note(f'  state = "{installation.state_directory}"')
