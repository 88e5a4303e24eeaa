"""``keybroker restore``: an installation back from a backup, and what is left to do afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keybroker.cli.access import config_option, json_option
from keybroker.cli.backup import read_configuration, taken_apart
from keybroker.cli.keeping import to_restore
from keybroker.cli.owner import become_owner, credentials_directory_here, operator_here, owner_named
from keybroker.cli.screen import moment, note, print_facts, print_json, print_table
from keybroker.wire.problems import KeybrokerError, Problem

if TYPE_CHECKING:
    from keybroker.service.setback import Standing
    from keybroker.store import Store


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--identity", type=click.Path(path_type=Path), help="Offline key that opens FILE.")
@click.option(
    "--master-key",
    "master_keys",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Copy of the master key, to be put where the configuration names it; may be repeated.",
)
@click.option(
    "--revoke",
    "revoked",
    multiple=True,
    metavar="HOST",
    help="Host that was revoked after the backup was made; may be repeated.",
)
@click.option("--user", help="Who is to own it all.  [default: as init]")
@click.option(
    "--scratch", type=click.Path(path_type=Path, file_okay=False), help="Where FILE is taken apart meanwhile."
)
@click.option("--check", "checking", is_flag=True, help="Say what is left to do after a restore.")
@click.option("--finish", "finishing", is_flag=True, help="Say that nothing is left to do.")
@click.option(
    "--accept",
    "accepted",
    multiple=True,
    metavar="ADDON/NAME",
    help="With --finish: go on with what the database knows of this volume; may be repeated.",
)
@click.option("--ignore-strangers", is_flag=True, help="With --finish: whoever was turned away stays so.")
@config_option
@json_option
def restore(
    file: Path | None,
    identity: Path | None,
    master_keys: tuple[Path, ...],
    revoked: tuple[str, ...],
    user: str | None,
    scratch: Path | None,
    checking: bool,
    finishing: bool,
    accepted: tuple[str, ...],
    ignore_strangers: bool,
    config: Path,
    as_json: bool,
) -> int:
    """Bring an installation back from the backup FILE, where it was; what is there is never overwritten.

    The database may be older than what the VMs have seen since. So the broker begins in RECOVERY: it serves
    boots, and mints and destroys nothing of a volume before its host has reported and is not ahead. A host
    that is ahead is recognised at its first report; its volume is listed with what to do. Hosts that were
    revoked since are revoked by --revoke, before the broker can serve them.

    \b
      keybroker restore broker.age --identity backup.key --master-key /media/usb/master.key
      systemctl start keybroker
      keybroker restore --check
      keybroker restore --finish --accept shop-db/data
    """
    if file is not None and not (checking or finishing):
        if identity is None:
            raise KeybrokerError(Problem.USAGE, "command line: nothing opens it", hint="--identity FILE")
        _restore(file, identity, master_keys, revoked, user, scratch, as_json)
        return 0
    if file is not None or checking == finishing:
        raise KeybrokerError(
            Problem.USAGE, "command line: give a backup's FILE, or --check, or --finish", hint="--help"
        )
    found = _finish(config, accepted, ignore_strangers) if finishing else _look(config)
    if as_json:
        print_json(found.as_json())
    else:
        _show(found)
    return Problem.CONFLICT.exit_status if found.is_open else 0


def _restore(
    file: Path,
    identity: Path,
    master_keys: tuple[Path, ...],
    revoked: tuple[str, ...],
    user: str | None,
    scratch: Path | None,
    as_json: bool,
) -> None:
    from keybroker.service import archive
    from keybroker.service.restoring import restore as bring_back

    with taken_apart(file, identity, scratch) as (directory, manifest):
        home = Path(manifest.config_directory)
        installation = read_configuration(directory)
        done = bring_back(
            directory,
            manifest,
            replace(installation, configuration=home / "keybroker.toml"),
            master_keys=master_keys,
            owner=owner_named(user, home),
            revoked=revoked,
            source=f"{file.name}, SHA-256 {archive.digest(file)}",
            who=operator_here(),
            now=datetime.now(UTC),
        )
    facts: dict[str, Any] = {
        "configuration": str(done.configuration),
        "database": str(done.database),
        "made": done.made,
        "ca_fingerprint": done.ca_fingerprint,
        "master_keys": [str(path) for path in done.master_keys],
        "missing_master_keys": list(done.missing),
        "ca_changing": done.ca_changing,
    }
    if as_json:
        print_json(facts)
        return
    note("restored: the broker begins in RECOVERY")
    facts["made"] = moment(done.made)
    facts["master_keys"] = ", ".join(facts["master_keys"]) or None
    facts["missing_master_keys"] = ", ".join(done.missing) or None
    del facts["ca_changing"]
    print_facts([(name.replace("_", " "), value) for name, value in facts.items()])
    note("next:")
    if done.missing:
        plain = [uri for uri in done.missing if to_restore(uri) is None]
        if plain:
            note(f"  put the master key in place: {', '.join(plain)}")
        for needed in filter(None, map(to_restore, done.missing)):
            note(f"  have there: {needed}")
    if not revoked:
        note(f"  whoever was revoked after {moment(done.made)} is welcome again: restore with --revoke HOST")
    if done.ca_changing:
        note("  the CA was being changed: if the one before was retired since, keybroker ca retire --force;")
        note("    until then hosts that know only the new one refuse this broker's certificate")
    for line in ("keybroker check", "systemctl start keybroker", "keybroker restore --check"):
        note(f"  {line}")


@contextlib.contextmanager
def _store(config: Path) -> Iterator[Store]:
    """Open this machine's database, as its owner; the master key is not needed."""
    from keybroker.audit import Writer
    from keybroker.config import load
    from keybroker.service.installation import check_files
    from keybroker.store import schema

    become_owner(config)
    installation = load(config, credentials_directory=credentials_directory_here()).installation
    check_files(installation)
    schema.check(installation.place)
    store = schema.open_store(installation.place, Writer(installation.settings.writer))
    try:
        yield store
    finally:
        store.close()


def _look(config: Path) -> Standing:
    from keybroker.service.setback import standing

    with _store(config) as store:
        return store.read(standing)


def _finish(config: Path, accepted: tuple[str, ...], ignore_strangers: bool) -> Standing:
    from keybroker.service import setback

    who = operator_here()
    with _store(config) as store:
        now = datetime.now(UTC)
        for one in accepted:
            addon, slash, name = one.partition("/")
            if not slash:
                raise KeybrokerError(Problem.USAGE, f"command line: {one}: is not ADDON/NAME")
            store.write(partial(setback.accept, addon=addon, name=name, who=who, now=now))
        return store.write(partial(setback.finish, who=who, now=now, strangers_too=ignore_strangers))


def _show(found: Standing) -> None:
    row = found.restore
    if row is None:
        note("the database was never restored, as far as is known")
        return
    print_facts(
        [
            ("restored", f"{row.at:%F %T}Z"),
            ("backup of", row.made and f"{row.made:%F %T}Z"),
            ("from", row.source),
            ("by", row.who),
            ("finished", row.finished and f"{row.finished:%F %T}Z by {row.finished_by}"),
        ]
    )
    if found.left:
        click.echo()
        print_table(
            ("VOLUME", "NOTHING IS MINTED OR DESTROYED, BECAUSE"),
            [(f"{one.addon}/{one.name or one.volume}", one.why) for one in found.left],
        )
        for one in found.left:
            note(f"{one.addon}/{one.name or one.volume}: {one.what}")
    for stranger in found.strangers:
        note(f"turned away since: {stranger}; a newer backup may know it")
    if found.is_open and not found.left and not found.strangers:
        note("every host has reported: keybroker restore --finish")
