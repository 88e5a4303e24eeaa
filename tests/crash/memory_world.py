"""A machine in memory: disks that outlive a power cut, and mappings and mounts that do not.

A header is four sectors, which all say the same ``Luks`` where it is whole; ``first`` is the one that an
inscription writes last. What is in a volume is an ``Inside``. It refuses what the real one refuses and writes
down every filesystem that is made, and over what.
"""

from __future__ import annotations

from collections.abc import Mapping as Keys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent.change.workshop import Workshop
from agent.plan import steps
from agent.plan.situation import Content, Mapping
from agent.world import Composed, Sighting, World
from keybroker.wire.names import KeyVersion, VolumeId, VolumeName
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB
from keybroker.wire.records import Device, Observation, Record
from keybroker.wire.secret import Secret
from tests.crash import memory_orders
from tests.crash.memory_broker import MemoryBroker
from tests.crash.memory_header import Luks
from tests.crash.memory_headers import MemoryHeaders
from tests.crash.memory_legs import MemoryGrowth, MemoryLegs, MemoryWiping
from tests.crash.memory_reencryption import MemoryReencryption
from tests.crash.memory_shelving import MemoryShelving

SECTORS = ("first", "second", "keyslots-1", "keyslots-2")


@dataclass(slots=True)
class Inside:
    """What is under the encryption."""

    kind: str = ""
    touched: bool = False
    unfinished: bool = False
    rows: str = ""
    linear: int = 0
    size: int = 0


@dataclass(slots=True)
class Disk:
    """What a power cut leaves.

    Attributes:
        shelf: what its end holds of the beginning of a plain filesystem.
        has_room: a plain filesystem ends before that.
    """

    device: Device
    header: dict[str, bytes] = field(default_factory=dict)
    foreign: str = ""
    mark: VolumeId | None = None
    inside: Inside = field(default_factory=Inside)
    shelf: str = ""
    has_room: bool = True

    @property
    def is_blank(self) -> bool:
        return not (self.header or self.foreign or self.mark or self.inside.touched)


@dataclass(slots=True)
class Made:
    """One filesystem that was made, and what was there before."""

    volume: VolumeId
    over: Inside
    stage: str


class MemoryWorld:
    """Everything but the broker, which is its own.

    Attributes:
        disks: by serial.
        made: every filesystem that was ever made.
        layout: the agent's cache, which outlives a power cut; at first what enrolment told.
        composed: how many headers were made; each has a volume key of its own.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.broker = MemoryBroker(records)
        self.disks = {record.serial: Disk(Device(record.serial, record.size_bytes)) for record in records}
        self.made: list[Made] = []
        self.composed = 0
        self.waited: list[str] = []
        self.first_written: tuple[str, ...] = ("second", "keyslots-2")
        self.arriving: dict[str, Disk] = {}
        self.layout = tuple(records)
        self.headers = MemoryHeaders(self)
        self.legs_of = MemoryLegs(self)
        self.growth = MemoryGrowth(self)
        self.wiping = MemoryWiping(self)
        self.reencryption = MemoryReencryption(self)
        self.shelving = MemoryShelving(self)
        self.power_cut()

    def world(self) -> World:
        return World(self.broker, _Disks(self), _Mappings(self), _Filesystems(self))

    def workshop(self) -> Workshop:
        return Workshop(
            self.world(), self.broker, self.headers, self.legs_of, self.growth, self.wiping,
            self.reencryption, self.shelving,
        )  # fmt: skip

    def keep(self, records: tuple[Record, ...]) -> None:
        self.layout = records

    def power_cut(self) -> None:
        """Lose all that only the kernel knew."""
        self.reach: dict[VolumeId, Mapping] = {}
        self.mounted: set[VolumeId] = set()
        self.legs: dict[VolumeName, tuple[VolumeId, ...]] = {}
        self.synced: set[VolumeName] = set()
        self.failing = ""
        self.end_process()

    def end_process(self) -> None:
        """Lose what only a process had."""
        self.legs_of.held.clear()

    def size(self, volume: VolumeId) -> int:
        """Return the room for data on a volume's disk, in bytes."""
        record = self.broker.records[volume]
        return self.disk(record).device.size_bytes - (0 if record.stage == "plain" else 4 * MIB)

    def duplicate(self, source: VolumeId, target: VolumeId) -> None:
        """Have one disk hold what another does."""
        records = self.broker.records
        self.disk(records[target]).inside = replace(self.disk(records[source]).inside)

    def disk(self, record: Record) -> Disk:
        found = self.disks.get(record.device.serial if record.device else record.serial)
        if found is None:
            raise KeybrokerError(Problem.NO_DEVICE, f"{record.name}: no such disk")
        return found

    def header(self, record: Record) -> Luks | None:
        """Read the header as the real reader does: the newer of two copies, or the one that is there."""
        held = [
            self.disk(record).header[name] for name in ("first", "second") if name in self.disk(record).header
        ]
        copies = [Luks.read(each.partition(b" of ")[2]) for each in held]
        return max(copies, key=lambda luks: luks.sequence, default=None)

    def is_degraded(self, record: Record) -> bool:
        """Say whether one of the two copies is missing or older than the other."""
        held = self.disk(record).header
        said = {held[name].partition(b" of ")[2] for name in ("first", "second") if name in held}
        return len(said) != 1 or not ("first" in held and "second" in held)

    def write_header(self, record: Record, luks: Luks, only: Sequence[str] = SECTORS) -> None:
        """Write a header as cryptsetup does, or some sectors of it."""
        for name in only:
            self.disk(record).header[name] = _sector(luks.written(), name)

    def rows(self, record: Record) -> str:
        """Read what a database wrote."""
        assert record.volume in self.mounted, "the database would read the bare mount point"
        return self.disk(record).inside.rows

    def write_rows(self, record: Record, rows: str) -> None:
        assert record.volume in self.mounted, "the database would write to the bare mount point"
        for leg in self.legs.get(record.name, (record.volume,)):
            self.disk(self.broker.records[leg]).inside.rows = rows

    def partial(self, step: type, *arguments: Any) -> None:
        """Do part of an effect; the broker's own are transactions, so of those nothing is done."""
        if step is steps.Inscribe:
            record, copied = arguments
            self.check_inscription(record, copied)
            for name in self.first_written:
                self.disk(record).header[name] = _sector(copied, name)
        elif step is steps.Shelve:
            self.shelving.partial(arguments[0])
        elif step is steps.MakeFilesystem:
            (record,) = arguments
            self.check_making(record)
            self.disk(record).inside = Inside(record.filesystem, touched=True, unfinished=True)
        elif step is steps.SwapOn:
            (record,) = arguments
            self.reach[record.volume] = Mapping("crypt")
        elif step in (steps.Fill, steps.Tag, steps.Enclose, steps.Clear, steps.Raise):
            self.headers.partial(step, *arguments)
        elif step in (steps.Begin, steps.Reencrypt):
            self.reencryption.partial(step, *arguments)
        elif step is steps.Wipe:
            self.wiping.partial(arguments[0])
        else:
            self.legs_of.partial(step, *arguments)

    def check_inscription(self, record: Record, copied: Secret) -> None:
        disk = self.disk(record)
        if record.stage == "plain":
            self.shelving.give_way(record, {name: _sector(copied, name) for name in SECTORS})
            return
        torn = any(held != _sector(copied, name) for name, held in disk.header.items())
        if disk.foreign or disk.mark or disk.inside.touched or torn:
            raise KeybrokerError(Problem.NOT_BLANK, f"{record.name}: something else is on the disk")

    def check_making(self, record: Record) -> None:
        inside = self.disk(record).inside
        self.made.append(Made(record.volume, inside, record.stage))
        if not inside.unfinished and (inside.kind or inside.touched):
            self.made.pop()
            raise KeybrokerError(Problem.NOT_BLANK, f"{record.name}: {inside.kind or 'something'} is inside")


def _sector(copied: Secret, name: str) -> bytes:
    return f"{name} of ".encode() + copied.reveal()


class _Disks:
    def __init__(self, world: MemoryWorld) -> None:
        self._world = world

    def wait(self, records: Sequence[Record]) -> None:
        for record in records:
            self._world.waited.append(record.name)
            if record.serial in self._world.arriving:
                self._world.disks[record.serial] = self._world.arriving.pop(record.serial)

    def look(self, record: Record) -> Sighting:
        try:
            disk = self._world.disk(record)
        except KeybrokerError:
            return Sighting(Observation(record.volume, "absent"))
        if disk.mark == record.volume and record.is_swap:
            return Sighting(Observation(record.volume, "swap-mark", disk.device))
        luks = self._world.header(record)
        if luks is not None and not disk.foreign and not record.is_swap:
            seen = luks.seen(degraded=self._world.is_degraded(record))
            copied = luks.written() if luks.moved is None else None
            return Sighting(Observation(record.volume, "luks2", disk.device, seen), copied)
        if disk.is_blank:
            return Sighting(Observation(record.volume, "blank", disk.device))
        return Sighting(Observation(record.volume, "other", disk.device, detail=disk.foreign or "not zero"))

    def compose(self, record: Record, key: Secret, sector_size: int | None = None) -> Composed:
        assert record.current is not None
        self._world.composed += 1
        keyslots, token = {0: key.reveal().decode()}, {0: int(record.current)}
        recovery = record.recovery.ciphertext if record.recovery else None
        luks = Luks(record.luks_uuid, f"{self._world.composed:064x}", 3, keyslots, token, recovery=recovery)
        if record.stage == "plain":
            luks = replace(luks, token=None, recovery=None, moved=0, in_place=True)
        return Composed(luks.seen(degraded=False), luks.written())

    def inscribe(self, record: Record, copied: Secret) -> None:
        self._world.check_inscription(record, copied)
        self._world.disk(record).header = {name: _sector(copied, name) for name in SECTORS}

    def mark(self, record: Record) -> None:
        disk = self._world.disk(record)
        if disk.mark != record.volume and not disk.is_blank:
            raise KeybrokerError(Problem.NOT_BLANK, f"{record.name}: not blank")
        disk.mark = record.volume


class _Mappings:
    def __init__(self, world: MemoryWorld) -> None:
        self._world = world

    def look(self, record: Record) -> Mapping:
        reach = self._world.reach.get(record.volume, Mapping())
        if record.is_swap or reach.reach == "closed":
            return reach
        if record.role != "holder":
            return Mapping() if record.stage == "plain" else Mapping("crypt")
        legs = self._world.legs.get(record.name, ())
        if record.is_bare and not legs:
            return Mapping()
        if legs and record.volume not in legs:
            return Mapping(obstacle=f"its stable device stands on {legs}")
        return Mapping("open" if legs else "crypt")

    def open(self, record: Record, keys: Keys[KeyVersion, Secret], seen: Sighting) -> tuple[str, ...]:
        if self.look(record).reach != "closed":
            return ()
        whole = self._world.disk(record).header
        assert record.stage != "plain" or "first" in whole, "it looks like a filesystem, too"
        header = seen.observation.header
        if header is None or not memory_orders.fits(record, header):
            raise KeybrokerError(Problem.HEADER_REFUSED, f"{record.name}: not the pinned header")
        luks = self._world.header(record)
        opens = luks is not None and any(luks.opened_by(key) is not None for key in keys.values())
        if not opens or not {"keyslots-1", "keyslots-2"} <= whole.keys():
            raise KeybrokerError(Problem.LOCKED_OUT, f"{record.name}: no key opens it")
        self._world.reach[record.volume] = Mapping("crypt")
        return ()

    def link(self, record: Record) -> None:
        if record.is_bare:
            assert _Filesystems(self._world).look(record).kind == record.filesystem
            assert not self._world.disk(record).header, "part of its beginning is overwritten"
        else:
            assert self.look(record).reach != "closed", "a linear device over nothing"
        assert record.role == "holder"
        if record.volume in self._world.legs_of.held:
            raise KeybrokerError(Problem.EXISTS, f"{record.name}: its disk is held")
        self._world.legs[record.name] = (record.volume,)
        self._world.reach[record.volume] = Mapping("open")

    def swap_on(self, record: Record) -> None:
        if self._world.disk(record).mark != record.volume:
            raise KeybrokerError(Problem.WRONG_DEVICE, f"{record.name}: not marked")
        self._world.reach[record.volume] = Mapping("open")


class _Filesystems:
    def __init__(self, world: MemoryWorld) -> None:
        self._world = world

    def look(self, record: Record) -> Content:
        inside = self._world.disk(record).inside
        if record.is_bare:
            if self._world.legs.get(record.name) or record.volume in self._world.legs_of.held:
                raise KeybrokerError(Problem.IN_USE, f"{record.name}: its disk is in use")
            return Content(inside.kind, untouched=False, unfinished=False)
        assert self._world.legs[record.name] == (record.volume,)
        return Content(inside.kind, not inside.touched, inside.unfinished)

    def make(self, record: Record) -> None:
        inside = self._world.disk(record).inside
        if inside.kind == record.filesystem and not inside.unfinished:
            return
        self._world.check_making(record)
        self._world.disk(record).inside = Inside(record.filesystem, touched=True)

    def mounted(self, record: Record) -> bool | None:
        return record.volume in self._world.mounted

    def mount(self, record: Record) -> None:
        inside = self._world.disk(record).inside
        if inside.kind != record.filesystem or inside.unfinished:
            raise KeybrokerError(
                Problem.TOOL_FAILED, f"{record.name}: no whole {record.filesystem} is inside"
            )
        self._world.mounted.add(record.volume)
