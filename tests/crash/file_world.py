"""A machine made of files: cryptsetup's own headers, real inscriptions, real filesystems; no device-mapper.

What stands in for dm-crypt is a second file a volume, ``inside``, that outlives a power cut as the disk does;
whatever is written to it also leaves its trace in the disk's data area, as ciphertext would. All else is the
agent's own code, down to opening the keyslot.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Keys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent import filesystem, inscription, machine, opening
from agent.change.headers import MachineHeaders
from agent.change.workshop import Broker as ChangeBroker
from agent.change.workshop import Workshop
from agent.devices import BlockDevice, OpenDevice
from agent.luks import copy, cryptsetup
from agent.luks.acceptance import accept
from agent.luks.header import Header, NotLuks, read_header
from agent.plan import steps
from agent.plan.situation import Content, Mapping
from agent.process import run
from agent.world import Broker, Composed, Sighting, World
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB
from keybroker.wire.records import Device, Observation, Record
from keybroker.wire.secret import Secret
from tests.crash.file_reencryption import FileReencryption


class FileWorld:
    """Disks in a directory.

    Attributes:
        made: how often a filesystem was made.
    """

    def __init__(self, directory: Path, broker: Broker, records: Sequence[Record]) -> None:
        self.directory = directory
        self.broker = broker
        self.layout = tuple(records)
        self.made = 0
        for record in records:
            _sparse(self.disk(record), record.size_bytes)
            _sparse(self.inside(record), record.size_bytes - 4 * MIB)
        self.power_cut()

    def world(self) -> World:
        return World(self.broker, _Disks(self), _Mappings(self), _Filesystems(self))

    def workshop(self, broker: ChangeBroker) -> Workshop:
        headers = MachineHeaders(self, self.directory / "run")
        nothing = NoDevices()
        return Workshop(
            self.world(), broker, headers, nothing, nothing, nothing, FileReencryption(self), nothing
        )

    def keep(self, records: tuple[Record, ...]) -> None:
        self.layout = records

    def power_cut(self) -> None:
        self.reach: dict[VolumeId, Mapping] = {}
        self.mounted: set[VolumeId] = set()

    def disk(self, record: Record) -> Path:
        return self.directory / f"{record.name}.disk"

    def inside(self, record: Record) -> Path:
        return self.directory / f"{record.name}.inside"

    @contextmanager
    def open(self, record: Record) -> Iterator[OpenDevice]:
        with _open(self.disk(record), record) as disk:
            yield disk

    def leave_a_trace(self, record: Record) -> None:
        """Write to the disk what encryption would have; each making begins and ends in the last MiB."""
        with self.open(record) as disk:
            os.pwrite(disk.fd, os.urandom(512), disk.device.size_bytes - MIB)

    def partial(self, step: type, *arguments: Any) -> None:
        """Do half of an effect."""
        if step is steps.Inscribe:
            record, copied = arguments
            image = copy.unpack(copied)
            with self.open(record) as disk:
                sectors = list(sectors_of(image))
                for offset, held in sectors[: len(sectors) // 2]:
                    os.pwrite(disk.fd, held, offset)
        elif step is steps.MakeFilesystem:
            (record,) = arguments
            self.leave_a_trace(record)
            volume = filesystem.Opened(self.inside(record), writable=True)
            volume.put(filesystem.mark(record.volume))
            run(*filesystem.command(record, self.inside(record), volume.size_bytes - MIB))
            volume.close()
        elif step in (steps.Fill, steps.Tag, steps.Enclose, steps.Clear, steps.Detach, steps.Evict):
            self._change_in_part(step, *arguments)

    def _change_in_part(self, step: type, record: Record, *arguments: Any) -> None:
        """Have cryptsetup change a second disk, and bring over what it writes first."""
        beside = Beside(self, record)
        before = self.luks(record)
        headers = MachineHeaders(beside, self.directory / "run")
        if step in (steps.Tag, steps.Enclose, steps.Detach):
            if step is steps.Tag:
                headers.tag(record, *arguments)
            elif step is steps.Enclose:
                headers.enclose(record, *arguments)
            else:
                headers.detach(record, token=arguments[0])
            beside.bring_over(0, before.header_bytes)  # one of the two copies
            return
        keys, *rest = arguments
        if step is steps.Fill:
            headers.fill(record, keys, version=rest[0], by=rest[1])
        elif step is steps.Evict:
            headers.evict(record, keys, keyslot=rest[0], by=rest[1])
        else:
            headers.clear(record, keys, keyslot=rest[0], by=rest[1])
        # Either writes the keyslot's area first, and then the header that has or has not the keyslot.
        with beside.open(record) as disk:
            after = read_header(disk.read, disk.device.size_bytes)
        changed = after.keyslots.items() ^ before.keyslots.items()
        for _, slot in changed:
            beside.bring_over(slot.area.offset, slot.area.size)

    def luks(self, record: Record) -> Header:
        with self.open(record) as disk:
            return read_header(disk.read, disk.device.size_bytes)


class Beside:
    """A copy of a volume's disk, to be changed instead of it."""

    def __init__(self, world: FileWorld, record: Record) -> None:
        self._world, self._record = world, record
        self._path = world.directory / f"{record.name}.beside"
        shutil.copyfile(world.disk(record), self._path)

    @contextmanager
    def open(self, record: Record) -> Iterator[OpenDevice]:
        with _open(self._path, record) as disk:
            yield disk

    def bring_over(self, offset: int, length: int) -> None:
        with self.open(self._record) as source, self._world.open(self._record) as target:
            os.pwrite(target.fd, source.read(offset, length), offset)


@contextmanager
def _open(path: Path, record: Record) -> Iterator[OpenDevice]:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        device = BlockDevice(path, record.serial, size, 512, 512, (0, 0), read_only=False)
        yield OpenDevice(device, fd, exclusive=True)
    finally:
        os.close(fd)


def sectors_of(image: copy.HeaderImage) -> Iterator[tuple[int, bytes]]:
    """Name the sectors of an inscription in the order in which they are written."""
    for group in inscription.writes(image):
        for offset, held in group:
            for at in range(0, len(held), inscription.SECTOR):
                yield offset + at, held[at : at + inscription.SECTOR]


class NoDevices:
    """What needs device-mapper is tried in the model and on a real kernel."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is tried in the model and on a real kernel")


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


class _Disks:
    def __init__(self, world: FileWorld) -> None:
        self._world = world

    def wait(self, records: Sequence[Record]) -> None:
        return

    def look(self, record: Record) -> Sighting:
        with self._world.open(record) as disk:
            device = Device(disk.device.serial, disk.device.size_bytes)
            try:
                header = read_header(disk.read, disk.device.size_bytes)
            except NotLuks:
                ends = disk.read(0, MIB) + disk.read(disk.device.size_bytes - MIB, MIB)
                status = run("blkid", "--probe", disk.device.path, expect=(0, 2, 8)).status
                sight = "blank" if not any(ends) and status == 2 else "other"
                return Sighting(Observation(record.volume, sight, device))  # type: ignore[arg-type]
            except KeybrokerError as error:
                return Sighting(Observation(record.volume, "other", device, detail=error.detail))
            seen = Observation(record.volume, "luks2", device, header.seen())
            return Sighting(seen, None if header.requirements else copy.pack(header, disk.read))

    def compose(self, record: Record, key: Secret, sector_size: int | None = None) -> Composed:
        assert record.current is not None
        return machine.compose(
            record, record.current, key, sector_size=sector_size or 512, runtime=self._world.directory
        )

    def inscribe(self, record: Record, copied: Secret) -> None:
        with self._world.open(record) as disk:
            inscription.inscribe(disk.fd, disk.device.size_bytes, copy.unpack(copied))

    def mark(self, record: Record) -> None:
        raise AssertionError("swap is tried in the model and on a real kernel")


class _Mappings:
    def __init__(self, world: FileWorld) -> None:
        self._world = world

    def look(self, record: Record) -> Mapping:
        return self._world.reach.get(record.volume, Mapping())

    def open(self, record: Record, keys: Keys[KeyVersion, Secret], seen: Sighting) -> tuple[str, ...]:
        if self.look(record).reach != "closed":
            return ()
        assert seen.copy is not None
        image = copy.unpack(seen.copy)
        header = read_header(image.read, image.total)
        accept(header, record.profile, record.pin)
        fd = copy.memfd(image)
        try:
            for version, keyslot in opening.attempts(record, header, keys):
                if cryptsetup.opens(fd, keyslot=keyslot, key=keys[version]):
                    self._world.reach[record.volume] = Mapping("crypt")
                    return ()
        finally:
            os.close(fd)
        raise KeybrokerError(Problem.LOCKED_OUT, f"{record.name}: no key opens it")

    def link(self, record: Record) -> None:
        assert self.look(record).reach != "closed"
        self._world.reach[record.volume] = Mapping("open")

    def swap_on(self, record: Record) -> None:
        raise AssertionError("swap is tried in the model and on a real kernel")


class _Filesystems:
    def __init__(self, world: FileWorld) -> None:
        self._world = world

    def look(self, record: Record) -> Content:
        with self._world.open(record) as disk:
            return filesystem.look(record, disk, self._world.inside(record))

    def make(self, record: Record) -> None:
        before = self._world.inside(record).read_bytes()
        with self._world.open(record) as disk:
            filesystem.make(record, disk, self._world.inside(record))
        if self._world.inside(record).read_bytes() != before:
            self._world.made += 1
            self._world.leave_a_trace(record)

    def mounted(self, record: Record) -> bool | None:
        return record.volume in self._world.mounted

    def mount(self, record: Record) -> None:
        run("e2fsck", "-fn", self._world.inside(record))
        self._world.mounted.add(record.volume)
