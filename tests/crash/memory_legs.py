"""The stable device, the layers and the end of a disk in memory, as ``agent.change.workshop`` has them.

A mirror writes to both disks from the first moment on, and has the rest only after ``wait``: so what a
database wrote is on the target long before the target is any good.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.change.workshop import Watch, Wiped
from agent.plan import steps
from agent.plan.growth import Sizes
from agent.plan.situation import Mapping, Stable
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB
from keybroker.wire.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping as Keys

    from agent.plan.steps import Layer
    from agent.world import Sighting
    from keybroker.wire.names import KeyVersion
    from keybroker.wire.secret import Secret
    from tests.crash.memory_world import MemoryWorld


class MemoryLegs:
    """See ``agent.change.workshop.Legs``.

    Attributes:
        held: the volumes that this process holds exclusively.
    """

    def __init__(self, world: MemoryWorld) -> None:
        self._world = world
        self.held: set[VolumeId] = set()

    @contextmanager
    def alone(self, holder: Record) -> Iterator[None]:
        yield

    def look(self, holder: Record, partner: Record) -> Stable:
        legs = self._world.legs.get(holder.name, ())
        if not set(legs) <= {holder.volume, partner.volume}:
            raise KeybrokerError(Problem.WRONG_DEVICE, f"{holder.name}: stands on neither of the two: {legs}")
        used = "the mount" if self._world.mounted & set(legs) else ""
        in_sync = len(legs) == 2 and holder.name in self._world.synced
        failure = self._world.failing if len(legs) == 2 else ""
        return Stable(legs, in_sync and not failure, failure, used, self._world.size(legs[0]) if legs else 0)

    def mirror(self, holder: Record, successor: Record) -> None:
        world = self._world
        if world.legs[holder.name] == (holder.volume, successor.volume):
            return
        assert world.legs[holder.name] == (holder.volume,)
        assert world.reach[successor.volume] == Mapping("crypt"), "the target is not open, or linked"
        assert world.size(successor.volume) >= world.size(holder.volume)
        world.legs[holder.name] = (holder.volume, successor.volume)
        world.disk(successor).inside = replace(world.disk(holder).inside, kind="", touched=True)

    def wait(self, holder: Record, watch: Watch) -> None:
        source, target = self._world.legs[holder.name]
        self._world.duplicate(source, target)
        self._world.synced.add(holder.name)
        watch(1, 1)

    def copy(self, holder: Record, successor: Record, watch: Watch) -> None:
        self._hold(holder, successor)
        self._world.duplicate(holder.volume, successor.volume)
        watch(1, 1)

    def _hold(self, holder: Record, successor: Record) -> None:
        if self._world.legs.get(holder.name):
            raise KeybrokerError(Problem.IN_USE, f"{holder.name}: its stable device is there")
        self.held |= {holder.volume, successor.volume}

    def verify(self, holder: Record, successor: Record, watch: Watch) -> tuple[int, str]:
        if not self._world.legs.get(holder.name):
            assert {holder.volume, successor.volume} <= self.held
        if self._world.disk(holder).inside != self._world.disk(successor).inside:
            return 0, "the disks differ at 0, while nothing wrote to them"
        return self._world.size(holder.volume), ""

    def drop(self, holder: Record, partner: Record) -> None:
        world = self._world
        legs = world.legs[holder.name]
        if legs == (holder.volume,):
            return
        assert holder.volume in legs
        if legs[0] != holder.volume and holder.name not in world.synced:
            raise KeybrokerError(Problem.MISMATCH, f"{holder.name}: its disk does not have all")
        world.legs[holder.name] = (holder.volume,)
        world.synced.discard(holder.name)
        if partner.stage == "plain":
            world.reach.pop(partner.volume, None)  # nothing but the stable device made it open
        if world.mounted & set(legs):
            world.mounted = world.mounted - set(legs) | {holder.volume}

    def unlink(self, record: Record) -> None:
        if self._world.mounted & set(self._world.legs.get(record.name, ())):
            raise KeybrokerError(Problem.IN_USE, f"{record.name}: is mounted")
        if self._world.legs.pop(record.name, None):
            self._world.reach[record.volume] = Mapping() if record.stage == "plain" else Mapping("crypt")

    def close(self, record: Record) -> None:
        self.release(record)
        assert record.volume not in self._world.legs.get(record.name, ()), "something stands on it"
        self._world.reach.pop(record.volume, None)

    def release(self, *records: Record) -> None:
        self.held -= {record.volume for record in records} if records else set(self.held)

    def partial(self, step: type, *arguments: object) -> None:
        """Do half of an offline copy, and nothing of the rest: a table is exchanged by one call."""
        if step is steps.Copy and isinstance(arguments[1], Record):
            holder, successor = arguments[0], arguments[1]
            assert isinstance(holder, Record)
            self._hold(holder, successor)
            self._world.disk(successor).inside.touched = True


class MemoryGrowth:
    """See ``agent.change.workshop.Growth``."""

    def __init__(self, world: MemoryWorld) -> None:
        self._world = world

    def sizes(self, record: Record) -> Sizes | None:
        if self._world.legs.get(record.name) != (record.volume,):
            return None
        room = self._world.size(record.volume)
        inside = self._world.disk(record).inside
        return Sizes(room, room, inside.linear or room, inside.size or None)

    def grow(self, record: Record, layer: Layer, keys: Keys[KeyVersion, Secret], seen: Sighting) -> None:
        inside, room = self._world.disk(record).inside, self._world.size(record.volume)
        match layer:
            case "linear":
                inside.linear = room
            case "filesystem":
                inside.size = room


class MemoryWiping:
    """See ``agent.change.workshop.Wiping``.

    Attributes:
        wiped: each disk that lost its header, and who held the data then.
    """

    def __init__(self, world: MemoryWorld) -> None:
        self._world = world
        self.wiped: list[VolumeId] = []

    def wipe(self, record: Record, watch: Watch) -> Wiped:
        self._check(record)
        if record.stage == "plain":
            size = self._world.size(record.volume)
            inside = self._world.disk(record).inside
            self._world.disk(record).inside = type(inside)()
            self.wiped.append(record.volume)
            return Wiped(size, "overwritten")
        self._world.disk(record).header = {}
        self.wiped.append(record.volume)
        watch(4 * MIB, 4 * MIB)
        return Wiped(4 * MIB, "overwritten")

    def partial(self, record: Record) -> None:
        self._check(record)
        if record.stage == "plain":
            self._world.disk(record).inside = replace(self._world.disk(record).inside, kind="")
        for name in ("first", "keyslots-1"):
            self._world.disk(record).header.pop(name, None)

    def _check(self, record: Record) -> None:
        kept = self._world.broker.records[record.volume]
        assert kept.role == "former" or (kept.order is not None and kept.order.kind == "erase")
        assert self._world.reach.get(record.volume, Mapping()) == Mapping(), "it is open"
        assert record.volume not in self._world.legs.get(record.name, ()), "the stable device stands on it"
