"""``keybroker backup``: this machine's installation in one encrypted file, and a rehearsal of its restore."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from keybroker.cli.access import config_option, json_option
from keybroker.cli.families import Family
from keybroker.cli.keeping import to_restore
from keybroker.cli.owner import as_owner, credentials_directory_here, operator_here
from keybroker.cli.screen import note, print_facts, print_json, print_table
from keybroker.wire.problems import KeybrokerError, Problem

if TYPE_CHECKING:
    from keybroker.service.archive import Manifest
    from keybroker.service.installation import Installation


class _MakeByDefault(Family):
    """``backup FILE`` is short for ``backup make FILE``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take anything that is no command for a file."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["make", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_MakeByDefault)
def backup() -> None:
    """Back this machine's installation up, encrypted to offline keys: database, configuration, CA.

    It is made while the broker runs, and is consistent. The master key is never in it: keep that elsewhere,
    for without it the passphrases in a backup are noise. Stock tools open it: age -d -i KEY FILE | tar -t

    \b
      keybroker backup /srv/backups/broker-$(date +%F).age --recipient age1...
      keybroker backup verify /srv/backups/broker-2026-01-31.age --identity backup.key
    """


@backup.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--recipient",
    "recipients",
    multiple=True,
    metavar="AGE1...",
    help="Offline key that opens it; may be repeated.  [default: those of the recovery key]",
)
@click.option(
    "--without-ca-key",
    is_flag=True,
    help="Leave the CA's key out, or both CAs'; no broker starts without it.",
)
@config_option
@json_option
def make(file: Path, recipients: tuple[str, ...], without_ca_key: bool, config: Path, as_json: bool) -> None:
    """Write a backup to FILE, which must not be there; `keybroker backup FILE` is the same.

    The CA's key is in it, because without it every VM would have to be enrolled anew after a restore; while
    the CA is changed, both certificates and the keys of both. Operators' keys are not. That it was made is in
    the audit trail.

    \b
      keybroker backup make /srv/backups/broker.age --recipient age1...
    """
    from keybroker.age import read_recipients
    from keybroker.config import load
    from keybroker.service.backup import make as write

    chosen = read_recipients(recipients) if recipients else ()
    who, now = operator_here(), datetime.now(UTC)
    with _new_file(file) as target, as_owner(config):
        settings = load(config, credentials_directory=credentials_directory_here())
        manifest = write(
            settings.installation, target, chosen, now=now, who=who, with_ca_key=not without_ca_key
        )
    facts = {
        "file": str(file),
        "bytes": file.stat().st_size,
        "made": manifest.made,
        "schema": manifest.schema,
        "audit_records": sum(head.sequence for head in manifest.heads),
        "ca_fingerprint": manifest.ca_fingerprint,
        "members": sorted(manifest.files),
    }
    if as_json:
        print_json(facts)
        return
    note("backup: made")
    facts["members"] = ", ".join(sorted(manifest.files))
    print_facts([(name.replace("_", " "), value) for name, value in facts.items()])
    for needed in filter(None, map(to_restore, settings.installation.master_keys)):
        note(f"a restore needs, beside this file: {needed}")
    note(f"next: keybroker backup verify {file} --identity FILE")


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write, which is in place once it is whole and durable, and not at all otherwise."""
    from keybroker.service.placing import sync

    if os.path.lexists(path):
        raise KeybrokerError(Problem.EXISTS, f"{path}: is there already", hint="a backup overwrites nothing")
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise KeybrokerError(Problem.CONFIGURATION, f"{path}: cannot be made: {error.strerror}") from None
    beside = Path(name)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.link(beside, path)  # unlike a rename, over nothing
    except OSError as error:
        raise KeybrokerError(Problem.UNAVAILABLE, f"{path}: cannot be written: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
    sync(path.absolute().parent)


@backup.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--identity",
    type=click.Path(path_type=Path),
    required=True,
    help="Offline key (age-keygen) that opens it.",
)
@click.option(
    "--master-key",
    "master_keys",
    multiple=True,
    metavar="URI",
    help="Where a master key is: file:/path.  [default: as the backup's configuration says]",
)
@click.option(
    "--scratch", type=click.Path(path_type=Path, file_okay=False), help="Where it is taken apart meanwhile."
)
@click.option("--shares", is_flag=True, help="Ask for shares of the master key, if it is in shares.")
@json_option
def verify(
    file: Path,
    identity: Path,
    master_keys: tuple[str, ...],
    scratch: Path | None,
    shares: bool,
    as_json: bool,
) -> int:
    """Rehearse a restore of FILE in a directory of its own, which is gone afterwards; nothing else changes.

    Signature and hashes, every page of the database, its tables, the audit trail to its end, and, with the
    master key at hand, every wrapped key and header copy. The exit status is 0 if nothing is wrong.

    \b
      keybroker backup verify broker.age --identity backup.key
      keybroker backup verify broker.age --identity backup.key --master-key file:/media/usb/master.key
    """
    from keybroker.cli.sharing import gather
    from keybroker.service.drill import rehearse

    with taken_apart(file, identity, scratch) as (directory, manifest):
        installation = read_configuration(directory, master_keys)
        held = gather(installation.master_keys) if shares else {}
        results = rehearse(directory, manifest, installation, held)
    if as_json:
        print_json({"checks": [result.as_json() for result in results]})
    else:
        print_table(("CHECK", "STATE", "DETAIL"), [(one.check, one.state, one.detail) for one in results])
    return Problem.CORRUPT.exit_status if any(one.state == "wrong" for one in results) else 0


@contextlib.contextmanager
def taken_apart(file: Path, identity: Path, scratch: Path | None) -> Iterator[tuple[Path, Manifest]]:
    """Give a private directory with what a backup holds; it is gone afterwards.

    Raises:
        KeybrokerError: CONFIGURATION where a file cannot be read; CORRUPT, as ``archive.read``.
    """
    from keybroker.age import Identities
    from keybroker.service import archive

    keys = Identities.read(identity)
    with tempfile.TemporaryDirectory(prefix="keybroker-", dir=scratch) as private:
        directory = Path(private)
        try:
            with file.open("rb") as source:
                manifest = archive.read(source, keys, directory)
        except OSError as error:
            what = (error.strerror or "cannot be read").lower()
            raise KeybrokerError(Problem.CONFIGURATION, f"{error.filename or file}: {what}") from None
        yield directory, manifest


def read_configuration(directory: Path, master_keys: tuple[str, ...] = ()) -> Installation:
    """Read the configuration of a backup that was taken apart.

    Args:
        master_keys: URIs that count instead of its own.
    """
    from keybroker.config import FILE_NAME, load

    settings = load(directory / FILE_NAME, credentials_directory=credentials_directory_here())
    installation = settings.installation
    return replace(installation, master_keys=master_keys) if master_keys else installation
