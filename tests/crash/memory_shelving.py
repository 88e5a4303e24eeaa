"""``Shelving`` in memory: a plain filesystem's beginning, kept at its disk's end, and how it gives way.

What a volume holds is one word here, so its beginning is that word. As soon as part of a header lies on the
disk, what counts is what was kept of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.plan.situation import Ground
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record

if TYPE_CHECKING:
    from tests.crash.memory_world import MemoryWorld

ROOM = 8 << 20


class MemoryShelving:
    """The plain disks of a world.

    Attributes:
        unclean: the filesystem is not as it should be.
    """

    def __init__(self, world: MemoryWorld) -> None:
        self._world = world
        self.unclean = False

    def look(self, record: Record, *, in_use: bool) -> Ground:
        disk = self._world.disk(record)
        assert in_use == bool(self._world.legs.get(record.name))
        size = disk.device.size_bytes
        taken = size - (ROOM if disk.has_room else 0)
        return Ground(disk.inside.kind, size, taken, disk.shelf == disk.inside.rows)

    def check(self, record: Record) -> None:
        assert not self._world.legs.get(record.name)
        if self.unclean:
            raise KeybrokerError(Problem.CONFLICT, f"{record.name}: its filesystem is not clean")

    def shelve(self, record: Record) -> None:
        disk = self._world.disk(record)
        assert disk.has_room, "it would be written over the filesystem's end"
        assert not self._world.legs.get(record.name), "it is in use"
        assert not disk.header, "the beginning is not the filesystem's any more"
        disk.shelf = disk.inside.rows

    def partial(self, record: Record) -> None:
        """Leave half of a copy."""
        self._world.disk(record).shelf = "half of something"

    def give_way(self, record: Record, meant: dict[str, bytes]) -> None:
        """Refuse an inscription over anything else; before its first byte, see that the shelf is right."""
        disk = self._world.disk(record)
        assert record.order is not None
        assert record.order.is_reencrypting, "the broker has no header"
        assert not self._world.legs.get(record.name), "it is in use"
        if any(meant[name] != held for name, held in disk.header.items()):
            raise KeybrokerError(Problem.NOT_BLANK, f"{record.name}: something else is at its beginning")
        if not disk.header:
            self.shelve(record)
        disk.inside.rows = disk.shelf
