"""Broker, header, operator, power and rollbacks, in any order that Hypothesis thinks of.

The agent's own planners and driver, against the world in memory; the broker is one in memory, and the real
one on SQLite. Held after every rule, and at every single write to the header:

- without rollbacks: a key that the broker hands out opens the disk; settling ends in the wanted state;
- with an older disk, or an older broker: so it is too, or it is recognised and said, and nothing is written;
- nobody's keyslot but our own is ever touched, and none of ours without another one that opens;
- the newer side, given back before the older one has gone on, makes all well again;
- a snapshot is opened by a key that the broker still has, for as long as it keeps retired keys.

    KEYBROKER_EXAMPLES=3000 .venv/bin/python -m pytest -s tests/crash/test_crash_stateful.py
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent.change.course import Course, CourseOutcome
from agent.change.workshop import Workshop
from agent.driver import Driver, VolumeOutcome
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from tests.crash.memory_header import WIPED, Luks
from tests.crash.memory_world import SECTORS, Disk, MemoryWorld
from tests.crash.mortal import MOMENTS, Crash, Death, Mortal
from tests.crash.service_broker import ServiceBroker, Wanted
from tests.crash.test_crash_memory import BOOT
from tests.crash.vaults import RETENTION_DAYS, MemoryVault, ServiceVault, Vault
from tests.crash.volumes import SIZE, record

EXAMPLES: Final = int(os.environ.get("KEYBROKER_EXAMPLES", "0"))
"""How many to try, at random; 0 for the few that are tried on each run, the same ones each time."""

FOREIGN: Final = "somebody's "

AGES: Final = st.integers(0, 11)
"""Which backup is restored, counted from the newest."""

SAID: Final = {
    Problem.LOCKED_OUT: ("opens no keyslot", "no key opens it"),
    Problem.CONFLICT: ("the newest that the broker knows of is", "open, but the broker has it as"),
    Problem.HEADER_REFUSED: ("no LUKS2 header can be read", "not the pinned one", "blank", "other", "luks2"),
    Problem.NOT_BLANK: ("not blank", "something else is on the disk", "luks2", "is inside"),
}
"""How a rollback may be told, by its problem; in any other words it was not recognised."""

counts: Counter[str] = Counter()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A disk as it was.

    Attributes:
        opened: one of the keys that the broker had then opened it.
        day, setbacks: when it was taken: the day, and after how many restorations of the broker.
    """

    disk: Disk
    opened: bool
    day: int
    setbacks: int


class WatchedWorld(MemoryWorld):
    """Looks at every write to the header of a volume in use, whole or cut.

    Attributes:
        vault: whose keys have to open what is left.
        writes: by the agent, so far.
        operator: an operator is at work, who may do as he likes.
    """

    def __init__(self, vault: Vault, of: Record) -> None:
        self.vault = vault
        self.writes = 0
        self.operator = False
        super().__init__([of])

    def write_header(self, record: Record, luks: Luks, only: Sequence[str] = SECTORS) -> None:
        before = self.header(record)
        super().write_header(record, luks, only)
        if self.operator or before is None:
            return
        self.writes += 1
        after = self.header(record)
        assert after is not None
        known = max(*self.vault.live(), self.vault.record.newest or 0)
        named = [version for number, version in (before.token or {}).items() if number in before.keyslots]
        assert max(named, default=0) <= known, "the broker is behind, and the header was changed"
        assert self.opens(before), "no key opens the volume, and its header was changed"
        assert self.opens(after), "the last keyslot that opens the volume was cleared"
        assert foreign(before).items() <= foreign(after).items(), "somebody's keyslot was touched"
        assert (after.uuid, after.volume_key) == (before.uuid, before.volume_key)

    def opens(self, luks: Luks) -> bool:
        """Say whether a key that the broker hands out opens a header."""
        return any(luks.opened_by(key) is not None for key in self.vault.live().values())


def foreign(luks: Luks) -> dict[int, str]:
    return {number: text for number, text in luks.keyslots.items() if text.startswith(FOREIGN)}


class Rollbacks(RuleBasedStateMachine):
    """One volume, its broker, its operator, and those who keep backups of both.

    Attributes:
        calm: what there is was never set back, or has been seen to end in the wanted state since.
        newer_disk, newer_broker: what a rollback replaced, until it is given back, or until the older one
            has gone on, so that it is not the newer one any more.
    """

    def vaulted(self) -> Vault:
        """Return a broker with a new volume."""
        return MemoryVault(record())

    def __init__(self) -> None:
        super().__init__()
        counts["examples"] += 1
        self.vault = self.vaulted()
        self.world = WatchedWorld(self.vault, self.vault.record)
        self.day = 0
        self.setbacks = 0
        self.newer_disk: Disk | None = None
        self.newer_broker: object | None = None
        self.calm = True
        self.snapshots: list[Snapshot] = []
        self.backups: list[object] = []

    def teardown(self) -> None:
        self.vault.close()

    @initialize()
    def first_boot(self) -> None:
        """Open the volume for the first time, with backups from each stage of that."""
        for effect in range(1, 10):
            self.back_up()
            self.boot(Death(effect, "before"))
        self.boot()
        self.world.write_rows(self.vault.record, "rows")
        self.back_up()

    # what an operator does

    @rule()
    def rotate(self) -> None:
        if self.vault.record.stage == "ready":
            self.vault.rotate()

    @rule()
    def add_a_keyslot(self) -> None:
        """An operator adds a recovery passphrase."""
        luks = self.header
        if luks is not None and self.room(luks):
            self.change(luks.changed(keyslots={**luks.keyslots, free(luks): f"{FOREIGN}{luks.sequence}"}))

    @rule()
    def take_a_keyslot_out(self) -> None:
        luks = self.header
        if luks is not None and foreign(luks):
            self.change(luks.without(min(foreign(luks))))

    # what the machine does

    @rule(wish=st.booleans(), effect=st.integers(0, 9), moment=st.sampled_from(MOMENTS))
    def settle_and_be_cut(self, wish: bool, effect: int, moment: str) -> None:
        if wish:
            self.rotate()
        counts["cuts"] += self.course(Death(effect, moment)) is None
        self.back_up()

    @rule()
    def settle(self) -> None:
        """Settle twice: what ends well ends in the wanted state, what does not says why, and stops."""
        self.run()
        error = self.run()
        if error is None:
            counts["settled"] += 1
            self.check_settled()
            self.back_up()
            self.newer_disk, self.newer_broker, self.calm = None, None, True
            return
        counts[f"stopped: {error.problem.slug}"] += 1
        self.check_recognised(error)
        written = self.world.writes
        self.run()
        assert self.world.writes == written, "it was stopped, and goes on all the same"

    @rule(effect=st.none() | st.integers(0, 4), moment=st.sampled_from(MOMENTS))
    def reboot(self, effect: int | None, moment: str) -> None:
        self.world.power_cut()
        if effect is not None:
            self.boot(Death(effect, moment))
            self.world.power_cut()
        outcome = self.boot()
        assert outcome is not None
        if outcome.error is None:
            counts["opened"] += 1
            return
        counts[f"not opened: {outcome.error.problem.slug}"] += 1
        self.check_recognised(outcome.error)
        luks = self.header
        assert self.vault.record.stage != "ready" or luks is None or not self.world.opens(luks)

    @rule()
    def cut_a_kill(self) -> None:
        """A keyslot of ours has its area wiped, and stays listed; not the last one that ``current`` opens."""
        luks, current = self.header, self.vault.record.current
        if luks is None or current is None:
            return
        for number in sorted(luks.keyslots.keys() & (luks.token or {}).keys()):
            if luks.wiped(number).opened_by(self.vault.live()[current]) is not None:
                self.change(luks.wiped(number))
                return

    @rule(named=st.booleans())
    def cut_a_reencryption_early(self, named: bool) -> None:
        """A keyslot appears that a key of ours opens, and that belongs to no segment."""
        luks = self.header
        if luks is None or not self.room(luks):
            return
        version, key = max(self.vault.live().items())
        token = {**(luks.token or {}), free(luks): int(version)} if named else luks.token
        slots = {**luks.keyslots, free(luks): key.reveal().decode()}
        self.change(luks.changed(keyslots=slots, token=token, unbound=luks.unbound | {free(luks)}))

    @rule(which=st.sampled_from(("first", "second")))
    def damage_a_copy(self, which: str) -> None:
        if self.header is not None and not self.world.is_degraded(self.vault.record):
            del self.disk.header[which]

    @rule(days=st.sampled_from((1, 10, RETENTION_DAYS + 1)))
    def pass_time(self, days: int) -> None:
        self.day += days
        self.vault.pass_time(days)

    # what those do who keep backups

    @rule(age=AGES)
    def restore_a_snapshot(self, age: int) -> None:
        snapshot = self.snapshots[-1 - age % len(self.snapshots)]
        counts["older disks"] += 1
        if self.calm or (self.newer_disk is None and self.newer_broker is not None):
            self.newer_disk = self.disk
        self.calm = False
        self.put(snapshot.disk)
        promised = snapshot.setbacks == self.setbacks and self.day - snapshot.day < RETENTION_DAYS
        if snapshot.opened and promised:
            assert self.kept_opens(), "a key was destroyed before its time"

    @rule(age=AGES)
    def set_the_broker_back(self, age: int) -> None:
        counts["older brokers"] += 1
        if self.calm or (self.newer_broker is None and self.newer_disk is not None):
            self.newer_broker = self.vault.save()
        self.calm = False
        self.setbacks += 1
        self.vault.set_back(self.backups[-1 - age % len(self.backups)])

    @precondition(lambda self: self.newer_disk is not None)
    @rule()
    def give_the_newer_disk_back(self) -> None:
        assert self.newer_disk is not None
        counts["given back: disk"] += 1
        self.put(self.newer_disk)
        self.newer_disk = None
        self.calm = self.newer_broker is None

    @precondition(lambda self: self.newer_broker is not None)
    @rule()
    def give_the_newer_broker_back(self) -> None:
        counts["given back: broker"] += 1
        self.vault.set_back(self.newer_broker)
        self.newer_broker = None
        self.calm = self.newer_disk is None

    # what must be so

    @invariant()
    def a_key_that_is_handed_out_opens_the_disk(self) -> None:
        if self.calm and self.world.layout[0].stage == "ready":
            luks = self.header
            assert luks is not None
            assert self.world.opens(luks)

    def check_settled(self) -> None:
        """Hold what is so when all is as it is wanted."""
        now, luks = self.vault.record, self.header
        assert luks is not None
        assert now.stage == "ready"
        assert (now.current, now.staged, now.retiring) == (now.wanted, None, None)
        assert now.current is not None
        ours = self.vault.live()[now.current].reveal().decode()
        bound = [number for number, text in luks.keyslots.items() if text == ours]
        assert len([number for number in bound if number not in luks.unbound]) == 1
        assert luks.token == dict.fromkeys(bound, now.current)
        assert WIPED not in luks.keyslots.values()
        assert not self.world.is_degraded(now)
        assert now.sequence == luks.sequence

    def check_recognised(self, error: KeybrokerError) -> None:
        """Hold that what stops is no mistake, and is said."""
        if error.problem is Problem.FOREIGN_KEYSLOTS:
            luks = self.header
            assert luks is not None
            assert not self.room(luks)
            return
        assert not self.calm, f"nothing was set back, and still: {error.problem.slug}: {error.detail}"
        assert any(said in error.detail for said in SAID.get(error.problem, ())), error.detail

    # how it is done

    @property
    def disk(self) -> Disk:
        return self.world.disk(self.vault.record)

    @property
    def header(self) -> Luks | None:
        return self.world.header(self.vault.record)

    def room(self, luks: Luks) -> bool:
        return len(luks.keyslots) < self.vault.record.profile.most_keyslots

    def back_up(self) -> None:
        """Take a backup of either side; of the disk, not while its filesystem is still to be made."""
        if self.disk.is_blank or (self.disk.inside.kind and not self.disk.inside.unfinished):
            taken = copy.deepcopy(self.disk)
            self.snapshots.append(Snapshot(taken, self.kept_opens(), self.day, self.setbacks))
        self.backups.append(self.vault.save())

    def kept_opens(self) -> bool:
        luks = self.header
        return luks is not None and any(luks.opened_by(key) is not None for key in self.vault.kept().values())

    def put(self, disk: Disk) -> None:
        """Put a disk in the place of the one that is there; the machine is off meanwhile."""
        self.world.power_cut()
        self.world.disks[self.vault.record.serial] = copy.deepcopy(disk)

    def change(self, luks: Luks) -> None:
        self.world.operator = True
        self.world.write_header(self.vault.record, luks)
        self.world.operator = False

    def workshop(self) -> Workshop:
        world = replace(self.world.world(), broker=self.vault.broker)
        return replace(self.world.workshop(), world=world, broker=self.vault.broker)

    def run(self) -> KeybrokerError | None:
        """Let the agent do what there is to do; return what keeps it from that."""
        if self.vault.record.stage != "ready":
            opened = self.boot()
            assert opened is not None
            if opened.error is not None:
                return opened.error
        outcome = self.course()
        assert outcome is not None
        return outcome.error

    def course(self, death: Death | None = None) -> CourseOutcome | None:
        """Let the agent change the volume in use as it is wanted; None where it was cut."""
        mortal = Mortal(self.workshop(), self.world, death)
        before, written = self.keys(), self.world.writes
        try:
            outcome = Course(mortal.workshop, BOOT, self.vault.record).settle()
        except Crash:
            outcome = None
        if self.keys() != before or self.world.writes != written:
            self.newer_disk, self.newer_broker = None, None  # the older one has gone on
        counts["steps"] += len(mortal.journey)
        return outcome

    def boot(self, death: Death | None = None) -> VolumeOutcome | None:
        """Let the machine boot; None where it was cut."""
        mortal = Mortal(self.workshop(), self.world, death)
        stage = self.vault.record.stage
        try:
            report = Driver(mortal.world, BOOT, keep=self.world.keep).unlock(self.world.layout)
        except Crash:
            return None
        finally:
            if self.vault.record.stage != stage:
                self.newer_disk, self.newer_broker = None, None
        assert report.error is None or death is not None
        return report.outcomes[0]

    def keys(self) -> tuple[object, ...]:
        now = self.vault.record
        return now.current, now.staged, now.retiring


def free(luks: Luks) -> int:
    """Return the number of a keyslot that is not there."""
    return next(number for number in range(32) if number not in luks.keyslots)


def profile(examples: int, steps: int) -> settings:
    """Return how much is tried: as much as on each run, or as the environment wants."""
    return settings(
        max_examples=EXAMPLES or examples,
        stateful_step_count=steps,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def told() -> str:
    return ", ".join(f"{what} {number}" for what, number in sorted(counts.items()))


@pytest.mark.limit(7200)
def test_no_order_of_rollbacks_and_cuts_costs_the_data_of_a_broker_in_memory() -> None:
    counts.clear()
    run_state_machine_as_test(Rollbacks, settings=profile(150, 30))
    print(f"in memory: {told()}")
    assert counts["settled"] > 0


@pytest.mark.limit(7200)
def test_no_order_of_rollbacks_and_cuts_costs_the_data_of_the_real_broker(tmp_path: Path) -> None:
    counts.clear()
    service = ServiceBroker(tmp_path / "broker", Wanted("data", SIZE, "ext4", "/srv/data"))
    fresh = tmp_path / "fresh.db"
    service.save(fresh)

    class Real(Rollbacks):
        def vaulted(self) -> Vault:
            return ServiceVault(service, fresh)

    try:
        run_state_machine_as_test(Real, settings=profile(12, 25))
    finally:
        service.close()
    print(f"the real broker: {told()}")
    assert counts["settled"] > 0
