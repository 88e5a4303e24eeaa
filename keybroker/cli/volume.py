"""``keybroker volume``: the disks of an add-on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from keybroker.cli.access import find_access, operator_options
from keybroker.cli.quantities import parse_size, show_size
from keybroker.cli.screen import moment, note, print_facts, print_json, print_table
from keybroker.wire.names import VolumeName, mapper_name
from keybroker.wire.profile import CIPHERS
from keybroker.wire.records import FILESYSTEMS

_COLUMNS = ("ADDON", "VOLUME", "STAGE", "SIZE", "FS", "MOUNT", "KEY", "SERIAL")


@click.group()
def volume() -> None:
    """Volumes: the disks of an add-on.

    A data volume has a random key of its own, which the broker keeps wrapped and never shows. A swap volume
    (--fs swap) has none: its VM makes a new one at each boot, and nobody ever sees it.

    \b
      keybroker volume add shop-db data --size 20G --mount /var/lib/postgresql
      keybroker volume list shop-db
    """


@volume.command()
@click.argument("addon")
@click.argument("name")
@click.option("--size", required=True, help="The least size of its disk: 20G, 512M (powers of 1024).")
@click.option(
    "--cipher",
    type=click.Choice(list(CIPHERS)),
    default="aes-xts-plain64",
    show_default=True,
    help="Of the LUKS2 volume.",
)
@click.option("--mount", help="Where it is mounted; leave it out for swap and none.")
@click.option(
    "--fs",
    type=click.Choice(sorted(FILESYSTEMS)),
    default="ext4",
    show_default=True,
    help="Filesystem to make on it; swap for a swap volume, none to leave it raw.",
)
@click.option("--serial", help="Serial of its disk, if it cannot be the volume's id.")
@operator_options
def add(
    addon: str,
    name: str,
    size: str,
    cipher: str,
    mount: str | None,
    fs: str,
    serial: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Add a volume to ADDON; done again, it changes nothing.

    The disk says by its serial which volume it is, so give the disk the serial that is printed:

    \b
      QEMU     -device virtio-blk-pci,drive=data,serial=kbv-...
      libvirt  <disk> ... <serial>kbv-...</serial> </disk>
    \b
    For example:
      keybroker volume add shop-db data --size 20G --mount /var/lib/postgresql
      keybroker volume add shop-db swap --size 2G --fs swap
      keybroker volume add shop-db old --size 1T --mount /srv/old --serial WD-WX41A1234567
    """
    from keybroker.cli.client import Client

    answer = Client(find_access(options, Path.home())).put(
        "addons",
        addon,
        "volumes",
        name,
        size_bytes=parse_size(size),
        cipher=cipher,
        mount=mount,
        filesystem=fs,
        serial=serial,
    )
    if as_json:
        print_json({**answer.document, "changed": answer.created})
        return
    note(f"volume {addon}/{name}: {'added' if answer.created else 'unchanged'}")
    _show(answer.document)
    if answer.created:
        note(f"next: attach a blank disk with the serial {answer.document['serial']}")


@volume.command("list")
@click.argument("addon", required=False)
@operator_options
def list_volumes(addon: str | None, as_json: bool, **options: Any) -> None:
    """List all volumes, or those of ADDON.

    \b
      keybroker volume list
      keybroker volume list shop-db --json
    """
    from keybroker.cli.client import Client

    asked = {} if addon is None else {"addon": addon}
    document = Client(find_access(options, Path.home())).get("volumes", **asked)
    if as_json:
        print_json(document)
        return
    print_table(
        _COLUMNS,
        [
            (
                one["addon"],
                one["name"],
                one["stage"],
                show_size(one["size_bytes"]),
                one["filesystem"],
                one["mount"],
                one["current"],
                one["serial"],
            )
            for one in document["volumes"]
        ],
    )


@volume.command()
@click.argument("addon")
@click.argument("name")
@operator_options
def show(addon: str, name: str, as_json: bool, **options: Any) -> None:
    """Show one volume: its stage, its disk, its header and its key's version; never its key.

    \b
      keybroker volume show shop-db data
    """
    from keybroker.cli.client import Client

    document = Client(find_access(options, Path.home())).get("addons", addon, "volumes", name)
    if as_json:
        print_json(document)
    else:
        _show(document)


def _show(one: dict[str, Any]) -> None:
    device, pin = one["device"], one["pin"]
    size = show_size(one["size_bytes"])
    print_facts(
        [
            ("volume", one["volume"]),
            ("addon", one["addon"]),
            ("name", one["name"]),
            ("stage", one["stage"]),
            ("size", size),
            ("serial", one["serial"]),
            (
                "cipher",
                "random key at each boot" if one["filesystem"] == "swap" else one["profile"]["cipher"],
            ),
            ("filesystem", one["filesystem"]),
            ("mount", one["mount"]),
            ("opens as", f"/dev/mapper/{mapper_name(VolumeName(one['name']))}"),
            ("key version", one["current"]),
            ("disk", device and f"{device['serial']}, {show_size(device['size_bytes'])}"),
            ("LUKS UUID", pin and pin["uuid"]),
            ("revision", one["revision"]),
            ("created", moment(one["created"])),
        ]
    )
