"""Two opened LUKS2 volumes and the stable device over the first, as the agent has them in a migration."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent import devicemapper
from agent.change.legs import MachineLegs
from agent.places import Places
from keybroker.wire import names
from keybroker.wire.names import VolumeName
from keybroker.wire.orders import Order
from keybroker.wire.profile import Pin
from keybroker.wire.records import Device, Record
from tests.crash.volumes import record
from tests.kernel.disks import MIB, image, loop

OFFSET = 4 * MIB


def run(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    return subprocess.run(
        [str(word) for word in arguments], check=True, input=stdin, capture_output=True
    ).stdout


@dataclass(slots=True)
class Pair:
    """The two of them.

    Attributes:
        disks: their loop devices, by volume name.
        progress: what the long effects told.
    """

    holder: Record
    successor: Record
    disks: dict[str, Path]
    directory: Path
    legs: MachineLegs
    progress: list[tuple[int, int]] = field(default_factory=list)

    @property
    def top(self) -> Path:
        return devicemapper.path(names.mapper_name(self.holder.name))

    def crypt(self, volume: Record) -> Path:
        return devicemapper.path(names.crypt_name(volume.name, volume.luks_uuid))

    def watch(self, done: int, total: int) -> None:
        self.progress.append((done, total))

    def agent(self) -> MachineLegs:
        """Another agent, as a new process would have it."""
        return MachineLegs(self.legs.places, self.legs.runtime)

    def let_go(self) -> None:
        """Whatever a test came to: nobody shall wait for a write that a mirror holds back."""
        if "kb-data" in devicemapper.mapped() and " mirror " in (devicemapper.table("kb-data") or ""):
            devicemapper.revive("kb-data")
            self.legs.drop(self.holder, self.successor)

    def put_below(self, disk: str, table: str) -> None:
        """Have a disk's dm-crypt device stand on another device-mapper table from now on."""
        run("dmsetup", "load", f"below-{disk}", "--table", table)
        run("dmsetup", "resume", "--noflush", f"below-{disk}")


@contextmanager
def pair(
    directory: Path, *, sizes: tuple[int, int] = (48 * MIB, 48 * MIB), sector: int = 512, link: bool = True
) -> Iterator[Pair]:
    """Make two volumes of those sizes; each disk is a loop device below a linear one, so that it can fail."""
    with ExitStack() as stack:
        base = record("data", filesystem="ext4")
        order = Order(1, "migrate")
        volumes, disks = [], {}
        for disk, size in zip(("old", "new"), sizes, strict=True):
            other = record(disk, size=size)
            file = image(directory / f"{disk}.img", size)
            stack.callback(file.unlink)  # the tmpfs inside is small
            device = stack.enter_context(loop(file))
            run("dmsetup", "create", f"below-{disk}", "--table", f"0 {size // 512} linear {device} 0")
            stack.callback(run, "dmsetup", "remove", "--retry", f"below-{disk}")
            below = devicemapper.device(f"below-{disk}")
            disks[disk] = below
            key = directory / f"{disk}.key"
            key.write_bytes(disk.encode() * 8)
            run(
                "cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2",
                "--pbkdf-force-iterations", "1000", "--sector-size", str(sector), "--uuid", other.luks_uuid,
                "--offset", str(OFFSET // 512), "--luks2-keyslots-size", "4064k",
                "--key-file", key, below,
            )  # fmt: skip
            volume = replace(
                other, name=VolumeName("data"), stage="ready", mount=base.mount,
                device=Device(other.serial, size),
                pin=Pin(other.luks_uuid, "sha256:" + "0" * 64, OFFSET, sector),
            )  # fmt: skip
            name = names.crypt_name(volume.name, volume.luks_uuid)
            run("cryptsetup", "open", "--key-file", key, below, name)
            devicemapper.device(name)
            stack.callback(_close, name)
            volumes.append(volume)
        old, new = volumes
        holder = replace(old, partner=new.volume, order=order)
        successor = replace(new, partner=old.volume, role="successor", stage="deposited")
        places = Places({old.volume: disks["old"], new.volume: disks["new"]})
        made = Pair(holder, successor, disks, directory, MachineLegs(places, directory / "agent-run"))
        stack.callback(made.legs.release)
        if link:
            node = devicemapper.mapped()[names.crypt_name(old.name, old.luks_uuid)].node
            devicemapper.create_linear(
                "kb-data", uuid="KEYBROKER-data", below=node, sectors=(sizes[0] - OFFSET) // 512
            )
            stack.callback(_remove)
            stack.callback(made.let_go)
        yield made


def _close(name: str) -> None:
    if name in devicemapper.mapped():
        run("cryptsetup", "close", name)


def _remove() -> None:
    if "kb-data" in devicemapper.mapped():
        devicemapper.revive("kb-data")
        run("dmsetup", "remove", "--retry", "kb-data")
