"""``keybroker recovery``: the offline key that opens disks when there is no broker any more."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keybroker.cli.access import operator_options
from keybroker.cli.families import Family
from keybroker.cli.screen import moment, note, print_facts, print_json, print_table
from keybroker.cli.selection import connect
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.recovery import prove
from keybroker.wire.secret import passphrase

if TYPE_CHECKING:
    from keybroker.age import Identities
    from keybroker.cli.client import Client


@click.group(cls=Family)
def recovery() -> None:
    """Recovery: the offline key that opens disks when there is no broker any more.

    Its public half is set here; the private half stays offline. Every passphrase is encrypted to it, and
    lies in that form at the broker and in the header of its disk, where stock age and cryptsetup find it
    (docs/recovery-drill.md).

    \b
      age-keygen -o recovery.key                       # on a machine without a network
      keybroker recovery set-key age1...
      keybroker recovery check --all --identity recovery.key
    """


@recovery.command("set-key")
@click.argument("recipients", nargs=-1, required=True, metavar="RECIPIENT...")
@operator_options
def set_key(recipients: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Have every passphrase encrypted to RECIPIENT, an age public key; done again, it changes nothing.

    Of several recipients each opens everything alone. They replace those that were set before: what is on
    the disks is replaced by each host within the hour. If the key before is known to others, rotate the
    volumes, too: what they have copied from a disk stays good until then. It takes the role approver.

    \b
      keybroker recovery set-key age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq
      keybroker recovery set-key $(cat alice.pub) $(cat bob.pub)
    """
    client = connect(options)
    answer = client.put("recovery", recipients=list(recipients))
    while (done := client.post("recovery", "renewal"))["renewed"]:
        note(f"encrypted to it: {done['renewed']} volumes, {done['left']} left")
        if not done["left"]:
            break
    document = {**client.get("recovery"), "changed": answer.created}
    if as_json:
        print_json(document)
        return
    note(f"recovery key: {'set' if answer.created else 'unchanged'}")
    _print_key(document)
    if answer.created:
        note("next: keybroker recovery check --all --identity FILE")


@recovery.command()
@operator_options
def show(as_json: bool, **options: Any) -> None:
    """Show the recovery key, and for which volumes it is in place and was checked.

    \b
      keybroker recovery show
    """
    client = connect(options)
    key, found = client.get("recovery"), client.get("recovery", "volumes")["volumes"]
    if as_json:
        print_json({**key, "volumes": found})
        return
    _print_key(key)
    if found:
        click.echo()
        print_table(
            ("VOLUME", "KEY", "AT THE BROKER", "ON THE DISK", "LAST CHECK"),
            [
                (
                    f"{one['addon']}/{one['name']}",
                    one["recovery"] and one["recovery"]["version"],
                    "yes" if one["recovery"] else "no",
                    _on_disk(one),
                    _checked(one["checked"]),
                )
                for one in found
            ],
        )


def _print_key(key: dict[str, Any]) -> None:
    if not key["number"]:
        note("there is no recovery key")
        return
    print_facts(
        [
            ("recovery key", key["number"]),
            *(("recipient", one) for one in key["recipients"]),
            ("set", moment(key["created"])),
            ("volumes to encrypt", key["waiting"]),
        ]
    )


def _on_disk(one: dict[str, Any]) -> str:
    if one["on_disk"] is None:
        return "not yet"
    return "yes" if one["recovery"] and one["on_disk"] == one["recovery"]["digest"] else "another one"


def _checked(check: dict[str, Any] | None) -> str | None:
    if check is None:
        return None
    said = f"{moment(check['at'])} by {check['operator']}"
    return said if check["current"] else f"{said}, of another ciphertext"


@recovery.command()
@click.argument("addon", required=False)
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Every volume that has a key.")
@click.option(
    "--identity",
    type=click.Path(path_type=Path),
    required=True,
    help="The offline key: a file as age-keygen writes it.",
)
@operator_options
def check(
    addon: str | None, name: str | None, everything: bool, identity: Path, as_json: bool, **options: Any
) -> int:
    """Prove with the offline key itself that it opens the volume's passphrase; nothing is printed of that.

    The ciphertext is decrypted here, on the machine with the offline key. What was found goes to the broker
    as a proof (an HMAC), never as itself; the broker compares, and keeps when that was.

    \b
      keybroker recovery check shop-db data --identity recovery.key
      keybroker recovery check --all --identity recovery.key
    """
    from keybroker.age import Identities

    if everything == (addon is not None) or (addon is None) != (name is None):
        raise KeybrokerError(
            Problem.USAGE, "command line: name an add-on and a volume, or --all", hint="--help"
        )
    keys, client = Identities.read(identity), connect(options)
    if addon is not None and name is not None:
        client.get("addons", addon, "volumes", name)  # says it where there is none
    found = client.get("recovery", "volumes")["volumes"]
    chosen = [one for one in found if everything or (one["addon"], one["name"]) == (addon, name)]
    results = [{**_facts(one), **_proven(client, keys, one)} for one in chosen]
    if as_json:
        print_json({"volumes": results})
    else:
        print_table(
            ("VOLUME", "KEY", "RESULT", "ON THE DISK"),
            [
                (f"{each['addon']}/{each['name']}", each["version"], each["result"], each["on_disk"])
                for each in results
            ],
        )
    bad = [each for each in results if not each["opens"]]
    if bad:
        note(f"{len(bad)} of {len(results)} volumes cannot be opened with this identity")
    return Problem.CORRUPT.exit_status if bad or not results else 0


@recovery.command("import")
@click.argument("addon")
@click.argument("name")
@click.option(
    "--identity",
    type=click.Path(path_type=Path),
    required=True,
    help="The offline key: a file as age-keygen writes it.",
)
@click.option(
    "--token",
    type=click.Path(path_type=Path),
    help="Our token, from the disk: cryptsetup token export.  [default: what the host has reported]",
)
@operator_options
def import_key(
    addon: str, name: str, identity: Path, token: Path | None, as_json: bool, **options: Any
) -> None:
    """Bring a key back that a restored database does not know, from the header of the volume's disk.

    For a volume that is ahead of the broker because its key was minted after the backup was made. The
    ciphertext is decrypted here, with the offline key; the passphrase goes to the broker over TLS and is
    printed nowhere. Its other keys are kept, too. It takes the role approver.

    \b
      keybroker recovery import shop-db data --identity recovery.key
      keybroker recovery import shop-db data --identity recovery.key --token token.json
    """
    from keybroker.age import Identities

    keys, client = Identities.read(identity), connect(options)
    ahead = client.get("addons", addon, "volumes", name)["ahead"]
    if ahead is None or ahead["named"] is None:
        raise KeybrokerError(
            Problem.CONFLICT,
            f"volume {addon}/{name}: is not ahead of the broker by a key",
            hint="keybroker restore --check",
        )
    ciphertext = ahead["ciphertext"] if token is None else _of_token(token, ahead["named"])
    if ciphertext is None:
        raise KeybrokerError(
            Problem.CONFLICT,
            f"volume {addon}/{name}: its host has not reported the ciphertext yet",
            hint="keybroker-agent settle, on its host; or give --token",
        )
    found = keys.decrypt(base64.b64decode(ciphertext))
    try:
        text = passphrase(found.reveal()).reveal().decode()
    except ValueError:
        raise KeybrokerError(Problem.CORRUPT, "ciphertext: holds no passphrase of ours") from None
    path = ("addons", addon, "volumes", name, "recovery", "key")
    answer = client.put(*path, version=ahead["named"], passphrase=text)
    if as_json:
        print_json({**answer.document, "changed": answer.created})
        return
    note(f"volume {addon}/{name}: key version {ahead['named']} is {'back' if answer.created else 'there'}")
    note("next: its host shows that it opens the header: keybroker volume show, last proof")


def _of_token(file: Path, named: int) -> str | None:
    """Return the ciphertext in an exported token, once that names the very version."""
    try:
        token = json.loads(file.read_text())
        versions = {int(version) for version in token["versions"].values()}
        ciphertext: str | None = token.get("recovery")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeybrokerError(Problem.MALFORMED, f"{file}: is no token of ours") from error
    if max(versions, default=0) != named:
        raise KeybrokerError(Problem.CONFLICT, f"{file}: does not name key version {named}")
    return ciphertext


def _facts(one: dict[str, Any]) -> dict[str, Any]:
    sealed = one["recovery"]
    return {
        "addon": one["addon"],
        "name": one["name"],
        "version": sealed and sealed["version"],
        "on_disk": _on_disk(one),
    }


def _proven(client: Client, keys: Identities, one: dict[str, Any]) -> dict[str, Any]:
    """Decrypt a volume's ciphertext, and have the broker say whether the right thing was in it."""
    sealed = one["recovery"]
    if sealed is None:
        return {"opens": False, "result": "no ciphertext: keybroker recovery set-key"}
    try:
        opened = keys.decrypt(base64.b64decode(sealed["ciphertext"]))
    except KeybrokerError as error:
        return {"opens": False, "result": error.detail}
    version = KeyVersion(sealed["version"])
    proof = prove(opened, volume=VolumeId(one["volume"]), version=version, ciphertext=sealed["ciphertext"])
    path = ("addons", one["addon"], "volumes", one["name"], "recovery", "check")
    try:
        good = client.put(*path, version=version, digest=sealed["digest"], proof=proof).document["opens"]
    except KeybrokerError as error:
        return {"opens": False, "result": error.detail}
    return {"opens": good, "result": "opens" if good else "holds another passphrase"}
