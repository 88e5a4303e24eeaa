"""A machine whose volume moves from disk to disk, with its broker and operator, and backups of either side.

Watched is whatever writes over data: a wipe, a mirror's beginning, an offline copy. What a disk has that once
was the holder's may go only when the one that the data stays on has it too.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from agent.change.course import Course
from agent.change.disks import undertake
from agent.change.workshop import Watch, Wiped
from agent.driver import Driver
from agent.plan import relapse, settling
from keybroker.wire.messages import UnlockReply, UnlockRequest
from keybroker.wire.names import VolumeId
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.records import Record
from keybroker.wire.values import replace
from tests.crash import memory_keys, memory_orders
from tests.crash.memory_broker import MemoryBroker
from tests.crash.memory_legs import MemoryLegs, MemoryWiping
from tests.crash.memory_world import Disk, MemoryWorld
from tests.crash.mortal import Crash, Death, Mortal
from tests.crash.test_crash_memory import BOOT
from tests.crash.volumes import record

DATA: Final = record()
TABLES: Final = ("records", "copies", "deposited", "copied", "retired")
counts: Counter[str] = Counter()


class Forgetful(MemoryBroker):
    """Speaks of an erased volume only to who names it, as the real one does."""

    def unlock(self, request: UnlockRequest) -> UnlockReply:
        reply = super().unlock(request)
        named = {observation.volume for observation in request.observations}
        return replace(
            reply,
            grants=tuple(
                each for each in reply.grants if each.record.stage != "erased" or each.record.volume in named
            ),
        )

    def said(self, known: tuple[Record, ...]) -> tuple[Record, ...]:
        """Return what a report that names some volumes is answered with."""
        named = {each.volume for each in known}
        return tuple(each for each in self.records.values() if each.stage != "erased" or each.volume in named)


def newest(disk: Disk) -> int:
    """Return the newest row on a disk."""
    return int(disk.inside.rows.removeprefix("rows ") or 0)


class MovedSite(MemoryWorld):
    """One volume.

    Attributes:
        held: every volume whose disk ever was the one that counts.
        rolled: serials of disks that an older snapshot was put in the place of: what it lacks, an operator
            chose to lose.
        last: the newest row that was acknowledged, a number; 0 before the first.
        orders: how many there were.
    """

    def __init__(self) -> None:
        self.held: set[VolumeId] = {DATA.volume}
        self.rolled: set[str] = set()
        self.last = 0
        self.orders = 0
        self.moves = 0
        super().__init__([DATA])
        self.broker: Forgetful = Forgetful([DATA])
        self.legs_of = _WatchedLegs(self)
        self.wiping = _WatchedWiping(self)

    # the broker, and its operator

    @property
    def holder(self) -> Record:
        (found,) = [each for each in self.broker.records.values() if each.role == "holder"]
        return found

    def migrate(self, *, offline: bool) -> None:
        holder = self.holder
        if holder.stage != "ready" or holder.order is not None or memory_orders.is_rotating(holder):
            return
        if (holder.device or holder).serial not in self.disks:
            return
        self.moves += 1
        target = record(f"disk {self.moves}")
        self.disks[target.serial] = Disk(replace(self.disk(holder).device, serial=target.serial))
        self.broker.migrate(holder.volume, target, offline=offline)

    def reencrypt(self) -> None:
        holder = self.holder
        if holder.stage == "ready" and holder.order is None:
            self.orders += 1
            self.broker.order(holder.volume, Order(self.orders, "reencrypt"))

    def cancel(self) -> None:
        order = self.holder.order
        if order is None or order.phase == "begun":
            return
        if order.kind == "migrate":
            self.broker.cancel(self.holder.volume)
        elif order.kind == "reencrypt":
            kept = replace(self.holder, order=None, revision=self.holder.revision + 1)
            self.broker.records[kept.volume] = kept

    def lose_the_former(self) -> None:
        """A disk that was left breaks, and the operator says so: ``erase --disk-gone``."""
        for left in [each for each in self.broker.records.values() if each.role == "former"]:
            if left.stage != "erased" and self.reach.get(left.volume) is None:
                self.disks.pop((left.device or left).serial, None)
                gone = replace(left, stage="erased", order=None, partner=None, revision=left.revision + 1)
                self.broker.records[left.volume] = gone
                holder = self.holder
                if holder.partner == left.volume:
                    kept = replace(holder, partner=None, revision=holder.revision + 1)
                    self.broker.records[holder.volume] = kept
                return

    def save(self) -> dict[str, Any]:
        return {name: _copied(getattr(self.broker, name)) for name in TABLES}

    def set_back(self, saved: dict[str, Any]) -> None:
        for name, table in saved.items():
            setattr(self.broker, name, _copied(table))

    # the machine

    def write(self) -> None:
        """Let the database write a row, where there is one."""
        if len(self.mounted) == 1:
            (volume,) = self.mounted
            legs = self.legs.get(DATA.name, (volume,))
            if {volume, *legs} <= self.broker.records.keys():  # the model finds a disk by its record
                self.last += 1
                self.write_rows(self.broker.records[volume], f"rows {self.last}")

    def boot(self, death: Death | None = None) -> KeybrokerError | None:
        """Boot, or unlock by hand; a cut ends it and is no error."""
        mortal = Mortal(self.workshop(), self, death)
        try:
            report = Driver(mortal.world, BOOT, keep=self.keep).unlock(self.layout)
        except Crash:
            return None
        self.held.add(self.holder.volume)
        return report.error or next((each.error for each in report.outcomes if each.error), None)

    def settle(self, death: Death | None = None) -> KeybrokerError | None:
        """Do what ``agent.change.settlement`` does: hear, keep, take each course, move disks, hear, keep."""
        mortal = Mortal(self.workshop(), self, death)
        known = self.layout
        said = self.broker.said(known)
        self.keep(relapse.kept(known, said))
        if fallen := relapse.names(known, said):
            return relapse.error(min(fallen))
        mine = {each.volume: each for each in said}
        try:
            for each in said:
                if settling.has_course(each) and each.stage == "ready":
                    outcome = Course(mortal.workshop, BOOT, each).settle()
                    if outcome.error is not None:
                        return outcome.error
                    mine[each.volume] = outcome.record
            done = undertake(
                mortal.workshop, BOOT, mine.values(), watch=lambda kept, doing: None, keep=self.remember
            )
        except Crash:
            self.end_process()
            return None
        finally:
            counts["steps"] += len(mortal.journey)
            self.held.add(self.holder.volume)
        self.keep(relapse.kept(known, self.broker.said(known)))
        return next((each.error for each in done.values() if each.error), None)

    def remember(self, records: tuple[Record, ...]) -> None:
        """Keep some records and what was kept of others."""
        kept = {each.volume: each for each in (*self.layout, *records)}
        self.keep(tuple(kept.values()))

    def opens(self, kept: Record) -> bool:
        """Say whether a key that the broker hands out opens a volume's disk."""
        luks = self.header(kept)
        keys = memory_keys.live(kept, self.broker.mint).values()
        return luks is not None and any(luks.opened_by(key) is not None for key in keys)

    def newest(self, kept: Record) -> int:
        """Return the newest row on a volume's disk."""
        return newest(self.disk(kept))

    def check_overwritten(self, victim: Record, stays: Record) -> None:
        """Hold that what is about to be lost on one disk is on the one that the data stays on."""
        if victim.volume in self.held and self.header(victim) is not None:
            is_chosen = (stays.device or stays).serial in self.rolled
            assert is_chosen or self.newest(stays) >= self.newest(victim), (
                "what no other disk has was written over"
            )
            assert self.opens(stays), "the last disk that opens was written over"


class _WatchedLegs(MemoryLegs):
    def mirror(self, holder: Record, successor: Record) -> None:
        counts["mirrored"] += 1
        self._site.check_overwritten(successor, holder)
        super().mirror(holder, successor)

    def copy(self, holder: Record, successor: Record, watch: Watch) -> None:
        counts["copied offline"] += 1
        self._site.check_overwritten(successor, holder)
        super().copy(holder, successor, watch)

    @property
    def _site(self) -> MovedSite:
        assert isinstance(self._world, MovedSite)
        return self._world


class _WatchedWiping(MemoryWiping):
    def wipe(self, record: Record, watch: Watch) -> Wiped:
        assert isinstance(self._world, MovedSite)
        assert record.role == "former", "nobody ordered that it be erased"
        self._world.check_overwritten(record, self._world.holder)
        counts["wiped"] += 1
        return super().wipe(record, watch)


def _copied(table: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: set(held) if isinstance(held, set) else held for key, held in table.items()}


def disk_of(site: MovedSite, serial: str) -> Disk:
    return copy.deepcopy(site.disks[serial])
