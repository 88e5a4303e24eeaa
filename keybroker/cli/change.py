"""The verbs of ``keybroker volume`` that change one in use: what is wanted is said here, its host does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from keybroker.cli.access import operator_options
from keybroker.cli.progress import state_of, wait
from keybroker.cli.quantities import parse_duration, parse_size, show_size
from keybroker.cli.screen import note, print_json, print_table
from keybroker.cli.selection import connect, select, selection_options, shown_age, waiting_options
from keybroker.wire.orders import AT_BOOT

if TYPE_CHECKING:
    from keybroker.cli.client import Client

Ask = Callable[["Client", dict[str, Any]], tuple[dict[str, Any], bool]]

RATE = click.option("--rate", metavar="SIZE", help="Most bytes a second: 50M.")
AT_BOOT_OPTION = click.option(
    "--at-boot",
    type=click.Choice(sorted(AT_BOOT)),
    default="beside",
    show_default=True,
    help="What a power cut interrupted goes on before the database starts, or beside it.",
)
DROP_FOREIGN = click.option(
    "--drop-foreign", is_flag=True, help="Let keyslots and tokens of others be lost (recovery, clevis)."
)


def ordered(kind: str, options: dict[str, Any]) -> Ask:
    """Return how to order something of a volume."""
    body = {name: value for name, value in options.items() if value not in (None, False)}

    def ask(client: Client, one: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        answer = client.put("addons", one["addon"], "volumes", one["name"], "order", kind=kind, **body)
        return answer.document, answer.created

    return ask


def carry_out(
    client: Client,
    chosen: list[dict[str, Any]],
    ask: Ask,
    *,
    dry_run: bool,
    waits: bool,
    timeout: str | None,
    as_json: bool,
) -> None:
    """Ask for something of each volume, and wait for it."""
    limit = None if timeout is None else parse_duration(timeout)
    done = [(one, False) if dry_run else ask(client, one) for one in chosen]
    for one, changed in done:
        said = "would be asked" if dry_run else (_said(one) if changed else "unchanged")
        note(f"volume {one['addon']}/{one['name']}: {said}")
    volumes = [one for one, _ in done]
    if waits and not dry_run and volumes:
        look = lambda: {one["volume"]: one for one in client.get("volumes")["volumes"]}  # noqa: E731
        volumes = wait(look, [one["volume"] for one in volumes], timeout_seconds=limit)
    if as_json:
        print_json({"volumes": volumes, "changed": sum(changed for _, changed in done)})
        return
    print_volumes(volumes)
    if not waits and any(changed and one["stage"] != "erased" for one, changed in done):
        note("next: its host hears of it with its next report; keybroker-agent settle there does it now")


def _said(one: dict[str, Any]) -> str:
    return "erased" if one["stage"] == "erased" else "asked"


def print_volumes(volumes: list[dict[str, Any]]) -> None:
    """Print volumes, a line each."""
    print_table(
        ("ADDON", "VOLUME", "STATE", "KEY", "AGE", "SIZE", "FS", "MOUNT", "SERIAL"),
        [
            (
                one["addon"],
                one["name"],
                state_of(one),
                one["current"],
                shown_age(one),
                show_size(one["size_bytes"]),
                one["filesystem"],
                one["mount"],
                one["serial"],
            )
            for one in volumes
        ],
    )


@click.command()
@selection_options
@click.option(
    "--compromised",
    is_flag=True,
    help="The old key may be known: headers from before are not opened any more.",
)
@waiting_options
@operator_options
def rotate(
    addon: str | None,
    name: str | None,
    everything: bool,
    older_than: str | None,
    dry_run: bool,
    compromised: bool,
    wait: bool,
    timeout: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Give volumes a new passphrase, online; the data stays where it is, under the volume key it has.

    The old passphrase is taken out of the header, and destroyed at the broker after the retention. Against
    a volume key that leaked, or a cloned disk, reencrypt.

    \b
      keybroker volume rotate shop-db data --wait
      keybroker volume rotate shop-db
      keybroker volume rotate --all --older-than 90d --dry-run
    """
    client = connect(options)

    def ask(client: Client, one: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        path = ("addons", one["addon"], "volumes", one["name"], "wanted")
        answer = client.put(*path, compromised=compromised).document
        return answer, answer["revision"] != one["revision"]

    chosen = select(client, addon, name, everything=everything, older_than=older_than)
    carry_out(client, chosen, ask, dry_run=dry_run, waits=wait, timeout=timeout, as_json=as_json)


@click.command()
@selection_options
@RATE
@AT_BOOT_OPTION
@DROP_FOREIGN
@waiting_options
@operator_options
def reencrypt(
    addon: str | None,
    name: str | None,
    everything: bool,
    older_than: str | None,
    dry_run: bool,
    rate: str | None,
    at_boot: str,
    drop_foreign: bool,
    wait: bool,
    timeout: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Give volumes a new volume key, in place and under the running database; the passphrase changes first.

    All of the disk is written once. It goes on by itself after a reboot or a power cut.

    \b
      keybroker volume reencrypt shop-db data --rate 50M --wait
      keybroker volume reencrypt --all --older-than 365d --dry-run
    """
    client = connect(options)
    wish = {"rate": rate and parse_size(rate), "at_boot": at_boot, "drop_foreign": drop_foreign}
    chosen = select(client, addon, name, everything=everything, older_than=older_than)
    ask = ordered("reencrypt", wish)
    carry_out(client, chosen, ask, dry_run=dry_run, waits=wait, timeout=timeout, as_json=as_json)


@click.command()
@selection_options
@waiting_options
@operator_options
def resize(
    addon: str | None,
    name: str | None,
    everything: bool,
    older_than: str | None,
    dry_run: bool,
    wait: bool,
    timeout: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Let volumes and their filesystems take all of a disk that has grown, online.

    \b
      keybroker volume resize shop-db data --wait
    """
    client = connect(options)
    chosen = select(client, addon, name, everything=everything, older_than=older_than)
    ask = ordered("resize", {})
    carry_out(client, chosen, ask, dry_run=dry_run, waits=wait, timeout=timeout, as_json=as_json)


@click.command()
@click.argument("addon")
@click.argument("name")
@operator_options
def cancel(addon: str, name: str, as_json: bool, **options: Any) -> None:
    """Take an order back, where nothing irreversible has begun; a migration's new disk is wiped.

    \b
      keybroker volume cancel shop-db data
    """
    client = connect(options)
    before = client.get("addons", addon, "volumes", name)
    after = client.delete("addons", addon, "volumes", name, "order")
    changed = after["revision"] != before["revision"]
    if as_json:
        print_json({**after, "changed": changed})
        return
    note(f"volume {addon}/{name}: {'cancelled' if changed else 'nothing is ordered'}")
    print_volumes([after])
