"""``keybroker volume``: the disks of an add-on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from keybroker.cli.access import find_access, operator_options
from keybroker.cli.change import cancel, print_volumes, reencrypt, resize, rotate
from keybroker.cli.deletion import delete_volume, undelete_volume
from keybroker.cli.disks import encrypt, erase, migrate
from keybroker.cli.facts import show_volume
from keybroker.cli.families import Family
from keybroker.cli.quantities import parse_disk
from keybroker.cli.record import record
from keybroker.cli.reveal import reveal
from keybroker.cli.screen import note, print_json
from keybroker.wire.profile import CIPHERS
from keybroker.wire.records import FILESYSTEMS


@click.group(cls=Family)
def volume() -> None:
    """Volumes: the disks of an add-on.

    A data volume has a random key of its own, which the broker keeps wrapped, and shows to nobody but an
    approver who breaks the glass (reveal). A swap volume (--fs swap) has none: its VM makes a new one at each
    boot, and nobody ever sees it.

    \b
      keybroker volume add shop-db data --size 20G --mount /var/lib/postgresql
      keybroker volume list shop-db
    \b
    Of a volume in use, an operator says what is wanted; its host does it, and every step survives a crash:
      keybroker volume rotate shop-db data --wait
      keybroker volume migrate shop-db data --size 40G --wait
    """


for _verb in (rotate, reencrypt, migrate, encrypt, resize, erase, cancel, record, reveal):
    volume.add_command(_verb)
volume.add_command(delete_volume, "delete")
volume.add_command(undelete_volume, "undelete")


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
@click.option("--plain", is_flag=True, help="Its disk holds a filesystem in the clear: see volume encrypt.")
@operator_options
def add(
    addon: str,
    name: str,
    size: str,
    cipher: str,
    mount: str | None,
    fs: str,
    serial: str | None,
    plain: bool,
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
        size_bytes=parse_disk(size),
        cipher=cipher,
        mount=mount,
        filesystem=fs,
        serial=serial,
        origin="plain" if plain else "blank",
    )
    if as_json:
        print_json({**answer.document, "changed": answer.created})
        return
    note(f"volume {addon}/{name}: {'added' if answer.created else 'unchanged'}")
    show_volume(answer.document)
    if answer.created and plain:
        note(f"next: keybroker volume encrypt {addon} {name} --help")
    elif answer.created:
        note(f"next: attach a blank disk with the serial {answer.document['serial']}")


@volume.command("list")
@click.argument("addon", required=False)
@click.option("--all", "everything", is_flag=True, help="With those that are erased.")
@operator_options
def list_volumes(addon: str | None, everything: bool, as_json: bool, **options: Any) -> None:
    """List all volumes, or those of ADDON: what is wanted of each, and how old its key is.

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
    print_volumes([one for one in document["volumes"] if everything or one["stage"] != "erased"])


@volume.command()
@click.argument("addon")
@click.argument("name")
@operator_options
def show(addon: str, name: str, as_json: bool, **options: Any) -> None:
    """Show one volume: what is wanted of it and how far that is, its disk, header and key version.

    Never its key.

    \b
      keybroker volume show shop-db data
    """
    from keybroker.cli.client import Client

    document = Client(find_access(options, Path.home())).get("addons", addon, "volumes", name)
    if as_json:
        print_json(document)
    else:
        show_volume(document)


@volume.command()
@click.argument("addon")
@click.argument("name")
@click.option("--uuid", required=True, help="LUKS UUID of its header: cryptsetup luksUUID DEVICE.")
@click.option("--serial", required=True, help="Serial of its disk: lsblk -o NAME,SERIAL.")
@click.option("--mount", help="Where it is mounted.")
@click.option("--fs", type=click.Choice(["ext4", "none", "xfs"]), required=True, help="What is in it.")
@click.option("--size", default="16M", show_default=True, help="The least size of its disk.")
@click.option(
    "--argon2-memory",
    type=click.IntRange(0, 4096),
    default=1024,
    show_default=True,
    help="Most memory that a keyslot of it may ask for, in MiB; 0 refuses argon2.",
)
@click.option("--cipher", type=click.Choice(list(CIPHERS)), default="aes-xts-plain64", show_default=True)
@operator_options
def adopt(
    addon: str,
    name: str,
    uuid: str,
    serial: str,
    mount: str | None,
    fs: str,
    size: str,
    argon2_memory: int,
    cipher: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Declare a LUKS2 volume that somebody else formatted; done again, it changes nothing.

    Its host takes it over with one passphrase that opens it: ours is added, proven, and the header backed
    up. Keyslots and tokens of others (clevis, systemd, recovery) stay as they are.

    \b
      keybroker volume adopt shop-db old --uuid 0c7a2c1e-7d0b-4f57-9a3c-52b1b7a6a001 \\
          --serial WD-WX41A1234567 --mount /srv/old --fs ext4
    \b
    Then on its host:
      keybroker-agent adopt old --key-file passphrase
    """
    from keybroker.cli.client import Client

    answer = Client(find_access(options, Path.home())).put(
        "addons",
        addon,
        "volumes",
        name,
        size_bytes=parse_disk(size),
        cipher=cipher,
        mount=mount,
        filesystem=fs,
        serial=serial,
        origin="foreign",
        luks_uuid=uuid.lower(),
        argon2_memory_kib=argon2_memory << 10,
    )
    if as_json:
        print_json({**answer.document, "changed": answer.created})
        return
    note(f"volume {addon}/{name}: {'declared' if answer.created else 'unchanged'}")
    show_volume(answer.document)
    if answer.created:
        note(f"next, on its host: keybroker-agent adopt {name} --key-file FILE")
