"""Moves, re-encryptions, cancellations, cuts, backups of either side: in any order that Hypothesis finds.

The agent's planners, course, undertaking and driver, on disks and a broker in memory. Held after every rule:

- with nothing set back: exactly one volume is the holder, a key that is handed out opens its disk, and every
  acknowledged row is on it; settling ends in the wanted state;
- with an older broker, an older snapshot of either disk, or both: whatever is written over is on the disk
  that the data stays on; what opens has every row, or it is refused and said.

A snapshot of a disk that was still being copied to is put back after the Switch only: until then it is
copied to anew.

    KEYBROKER_EXAMPLES=3000 .venv/bin/python -m pytest -s tests/crash/test_crash_moves_stateful.py
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from keybroker.wire.problems import KeybrokerError, Problem
from tests.crash.memory_world import Disk
from tests.crash.mortal import MOMENTS, Death
from tests.crash.moved_site import MovedSite, counts, disk_of, newest
from tests.crash.test_crash_stateful import AGES, profile

RECOGNISED = {
    Problem.CONFLICT, Problem.CORRUPT, Problem.HEADER_REFUSED, Problem.LOCKED_OUT, Problem.MISMATCH,
    Problem.NO_DEVICE, Problem.NOT_BLANK, Problem.UNKNOWN, Problem.WRONG_DEVICE,
}  # fmt: skip
"""How a rollback may be told of."""


class Moves(RuleBasedStateMachine):
    """One volume that moves.

    Attributes:
        newer: the database that was set back, until it is given back or all is well.
        calm: nothing was set back since all was seen to be well.
        forked: two databases gave the volume keys, and those of the one that was put away are strangers.
    """

    def __init__(self) -> None:
        super().__init__()
        counts["examples"] += 1
        self.site = MovedSite()
        self.calm, self.forked = True, False
        self.snapshots: list[tuple[str, Disk]] = []
        self.backups: list[dict[str, Any]] = []
        self.newer: dict[str, Any] | None = None

    @initialize()
    def first_boot(self) -> None:
        assert self.site.boot() is None
        self.site.write()
        self.back_up()

    @rule()
    def rotate(self) -> None:
        if self.site.holder.stage == "ready" and self.site.holder.order is None:
            self.site.broker.rotate(self.site.holder.volume)

    @rule()
    def reencrypt(self) -> None:
        self.site.reencrypt()

    @rule(offline=st.booleans())
    def migrate(self, offline: bool) -> None:
        self.site.migrate(offline=offline)

    @rule()
    def cancel(self) -> None:
        counts["cancelled"] += self.site.holder.order is not None
        self.site.cancel()

    @rule()
    def lose_the_former(self) -> None:
        self.site.lose_the_former()

    @rule(
        wish=st.sampled_from(("", "live", "offline", "reencrypt")),
        stopped=st.booleans(),
        effect=st.integers(0, 16),
        moment=st.sampled_from(MOMENTS),
    )
    def settle_and_be_cut(self, wish: str, stopped: bool, effect: int, moment: str) -> None:
        if wish in ("live", "offline"):
            self.site.migrate(offline=wish == "offline")
        elif wish:
            self.site.reencrypt()
        self.stop(stopped or wish == "offline")
        error = self.site.settle(Death(effect, moment))
        self.check_said(error, lost_reply=True)
        counts["cuts"] += 1
        self.back_up()
        self.site.write()

    @rule(effect=st.none() | st.integers(0, 4), moment=st.sampled_from(MOMENTS))
    def reboot(self, effect: int | None, moment: str) -> None:
        self.site.power_cut()
        if effect is not None:
            self.site.boot(Death(effect, moment))
            self.site.power_cut()
        self.check_booted(self.site.boot())
        self.back_up()
        self.site.write()

    @rule()
    def settle(self) -> None:
        """Open, settle, open and settle once more: what ends well ends in the wanted state."""
        error: KeybrokerError | None = None
        for _ in range(3):
            order = self.site.holder.order
            self.stop(order is not None and order.offline)
            error = self.site.settle()
            self.check_booted(self.site.boot())
        self.check_said(error)
        if error is None:
            self.check_settled()
        else:
            counts[f"stopped: {error.problem.slug}"] += 1
        self.site.write()

    @rule(age=AGES, which=st.integers(0, 3))
    def restore_a_snapshot(self, age: int, which: int) -> None:
        if not self.snapshots:
            return
        serial, disk = self.snapshots[-1 - (age * 4 + which) % len(self.snapshots)]
        if serial not in self.site.disks or self.is_copied_to(serial):
            return
        counts["older disks"] += 1
        self.calm = False
        self.site.rolled.add(serial)
        self.site.power_cut()
        self.site.disks[serial] = copy.deepcopy(disk)

    def is_copied_to(self, serial: str) -> bool:
        records = self.site.broker.records.values()
        return any(each.role == "successor" and (each.device or each).serial == serial for each in records)

    @rule(age=AGES)
    def set_the_broker_back(self, age: int) -> None:
        counts["older brokers"] += 1
        self.calm, self.forked = False, True
        self.newer = self.newer or self.site.save()
        self.site.set_back(self.backups[-1 - age % len(self.backups)])

    @precondition(lambda self: self.newer is not None)
    @rule()
    def give_the_newer_broker_back(self) -> None:
        """The newest database is found after all; what the older one did meanwhile is not in it."""
        assert self.newer is not None
        self.site.set_back(self.newer)
        self.newer = None

    @precondition(lambda self: self.calm)
    @invariant()
    def the_holders_disk_opens_and_has_every_row(self) -> None:
        holder = self.site.holder
        if holder.stage == "ready":
            assert self.site.opens(holder)
            assert self.site.newest(holder) == self.site.last

    def check_booted(self, error: KeybrokerError | None) -> None:
        self.check_said(error)
        if error is not None:
            counts[f"not opened: {error.problem.slug}"] += 1
            return
        counts["opened"] += 1
        holder = self.site.holder
        if holder.stage != "ready" or holder.volume not in self.site.mounted:
            return
        serial = (holder.device or holder).serial
        if serial in self.site.rolled:
            self.site.last = max(self.site.last, self.site.newest(holder))
            return
        rows = self.site.newest(holder)
        assert self.site.rolled or rows == self.site.last, "an acknowledged row is lost, and nobody says so"

    def check_said(self, error: KeybrokerError | None, *, lost_reply: bool = False) -> None:
        if error is None or (lost_reply and error.problem is Problem.UNREACHABLE):
            return
        if error.problem is Problem.IN_USE:
            return
        if error.problem is Problem.FOREIGN_KEYSLOTS:
            assert self.forked
            return
        if error.problem is Problem.NO_DEVICE and "only what is open" in error.detail:
            return
        if error.problem is Problem.CONFLICT and "is closed" in error.detail:
            return
        if self.calm:
            counts[f"calm, and: {error.problem.slug}"] += 1
            assert lost_reply, f"nothing was set back, and still: {error.problem.slug}: {error.detail}"
        assert error.problem in RECOGNISED, f"{error.problem.slug}: {error.detail}"

    def check_settled(self) -> None:
        counts["settled"] += 1
        holder = self.site.holder
        if holder.order is None and self.site.opens(holder):
            assert holder.current == holder.wanted
            if (
                self.site.rolled
            ):  # what was acknowledged since that snapshot is lost by the operator's own hand
                self.site.last = self.site.newest(holder)
                # of a time that the operator gave up: newer only by its number
                self.snapshots = [(s, disk) for s, disk in self.snapshots if newest(disk) <= self.site.last]
            assert self.site.newest(holder) == self.site.last
            self.site.rolled.clear()
            self.newer, self.calm = None, True

    def stop(self, stopped: bool) -> None:
        """An operator stops the database, where the order is to be carried out offline."""
        if stopped:
            self.site.mounted.clear()

    def back_up(self) -> None:
        for each in self.site.broker.records.values():
            serial = (each.device or each).serial
            if serial in self.site.disks and each.stage == "ready":
                self.snapshots.append((serial, disk_of(self.site, serial)))
        self.backups.append(self.site.save())


def test_a_broker_of_before_a_move_and_a_disk_of_before_it_are_not_served_silently() -> None:
    """What Hypothesis found: the newer disk is forgotten, and the older one, wiped since, is given back."""
    moves = Moves()
    moves.first_boot()
    moves.site.migrate(offline=False)
    moves.reboot(None, "before")
    moves.settle()
    moves.reboot(None, "before")
    moves.restore_a_snapshot(0, 1)
    moves.settle()
    moves.reboot(None, "before")
    moves.set_the_broker_back(3)
    moves.reboot(1, "before")


def test_a_header_that_the_broker_forgot_is_not_raised_under_a_mirror() -> None:
    """What Hypothesis found: the broker was set back to before the deposit, the mirror still stands."""
    moves = Moves()
    moves.first_boot()
    moves.site.migrate(offline=False)
    moves.settle_and_be_cut("", False, 0, "before")
    moves.settle_and_be_cut("", False, 7, "before")
    moves.set_the_broker_back(1)
    moves.settle()
    moves.give_the_newer_broker_back()
    moves.settle()
    assert moves.site.newest(moves.site.holder) == moves.site.last


def test_a_disk_that_has_everything_is_not_left_because_a_broker_of_before_says_so() -> None:
    """What Hypothesis found: of before the deposit, and the move is cancelled there."""
    moves = Moves()
    moves.first_boot()
    moves.settle_and_be_cut("live", False, 0, "before")
    moves.settle()
    moves.restore_a_snapshot(0, 0)
    moves.settle()
    moves.set_the_broker_back(0)
    moves.cancel()
    moves.reboot(None, "before")


def test_nor_is_it_written_over_by_a_move_that_begins_anew() -> None:
    moves = Moves()
    moves.first_boot()
    moves.settle_and_be_cut("live", False, 4, "before")
    moves.settle()
    moves.restore_a_snapshot(0, 0)
    moves.set_the_broker_back(0)
    moves.cancel()
    moves.settle_and_be_cut("offline", False, 0, "before")
    moves.settle()


@pytest.mark.limit(7200)
def test_no_order_of_moves_cuts_and_rollbacks_costs_the_data() -> None:
    counts.clear()
    run_state_machine_as_test(Moves, settings=profile(80, 30))
    print(f"moves, in memory: {', '.join(f'{what} {number}' for what, number in sorted(counts.items()))}")
    assert counts["settled"] > 0
