"""Two disks of files under one stable name: real headers, openings and wipes; the tables are in memory.

What device-mapper would do is not tried here (it is in tests/kernel): a mirror is a note of two volumes, and
what is copied is the file that stands for what is inside.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.change import wipe
from agent.change.headers import MachineHeaders
from agent.change.workshop import Broker as ChangeBroker
from agent.change.workshop import Watch, Wiped, Workshop
from agent.plan import steps
from agent.plan.growth import Sizes
from agent.plan.situation import Mapping, Stable
from agent.world import World
from keybroker.wire.names import VolumeId, VolumeName
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from tests.crash import file_world
from tests.crash.file_reencryption import FileReencryption
from tests.crash.file_world import FileWorld, NoDevices


class MovedFiles(FileWorld):
    """Disks in a directory, of which one volume may have two.

    Attributes:
        legs: on which disks a stable name stands; the one that is copied first.
        synced: the mirrors that hold all.
    """

    def disk(self, record: Record) -> Path:
        return self.directory / f"{record.serial}.disk"

    def inside(self, record: Record) -> Path:
        return self.directory / f"{record.serial}.inside"

    def rows_of(self, record: Record) -> Path:
        return self.directory / f"{record.serial}.rows"

    def attach(self, record: Record) -> None:
        """Bring a blank disk."""
        for path, size in ((self.disk(record), record.size_bytes), (self.inside(record), 12 << 20)):
            with path.open("wb") as file:
                file.truncate(size)
        self.rows_of(record).write_text("")

    def power_cut(self) -> None:
        super().power_cut()
        self.legs: dict[VolumeName, tuple[Record, ...]] = {}
        self.synced: set[VolumeName] = set()
        self.held: set[VolumeId] = set()

    def write_rows(self, record: Record, rows: str) -> None:
        for leg in self.legs[record.name]:
            self.rows_of(leg).write_text(rows)

    def duplicate(self, source: Record, target: Record) -> None:
        shutil.copyfile(self.inside(source), self.inside(target))
        shutil.copyfile(self.rows_of(source), self.rows_of(target))
        self.leave_a_trace(target)

    def is_alike(self, one: Record, other: Record) -> bool:
        return all(
            place(one).read_bytes() == place(other).read_bytes() for place in (self.inside, self.rows_of)
        )

    def world(self) -> World:
        whole = super().world()
        return World(whole.broker, whole.disks, _Mappings(self), whole.filesystems)

    def workshop(self, broker: ChangeBroker) -> Workshop:
        headers = MachineHeaders(self, self.directory / "run")
        return Workshop(
            self.world(), broker, headers, FileLegs(self), _Sizes(), FileWiping(self), FileReencryption(self),
            NoDevices(),
        )  # fmt: skip

    def partial(self, step: type, *arguments: Any) -> None:
        """Do half of an effect; a table is exchanged by one call, and the broker's are transactions."""
        if step is steps.Wipe:
            with self.open(arguments[0]) as disk:
                os.pwrite(disk.fd, os.urandom(24 << 10), 0)  # the first copy, and the half of the second
        elif step is steps.Copy and isinstance(arguments[1], Record):
            with self.inside(arguments[1]).open("r+b") as target:
                target.write(self.inside(arguments[0]).read_bytes()[: 6 << 20])
        else:
            super().partial(step, *arguments)


class _Mappings(file_world._Mappings):
    def look(self, record: Record) -> Mapping:
        reach = self._world.reach.get(record.volume, Mapping())
        assert isinstance(self._world, MovedFiles)
        if reach.reach == "closed" or record.role != "holder":
            return reach if reach.reach == "closed" else Mapping("crypt")
        legs = [leg.volume for leg in self._world.legs.get(record.name, ())]
        if legs and record.volume not in legs:
            return Mapping(obstacle=f"its stable device stands on {legs}")
        return Mapping("open" if legs else "crypt")

    def link(self, record: Record) -> None:
        super().link(record)
        assert isinstance(self._world, MovedFiles)
        assert record.role == "holder"
        self._world.legs[record.name] = (record,)


class _Sizes:
    """Nothing grows here."""

    def sizes(self, record: Record) -> Sizes | None:
        return None

    def grow(self, *given: object) -> None:
        raise AssertionError("growing is tried in the model and on a real kernel")


class FileLegs:
    """See ``agent.change.workshop.Legs``."""

    def __init__(self, world: MovedFiles) -> None:
        self._world = world

    @contextmanager
    def alone(self, holder: Record) -> Iterator[None]:
        yield

    def look(self, holder: Record, partner: Record) -> Stable:
        legs = tuple(leg.volume for leg in self._world.legs.get(holder.name, ()))
        assert set(legs) <= {holder.volume, partner.volume}
        used = "the mount" if self._world.mounted & set(legs) else ""
        size = self._world.inside(holder).stat().st_size if legs else 0
        return Stable(legs, len(legs) == 2 and holder.name in self._world.synced, "", used, size)

    def mirror(self, holder: Record, successor: Record) -> None:
        assert self._world.reach[successor.volume] == Mapping("crypt"), "the target is not open, or linked"
        self._world.legs[holder.name] = (holder, successor)
        self._world.leave_a_trace(successor)

    def wait(self, holder: Record, watch: Watch) -> None:
        self._world.duplicate(*self._world.legs[holder.name])
        self._world.synced.add(holder.name)

    def copy(self, holder: Record, successor: Record, watch: Watch) -> None:
        if self._world.legs.get(holder.name):
            raise KeybrokerError(Problem.IN_USE, f"{holder.name}: its stable device is there")
        self._world.held |= {holder.volume, successor.volume}
        self._world.duplicate(holder, successor)

    def verify(self, holder: Record, successor: Record, watch: Watch) -> tuple[int, str]:
        if not self._world.is_alike(holder, successor):
            return 0, "the disks differ at 0, while nothing wrote to them"
        return self._world.inside(holder).stat().st_size, ""

    def drop(self, holder: Record, partner: Record) -> None:
        legs = self._world.legs[holder.name]
        assert holder.volume in [leg.volume for leg in legs]
        if legs[0].volume != holder.volume and len(legs) == 2:
            assert holder.name in self._world.synced, "its disk does not have all"
        was_mounted = self._world.mounted & {leg.volume for leg in legs}
        self._world.legs[holder.name] = (holder,)
        self._world.synced.discard(holder.name)
        if was_mounted:
            self._world.mounted = {holder.volume}

    def unlink(self, record: Record) -> None:
        if self._world.legs.pop(record.name, None):
            self._world.reach[record.volume] = Mapping("crypt")

    def close(self, record: Record) -> None:
        self.release(record)
        legs = self._world.legs.get(record.name, ())
        assert record.volume not in [leg.volume for leg in legs], "something stands on it"
        self._world.reach.pop(record.volume, None)

    def release(self, *records: Record) -> None:
        self._world.held -= {each.volume for each in records} if records else set(self._world.held)


class FileWiping:
    """``agent.change.wipe`` on a file: see ``agent.change.workshop.Wiping``."""

    def __init__(self, world: MovedFiles) -> None:
        self._world = world

    def wipe(self, record: Record, watch: Watch) -> Wiped:
        assert self._world.reach.get(record.volume, Mapping()) == Mapping(), "it is open"
        assert record.pin is not None
        with self._world.open(record) as disk:
            wipe.check(record, disk)
            return wipe.wipe(disk, record.pin.data_offset, watch=watch)
