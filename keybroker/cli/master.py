"""``keybroker master``: the keys that all other keys are wrapped under, directly or not."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from keybroker.cli.access import config_option, json_option, operator_options
from keybroker.cli.families import Family
from keybroker.cli.keeping import to_keep
from keybroker.cli.owner import as_owner, credentials_directory_here, owner_named
from keybroker.cli.screen import moment, note, print_json, print_table
from keybroker.cli.selection import connect

if TYPE_CHECKING:
    from keybroker.cli.client import Client

_COLUMNS: Final = ("MASTER KEY", "STATE", "WRAPS", "CREATED", "EMPTIED", "URI")
_POLL_SECONDS: Final = 1.0
_BAR: Final = 30


@click.group(cls=Family)
def master() -> None:
    """Master keys: what the broker's stored keys are wrapped under.

    One wraps: it wraps each add-on's key, and those wrap the passphrases. Those before it only unwrap, until
    the broker has rewrapped what they wrap and they are forgotten.

    \b
      keybroker master rotate --wait
      keybroker master list
    """


@master.command("list")
@click.option("--wait", is_flag=True, help="Return when nothing is to be rewrapped any more.")
@operator_options
def list_masters(wait: bool, as_json: bool, **options: Any) -> None:
    """List the master keys, and what is still to be rewrapped.

    \b
      keybroker master list
      keybroker master list --json | jq .rewrap
    """
    client = connect(options)
    document = _wait(client) if wait else client.get("master")
    _print(document, as_json)


@master.command()
@click.option(
    "--to",
    metavar="URI",
    help="The new one: file:/path, credential:NAME, pkcs11:…, shares:….  [default: a new file]",
)
@click.option("--compromised", is_flag=True, help="The one before leaked: renew the add-ons' keys, too.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--wait", is_flag=True, help="Show how the rewrapping goes, and return when it is done.")
@operator_options
def rotate(
    to: str | None, compromised: bool, dry_run: bool, wait: bool, as_json: bool, **options: Any
) -> None:
    """Have a new master key wrap from here on; what the one before wraps is rewrapped in the background.

    On the broker's machine, as root: the key's file is made beside the configuration, which names it from
    then on. It may be cut at any moment, and run again. Save the new key where the database's backups are
    not, and keep the old one as long as backups from before the rotation.

    Only add-ons' keys are rewrapped, for they wrap the rest. If the old master key leaked, whoever has it and
    an old copy of the database has every passphrase: --compromised renews the add-ons' keys and rewraps every
    passphrase; then rotate all volumes (volume rotate --all --compromised).

    A credential has to be there before: see the drop-in's comments, restart the broker, then use --to. So has
    a key in a token (keybroker master create) and one in shares (keybroker master split).

    \b
      keybroker master rotate --dry-run
      keybroker master rotate --wait
      keybroker master rotate --to credential:keybroker-master-key-2
    """
    from keybroker.cli import ringfile

    config: Path = options["config"]
    client = connect(options)
    document = client.get("master")
    known = frozenset(one["identity"] for one in document["keys"])
    with as_owner(config):
        uri = to or ringfile.unused(config, known) or f"file:{ringfile.next_file(config)}"
        if not dry_run:
            _configure(config, uri, make=to is None)
    if dry_run:
        _foretell(document, uri, compromised=compromised, as_json=as_json)
        return
    document = client.put("master", "wrapping", uri=uri, compromised=compromised).document
    note(f"master key: {uri} wraps")
    note(f"next: {to_keep(uri)}")
    _print(_wait(client) if wait else document, as_json)


def _configure(config: Path, uri: str, *, make: bool) -> None:
    """Have the configuration name a master key first.

    Args:
        make: whether to make its file where there is none.
    """
    from keybroker.cli import ringfile
    from keybroker.masterkey import credentials_of, open_master_key

    before = ringfile.configured(config)
    path = Path(uri.removeprefix("file:"))
    if make and uri not in before:
        ringfile.make_file(path)
    if not credentials_of(uri):
        open_master_key(uri, None)  # what the broker would refuse is never configured
    after = (uri, *(each for each in before if each != uri))
    if after != before:
        ringfile.configure(config, after)


def _foretell(document: dict[str, Any], uri: str, *, compromised: bool, as_json: bool) -> None:
    keys, records = document["rewrap"]["keys"], document["rewrap"]["records"]
    if as_json:
        print_json({"uri": uri, "keys": keys, "records": records if compromised else 0})
        return
    note(f"would have {uri} wrap, and rewrap {keys} keys")
    if compromised:
        note(f"would renew every add-on's key, and rewrap {records} records")


@master.command()
@click.argument("form", metavar="K/N")
@config_option
@json_option
def split(form: str, config: Path, as_json: bool) -> None:
    """Make a new master key in N shares, of which any K start the broker, and print them, this once.

    The key itself is kept nowhere. Give each share to a holder of their own, on paper or in a password store,
    and clear the screen. The configuration names the key from then on, and it is in no use before K holders
    have shown that they can read their shares (keybroker unseal) and keybroker master rotate --to takes it.
    Other holders, or another K, mean another key: split again, and rotate.

    \b
      keybroker master split 2/3
      keybroker unseal
      keybroker master rotate --to shares:2/3/3f0c9a52e1d84b7796a0c1d2e3f40516 --wait
    """
    from keybroker.cli import ringfile
    from keybroker.cli.sharing import new_key

    made = new_key(f"shares:{form}")
    uri = made.set.uri
    with as_owner(config):
        ringfile.configure(config, (*ringfile.configured(config), uri))
    if as_json:
        print_json({"uri": uri, "shares": made.readable()})
        return
    made.show()
    note("next, with the broker running:")
    note(f"  keybroker unseal     # {made.set.threshold} times, a holder each")
    note(f"  keybroker master rotate --to {uri} --wait")


@master.command()
@click.argument("identity")
@click.option("--backups-gone", is_flag=True, help="No backup is kept from when it wrapped something.")
@operator_options
def forget(identity: str, backups_gone: bool, as_json: bool, **options: Any) -> None:
    """Forget a master key that wraps nothing any more; done again, it changes nothing.

    It is refused while anything in the database is wrapped by it. A backup of the database opens with the
    master key of its time alone, so say that none of those is kept any more. The key itself is yours to
    destroy, every copy of it.

    \b
      keybroker master forget 3f0c9a52e1d84b7796a0c1d2e3f40516 --backups-gone
    """
    client = connect(options)
    document = client.put("master", "keys", identity, "forgotten", backups_gone=backups_gone).document
    uri = next(one["uri"] for one in document["keys"] if one["identity"] == identity)
    note(f"master key {identity}: forgotten")
    _take_out(options["config"], uri)
    _print(document, as_json)


def _take_out(config: Path, uri: str | None) -> None:
    """Take a forgotten key out of this machine's configuration, where it is there."""
    from keybroker.cli import ringfile

    if uri is None or not config.exists():
        note("next: take its URI out of master_key in the broker's configuration, and destroy the key")
        return
    with as_owner(config):
        before = ringfile.configured(config)
        if uri in before and len(before) > 1:
            ringfile.configure(config, tuple(each for each in before if each != uri))
    if uri.startswith("file:"):
        note(f"next: destroy the key and every copy of it: shred -u {uri.removeprefix('file:')}")


@master.command()
@click.argument("uri")
@config_option
@json_option
def create(uri: str, config: Path, as_json: bool) -> None:
    """Have a PKCS#11 token make the key that URI names and that never leaves it; again, it changes nothing.

    The URI is RFC 7512's: which token, which key, the module that speaks to it, and the file of mode 0400
    with the PIN (or a credential), never the PIN itself. Then use the same URI for init --master-key or
    master rotate --to. The broker needs python-pkcs11, which the Debian package has.

    \b
      keybroker master create 'pkcs11:token=keybroker;object=master-1'\\
      '?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/keybroker/token.pin'
    """
    from keybroker.masterkey import create_in_token, open_master_key
    from keybroker.service.placing import as_user

    directory = credentials_directory_here()
    # a module may leave files of its own, which the broker has to be able to read
    with as_owner(config) if config.exists() else as_user(owner_named(None, config.parent)):
        is_new = create_in_token(uri, directory)
        identity = open_master_key(uri, directory).identity
    if as_json:
        print_json({"uri": uri, "identity": identity, "new": is_new})
        return
    note(f"master key {identity}: {'made' if is_new else 'is there already'}")
    note(f"next: {to_keep(uri)}")


def _print(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    print_table(
        _COLUMNS,
        [
            (
                one["identity"],
                one["state"],
                one["wraps"],
                moment(one["created"]),
                moment(one["emptied"]) or "-",
                one["uri"] or "-",
            )
            for one in document["keys"]
        ],
    )
    if not document["rewrap"]["done"]:
        note(f"rewrapping: {_line(document['rewrap'])}")


def _wait(client: Client) -> dict[str, Any]:
    """Show how the rewrapping goes, until it is done."""
    said = ""
    while True:
        document = client.get("master")
        line = _line(document["rewrap"])
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[2K{line}", nl=False, err=True)
        elif line != said:
            click.echo(line, err=True)
        said = line
        if document["rewrap"]["done"]:
            if sys.stderr.isatty():
                click.echo(err=True)
            return document
        time.sleep(_POLL_SECONDS)


def _line(rewrap: dict[str, Any]) -> str:
    """Return what is left in one line, the bar over keys and records together."""
    if rewrap["done"]:
        return "everything is wrapped by the newest keys"
    left = rewrap["keys_left"] + rewrap["records_left"] + rewrap["addons_left"]
    total = max(1, rewrap["keys"] + rewrap["records"], left)
    full = _BAR * (total - left) // total
    bar = f"[{'#' * full}{'.' * (_BAR - full)}] {100 * (total - left) // total}%"
    return f"{bar}: {rewrap['keys_left']} keys, {rewrap['records_left']} records left"


@click.command()
@click.argument("addon")
@operator_options
def rekey(addon: str, as_json: bool, **options: Any) -> None:
    """Give ADDON a new key, under which the broker rewraps its passphrases and headers in the background.

    Nothing changes on any disk, and no VM hears of it. The add-on's old key is destroyed once nothing is
    wrapped by it; keybroker master list says how far that is.

    \b
      keybroker addon rekey shop-db
    """
    client = connect(options)
    generation = client.get("addons", addon, "key")["generation"]
    answer = client.put("addons", addon, "key", generation=generation + 1)
    if as_json:
        print_json(answer.document)
        return
    note(f"add-on {addon}: its key is of generation {answer.document['generation']}")
