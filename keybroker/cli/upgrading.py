"""The verb ``upgrade``: this machine's database is brought to this version's tables."""

from __future__ import annotations

from pathlib import Path

import click

from keybroker.cli.access import config_option, json_option
from keybroker.cli.owner import become_owner, credentials_directory_here
from keybroker.cli.screen import note, print_facts, print_json
from keybroker.wire.problems import KeybrokerError, Problem


@click.command()
@click.option("--rehearse", is_flag=True, help="Upgrade a copy, and leave the database as it is.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="If there is anything to upgrade, first copy the database into it, as REVISION.db.",
)
@config_option
@json_option
def upgrade(rehearse: bool, keep: Path | None, config: Path, as_json: bool) -> None:
    """Bring the database to this version's tables; done again, it changes nothing.

    Stop the broker first, but not for a rehearsal. It is one transaction: cut at any moment, the database is
    as it was before. A new Debian package does all this by itself.

    \b
      keybroker upgrade --rehearse
      systemctl stop keybroker
      keybroker upgrade --keep /var/lib/keybroker/before-upgrade
      systemctl start keybroker
    """
    from keybroker.config import load
    from keybroker.service import upgrading
    from keybroker.service.installation import upgrade as bring

    if rehearse and keep is not None:
        raise KeybrokerError(Problem.USAGE, "command line: --rehearse keeps no copy", hint="leave --keep out")
    become_owner(config)
    installation = load(config, credentials_directory=credentials_directory_here()).installation
    kept = None if keep is None else upgrading.keep(installation, keep.absolute())
    before, after = upgrading.rehearse(installation) if rehearse else bring(installation)
    if as_json:
        changed = before != after and not rehearse
        print_json({"before": before, "after": after, "changed": changed, "kept": kept and str(kept)})
        return
    done = "can be upgraded" if rehearse else "upgraded"
    note(f"database: {'unchanged' if before == after else done}")
    print_facts([("before", before), ("after", after), *([("kept", str(kept))] if kept else [])])
