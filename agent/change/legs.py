"""The stable device of a volume, put on two disks and on one again, while a database writes to it.

    linear over the source ──Mirror──▶ dm-mirror of both ──Drop──▶ linear over the target

Each exchange of its table is one ioctl (``devicemapper.exchange``), made only after the table that is there
was read and found to be one of these three, on devices that are the two volumes' own; and looked at
afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Final

from agent import devicemapper, dmcontrol, opened, opening
from agent.change import stable
from agent.change.blocks import Blocks
from agent.change.comparison import compare
from agent.change.duplicate import duplicate
from agent.change.stable import Standing
from agent.change.workshop import Watch
from agent.devicemapper import SECTOR, Mapped
from agent.luks import cryptsetup, mirror
from agent.luks.mirror import MirrorStatus, MirrorTable
from agent.luks.table import LinearTable
from agent.places import Places
from agent.plan.situation import Stable
from agent.turn import alone, turn
from keybroker.wire import names
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.values import dataclass, field

POLL_SECONDS: Final = 0.1
"""How often a mirror is looked at while it copies. A write that a failed leg did not take waits for that
long, and for the exchange of the table."""


@dataclass(frozen=True, slots=True)
class MachineLegs:
    """The two volumes of a migration on this machine: see ``agent.change.workshop.Legs``.

    Attributes:
        runtime: of the agent.
    """

    places: Places
    runtime: Path
    _held: dict[VolumeId, Blocks] = field(default_factory=dict)

    @contextmanager
    def alone(self, holder: Record) -> Iterator[None]:
        """See ``agent.change.workshop.Legs``."""
        # Of the name, which both volumes have: which of them is the holder changes on the way.
        with alone(self.runtime, f"move-{holder.name}"):
            yield

    def look(self, holder: Record, partner: Record) -> Stable:
        """See ``agent.change.workshop.Legs``."""
        name = names.mapper_name(holder.name)
        if name in devicemapper.mapped() and dmcontrol.is_suspended(name):
            # Whoever suspends it does so for a moment and in turn: it was killed.
            with turn(self.runtime, holder.volume):
                devicemapper.revive(name)
        standing = stable.read(holder)
        if standing is None:
            return Stable()
        volumes = {self._node(record): record.volume for record in (holder, partner)}
        foreign = [node for node in standing.nodes if node not in volumes]
        if foreign:
            raise KeybrokerError(
                Problem.WRONG_DEVICE,
                f"{devicemapper.path(name)}: stands on {', '.join(foreign)}, and that is neither of the two",
                hint=f"dmsetup table {name}; dmsetup ls --tree",
            )
        status = standing.status
        return Stable(
            legs=tuple(volumes[node] for node in standing.nodes),
            in_sync=status is not None and status.in_sync,
            failure=status.failure if status is not None else "",
            used_by=stable.users(standing.top),
            size_bytes=standing.sectors * SECTOR,
        )

    def mirror(self, holder: Record, successor: Record) -> None:
        """See ``agent.change.workshop.Legs``."""
        name = names.mapper_name(holder.name)
        with turn(self.runtime, holder.volume):
            standing = stable.needed(holder)
            source, target = self._node(holder), self._node(successor)
            if standing.status is not None and standing.nodes == (source, target):
                return
            if standing.nodes != (source,):
                raise stable.elsewhere(holder, standing)
            self._check_target(successor, standing)
            devicemapper.exchange(name, MirrorTable(standing.sectors, (source, target)).line)
            self._confirm(holder, (source, target))

    def wait(self, holder: Record, watch: Watch) -> None:
        """See ``agent.change.workshop.Legs``."""
        while True:
            standing = stable.needed(holder)
            status = standing.status
            if status is None:
                raise stable.elsewhere(holder, standing)
            region = mirror.REGION_SECTORS * SECTOR
            size = standing.sectors * SECTOR
            watch(min(status.copied * region, size), size)
            if status.in_sync or status.failure:
                return
            time.sleep(POLL_SECONDS)

    def copy(self, holder: Record, successor: Record, watch: Watch) -> None:
        """See ``agent.change.workshop.Legs``."""
        rate = holder.order.rate if holder.order is not None else None
        with turn(self.runtime, holder.volume):
            if stable.read(holder) is not None:
                raise KeybrokerError(
                    Problem.IN_USE, f"{holder.name}: its stable device is there, so something may write to it"
                )
            source, target = self._hold(holder), self._hold(successor)
        duplicate(source, target, _length(source, target), rate=rate, watch=watch)

    def verify(self, holder: Record, successor: Record, watch: Watch) -> tuple[int, str]:
        """See ``agent.change.workshop.Legs``."""
        standing = stable.read(holder)
        if standing is None and not {holder.volume, successor.volume} <= self._held.keys():
            raise KeybrokerError(
                Problem.IN_USE, f"{holder.name}: the disks are not held while they are compared"
            )
        with self._reading(holder) as source, self._reading(successor) as target:
            size = standing.sectors * SECTOR if standing is not None else _length(source, target)

            def look_up(done: int, total: int) -> None:
                # A failed leg holds writes back: no time to go on comparing.
                now = stable.read(holder) if standing is not None else None
                if now is not None and (now.status is None or not now.status.in_sync):
                    raise _Failed
                watch(done, total)

            try:
                place = compare(
                    source, target, size, quiet=lambda: self._quiet(holder, standing), watch=look_up
                )
            except _Failed:
                return 0, ""
            except OSError as error:  # also where it is the mirror that says next that a leg failed
                return 0, f"a disk cannot be read while they are compared: {error.strerror}"
        if place is None:
            return size, ""
        return 0, f"the disks differ at {place}, while nothing wrote to them"

    def drop(self, holder: Record, partner: Record) -> None:
        """See ``agent.change.workshop.Legs``."""
        name = names.mapper_name(holder.name)
        with turn(self.runtime, holder.volume):
            standing = stable.needed(holder)
            mine = self._node(holder)
            if standing.nodes == (mine,):
                return
            if standing.status is None or mine not in standing.nodes:
                raise stable.elsewhere(holder, standing)
            _check_leg(holder, standing.status, standing.nodes.index(mine))
            devicemapper.exchange(name, LinearTable(standing.sectors, mine).line)
            self._confirm(holder, (mine,))

    def unlink(self, record: Record) -> None:
        """See ``agent.change.workshop.Legs``."""
        name = names.mapper_name(record.name)
        with turn(self.runtime, record.volume):
            standing = stable.read(record)
            if standing is None:
                return
            if standing.nodes != (self._node(record),):
                raise stable.elsewhere(record, standing)
            if users := stable.users(standing.top):
                raise KeybrokerError(Problem.IN_USE, f"{devicemapper.path(name)}: is used by {users}")
            devicemapper.remove(name)

    def close(self, record: Record) -> None:
        """See ``agent.change.workshop.Legs``."""
        name = names.mapper_name(record.name)
        self.release(record)
        with turn(self.runtime, record.volume):
            if name in devicemapper.mapped():
                devicemapper.clear(name)
            cryptsetup.close(names.crypt_name(record.name, record.luks_uuid))
            opened.forget(self.runtime, record.volume)

    def release(self, *records: Record) -> None:
        """See ``agent.change.workshop.Legs``."""
        for volume in [record.volume for record in records] or list(self._held):
            if (held := self._held.pop(volume, None)) is not None:
                held.close()

    def _crypt(self, record: Record) -> Mapped | None:
        name = names.crypt_name(record.name, record.luks_uuid)
        there = devicemapper.mapped().get(name)
        if there is not None and there.uuid != opening.crypt_uuid(record.luks_uuid, name):
            raise KeybrokerError(Problem.WRONG_DEVICE, f"{name}: its DM UUID is {there.uuid or 'missing'}")
        return there

    def _node(self, record: Record) -> str:
        """Return the node of what a volume is read from and written to; empty where it is not open.

        Of a plain volume that is its disk, which nothing needs to open.
        """
        if record.stage == "plain":
            return self._plain_node(record)
        crypt = self._crypt(record)
        return crypt.node if crypt is not None else ""

    def _plain_node(self, record: Record) -> str:
        try:
            with self.places.open(record) as disk:
                return disk.device.node
        except KeybrokerError as error:
            if error.problem is not Problem.NO_DEVICE:
                raise
            return ""  # the disk that was left may be gone: that is no trouble of the new one's

    def _path(self, record: Record) -> Path:
        return devicemapper.device(names.crypt_name(record.name, record.luks_uuid))

    def _hold(self, record: Record) -> Blocks:
        """Open what a volume is written to, and keep everybody else from using it until ``release``."""
        if record.volume not in self._held:
            self._held[record.volume] = self._blocks(record, hold=True)
        return self._held[record.volume]

    def _blocks(self, record: Record, *, hold: bool = False) -> Blocks:
        if record.stage != "plain":
            return Blocks(self._path(record), writable=hold, exclusive=hold)
        with self.places.open(record) as disk:  # by the descriptor: it cannot come to mean another disk
            return Blocks(Path(disk.path), exclusive=hold)  # and never to be written to

    @contextmanager
    def _reading(self, record: Record) -> Iterator[Blocks]:
        if record.volume in self._held:
            yield self._held[record.volume]
            return
        blocks = self._blocks(record)
        try:
            yield blocks
        finally:
            blocks.close()

    @contextmanager
    def _waiting(self, holder: Record) -> Iterator[None]:
        with turn(self.runtime, holder.volume), devicemapper.suspended(names.mapper_name(holder.name)):
            yield

    def _quiet(self, holder: Record, standing: Standing | None) -> AbstractContextManager[None]:
        return self._waiting(holder) if standing is not None else nullcontext()

    def _check_target(self, successor: Record, standing: Standing) -> None:
        """Refuse a target that something uses, or that cannot take every write of the source's users."""
        crypt = self._crypt(successor)
        if crypt is None:
            raise KeybrokerError(Problem.NO_DEVICE, f"{successor.name}: its new disk is not open")
        if users := stable.users(crypt):
            raise KeybrokerError(Problem.IN_USE, f"{crypt.name}: is used by {users}; nothing was written")
        top = Blocks(devicemapper.device(standing.top.name))
        try:
            with self._reading(successor) as target:
                if target.size_bytes < top.size_bytes or target.block > top.block:
                    raise KeybrokerError(
                        Problem.WRONG_DEVICE,
                        f"{crypt.name}: has {target.size_bytes} bytes in blocks of {target.block}, and cannot"
                        f" take {top.size_bytes} in blocks of {top.block}",
                    )
        finally:
            top.close()

    def _confirm(self, record: Record, nodes: tuple[str, ...]) -> None:
        standing = stable.needed(record)
        if standing.nodes != nodes:
            raise stable.elsewhere(record, standing)


class _Failed(Exception):
    """A leg failed while it was compared."""


def _check_leg(holder: Record, status: MirrorStatus, leg: int) -> None:
    """Refuse to go on from a leg that does not have all that was acknowledged."""
    # Leg 0 always has it: it is written before a write is acknowledged, and the other is copied from it. The
    # target has it once both were in sync; what is not since then, is so because the source failed.
    other = status.health[1 - leg]
    if leg == 1 and (status.health[1] != "A" or (status.copied != status.regions and other == "A")):
        raise KeybrokerError(
            Problem.MISMATCH,
            f"{holder.name}: the broker says that {holder.volume} holds it, but its disk does not have all"
            f" of it ({status.copied} of {status.regions} regions; {status.failure or 'no leg failed'});"
            " nothing was changed, and the mirror still stands",
            hint="the disk that it left has everything; do not reboot before you have looked",
        )


def _length(source: Blocks, target: Blocks) -> int:
    if target.size_bytes < source.size_bytes:
        raise KeybrokerError(
            Problem.WRONG_DEVICE,
            f"{target.path}: has {target.size_bytes} bytes, fewer than {source.size_bytes}",
        )
    return source.size_bytes
