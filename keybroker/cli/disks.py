"""The verbs of ``keybroker volume`` that take a disk, or give one up: migrate, encrypt, erase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from keybroker.cli.access import operator_options
from keybroker.cli.change import AT_BOOT_OPTION, RATE, carry_out, ordered
from keybroker.cli.quantities import parse_disk, parse_size, show_size
from keybroker.cli.screen import confirm, note
from keybroker.cli.selection import connect, select, waiting_options

if TYPE_CHECKING:
    from keybroker.cli.client import Client


@click.command()
@click.argument("addon")
@click.argument("name")
@click.option("--size", help="Of the new disk; as large as the old one unless it is given.")
@click.option("--serial", help="Of the new disk, if it cannot be the new volume's id.")
@click.option("--offline", is_flag=True, help="While nothing uses the volume, instead of under it.")
@RATE
@waiting_options
@operator_options
def migrate(
    addon: str,
    name: str,
    size: str | None,
    serial: str | None,
    offline: bool,
    rate: str | None,
    wait: bool,
    timeout: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Move a volume to a new disk, with a new passphrase and a new volume key, under the running database.

    Attach a blank disk with the serial that is printed. Once both disks hold the same, the new one is the
    volume; the old one is wiped.

    \b
      keybroker volume migrate shop-db data --size 40G --wait
      keybroker volume migrate shop-db data --serial WD-WX41A7654321 --offline
    """
    client = connect(options)
    wish = {
        "size_bytes": size and parse_disk(size),
        "serial": serial,
        "offline": offline,
        "rate": rate and parse_size(rate),
    }
    _order_one(client, addon, name, "migrate", wish, waits=wait, timeout=timeout, as_json=as_json)


@click.command()
@click.argument("addon")
@click.argument("name")
@click.option("--size", help="Of the new disk: more than the old one's, for the header.")
@click.option("--serial", help="Of the new disk, if it cannot be the new volume's id.")
@click.option("--backed-up", is_flag=True, help="There is a backup; without a new disk, a must.")
@RATE
@AT_BOOT_OPTION
@waiting_options
@operator_options
def encrypt(
    addon: str,
    name: str,
    size: str | None,
    serial: str | None,
    backed_up: bool,
    rate: str | None,
    at_boot: str,
    wait: bool,
    timeout: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Encrypt a disk whose filesystem is in the clear: by moving it to a new disk, or in place.

    Declare it first, with volume add --plain. It is plaintext until all of it is encrypted. On a new disk
    (--size or --serial) nothing was ever in the clear, and the database goes on meanwhile: the better way.

    In place (with neither) wants a filesystem that is clean, leaves the last 8 MiB of its disk free, and is
    unmounted for the beginning; it is used again as soon as its header is on the disk, while the rest is
    encrypted. What the disk has remapped may be readable for ever, and a snapshot from before is plaintext.

    \b
      keybroker volume add shop-db data --plain --size 20G --mount /srv/data --serial WD-WX41A1234567
      keybroker volume encrypt shop-db data --size 40G --wait
      keybroker volume encrypt shop-db data --backed-up --wait
    """
    client = connect(options)
    wish = {
        "size_bytes": size and parse_disk(size),
        "serial": serial,
        "backed_up": backed_up,
        "rate": rate and parse_size(rate),
        "at_boot": at_boot,
    }
    _order_one(client, addon, name, "encrypt", wish, waits=wait, timeout=timeout, as_json=as_json)


@click.command()
@click.argument("addon")
@click.argument("name", required=False)
@click.option("--yes", is_flag=True, help="Do not ask for the name to be typed.")
@click.option("--disk-gone", is_flag=True, help="No host will wipe it: forget at once what the broker has.")
@waiting_options
@operator_options
def erase(
    addon: str,
    name: str | None,
    yes: bool,
    disk_gone: bool,
    wait: bool,
    timeout: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a volume's data unreadable for good: header, header copies, and after the retention its keys.

    Nothing brings it back. What remains (backups, snapshots, until when) is said in a signed record.

    \b
      keybroker volume erase shop-db data --wait
      keybroker volume erase shop-db --yes
      keybroker volume erase shop-db data --disk-gone
      keybroker volume record shop-db data
    """
    client = connect(options)
    stages = ("new", "claimed", "deposited", "ready", "foreign", "plain")
    chosen = select(client, addon, name, everything=False, older_than=None, stages=stages)
    what = addon if name is None else f"{addon}/{name}"
    if not yes:
        confirm(what, "erase")
    ask = ordered("erase", {"disk_gone": disk_gone})
    carry_out(client, chosen, ask, dry_run=False, waits=wait, timeout=timeout, as_json=as_json)


def _order_one(
    client: Client,
    addon: str,
    name: str,
    kind: str,
    wish: dict[str, Any],
    *,
    waits: bool,
    timeout: str | None,
    as_json: bool,
) -> None:
    """Order something of one volume that may take another disk."""
    before = client.get("addons", addon, "volumes", name)
    ask = ordered(kind, wish)

    def ask_and_tell(client: Client, one: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        after, changed = ask(client, one)
        if after["partner"] is not None:
            there = client.get("volumes", addon=addon)["volumes"]
            new = next(each for each in there if each["volume"] == after["partner"])
            note(
                f"volume {addon}/{name}: attach a blank disk of {show_size(new['size_bytes'])} or more"
                f" with the serial {new['serial']}"
            )
        return after, changed

    carry_out(client, [before], ask_and_tell, dry_run=False, waits=waits, timeout=timeout, as_json=as_json)
