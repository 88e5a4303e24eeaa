"""A volume moves to another disk with the real agent and the real broker, and the agent is killed at it."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent import devicemapper, opened
from agent.change.disks import undertake, undertakings
from agent.change.workshop import Workshop
from agent.plan.steps import Switch
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from tests.crash.mortal import Crash, Death, Mortal
from tests.crash.service_broker import Wanted
from tests.crash.test_crash_migration import LIVE
from tests.kernel.disks import MIB, image, loop
from tests.kernel.inner.test_kernel_rotation import Writer
from tests.kernel.killing import act_and_be_killed, workshop
from tests.kernel.rig import BOOT, Rig, rig

pytestmark = pytest.mark.kernel

CUTS = int(os.environ.get("KB_MIGRATION_CUTS", "12"))
SECONDS = float(os.environ.get("KB_MIGRATION_SECONDS", "75"))
"""For all cuts together."""

SIZE = 32 * MIB


@dataclass(slots=True)
class Mover:
    """A machine that gets new disks."""

    vm: Rig
    stack: ExitStack
    count: int = 0

    def order(self, size: int = SIZE, *, offline: bool = False) -> Record:
        """Order a migration, attach a blank disk for it; return the successor."""
        ordered = self.vm.broker.order("data", "migrate", size_bytes=size, offline=offline)
        assert ordered.partner is not None
        successor = self.vm.broker.record(ordered.partner)
        self.count += 1
        file = image(self.vm.directory / f"disk-{self.count}.img", size)
        self.stack.callback(file.unlink)
        self.vm.devices[successor.volume] = self.stack.enter_context(loop(file))
        return successor

    def records(self) -> list[Record]:
        ids = list(self.vm.devices)
        return [self.vm.broker.record(volume) for volume in ids]

    def act(self, shop: Workshop) -> KeybrokerError | None:
        outcomes = undertake(shop, BOOT, self.records(), watch=lambda record, doing: None)
        return next((each.error for each in outcomes.values() if each.error is not None), None)

    def act_or_wait(self, shop: Workshop) -> KeybrokerError | None:
        """Act; that a volume which is to be moved offline is in use is no mistake of the agent's."""
        error = self.act(shop)
        return None if error is not None and error.problem is Problem.IN_USE else error

    def run(self) -> None:
        error = self.act(workshop(self.vm, self.vm.world(), self.vm.broker))
        assert error is None, error

    def is_done(self) -> bool:
        return not list(undertakings(self.records()))

    def reboot(self) -> None:
        for name in devicemapper.mapped():
            devicemapper.revive(name)
        self.vm.power_cut()
        self.boot()

    def boot(self) -> None:
        report = self.vm.unlock()
        assert [outcome.error for outcome in report.outcomes] == [None]
        (outcome,) = report.outcomes
        assert outcome.record.volume == self.vm.broker.record("data").volume


@pytest.fixture
def mover(tmp_path: Path) -> Iterator[Mover]:
    with ExitStack() as stack, rig(tmp_path, Wanted("data", SIZE, "ext4", "srv/data")) as made:
        assert made.outcome("data", made.unlock()).error is None
        yield Mover(made, stack)
        for name in devicemapper.mapped():
            devicemapper.revive(name)
        made.power_cut()


def test_a_volume_moves_under_a_writer_to_a_larger_disk_and_the_old_one_is_wiped(mover: Mover) -> None:
    vm = mover.vm
    old = vm.broker.record("data")
    before = os.statvfs(vm.mounts["data"]).f_blocks
    successor = mover.order(2 * SIZE)
    with Writer(vm.mounts["data"]) as writer:
        taken = []
        shop = workshop(vm, vm.world(), vm.broker)
        outcomes = undertake(shop, BOOT, mover.records(), watch=lambda record, doing: taken.append(doing))
        time.sleep(0.2)
    writer.check()
    (outcome,) = outcomes.values()
    assert outcome.error is None, outcome.error
    names = [type(step).__name__ for step in outcome.steps]
    assert names == [
        *(step.__name__ for step in LIVE[:-3]), "Grow", "Grow", *(step.__name__ for step in LIVE[-3:])
    ]  # fmt: skip
    assert taken[-1] is None
    assert os.statvfs(vm.mounts["data"]).f_blocks > 1.8 * before
    now = vm.broker.record("data")
    assert (now.volume, now.role, now.stage, now.order) == (successor.volume, "holder", "ready", None)
    assert vm.broker.record(old.volume).stage == "erased"
    assert not any(vm.devices[old.volume].read_bytes()[: 4 * MIB])
    assert len(devicemapper.mapped()) == 2
    print(f"\n{writer.rows} rows, the longest took {writer.longest:.3f} s")
    mover.reboot()
    writer.check()
    assert mover.is_done()


def test_an_offline_move_asks_for_nobody_to_use_the_volume_and_a_boot_mounts_the_new_disk(
    mover: Mover,
) -> None:
    vm = mover.vm
    (vm.mounts["data"] / "rows").write_text("rows")
    successor = mover.order(offline=True)
    error = mover.act(workshop(vm, vm.world(), vm.broker))
    assert error is not None
    assert error.problem is Problem.IN_USE
    subprocess.run(["umount", vm.mounts["data"]], check=True)
    mover.run()
    mover.boot()
    assert vm.broker.record("data").volume == successor.volume
    assert (vm.mounts["data"] / "rows").read_text() == "rows"


@pytest.mark.limit(400)
def test_an_agent_that_is_killed_at_random_moments_loses_nothing(mover: Mover) -> None:
    vm = mover.vm
    seed = int(os.environ.get("KB_SEED", "0")) or random.randrange(1 << 32)
    print(f"\nseed {seed}")
    chance = random.Random(seed)
    file, rows = vm.mounts["data"] / "rows", b""
    cuts = moves = reboots = 0
    until = time.monotonic() + SECONDS
    while cuts < CUTS and time.monotonic() < until:
        if mover.is_done():
            moves += 1
            mover.order(offline=chance.random() < 0.3)
        record = vm.broker.record("data")
        if record.order is not None and record.order.offline and chance.random() < 0.8:
            subprocess.run(["umount", vm.mounts["data"]], check=True)
        with_programs = chance.random() < 0.5
        killed = act_and_be_killed(
            vm, mover.act_or_wait, chance.uniform(0.05, chance.choice((2, 15))), programs=with_programs
        )
        cuts += killed
        for name in devicemapper.mapped():
            devicemapper.revive(name)
        if not os.path.ismount(vm.mounts["data"]) or chance.random() < 0.3:
            reboots += 1
            mover.reboot()
        assert (file.read_bytes() if rows else b"") == rows
        rows = os.urandom(4096)
        with file.open("wb") as stream:
            stream.write(rows)
            os.fsync(stream.fileno())
    if not mover.is_done():
        order = vm.broker.record("data").order
        if order is not None and order.offline:
            subprocess.run(["umount", vm.mounts["data"]], check=True)
        mover.run()
    mover.reboot()
    assert file.read_bytes() == rows
    assert mover.is_done()
    print(f"{cuts} cuts in {moves} moves, {reboots} reboots")
    assert cuts >= 3


def test_a_volume_that_is_on_two_disks_is_shown_as_open_opened_by_nobody_again_and_locked_as_a_whole(
    mover: Mover,
) -> None:
    vm = mover.vm
    mover.order()
    shop = workshop(vm, vm.world(), vm.broker)
    mortal = Mortal(shop, _Nothing(), Death(LIVE.index(Switch), "before"))
    with pytest.raises(Crash):
        mover.act(mortal.workshop)
    assert len(devicemapper.mapped()) == 3
    holder = vm.broker.record("data")
    (now,) = opened.status([holder], vm.world().mappings, runtime=vm.runtime)
    assert (now.state, now.mounted) == ("open", (str(vm.mounts["data"]),))
    report = vm.unlock()
    assert [(each.error, each.result) for each in report.outcomes] == [(None, "already")]
    assert vm.lock()["kb-data"].result == "closed"
    assert devicemapper.mapped() == {}
    mover.boot()
    mover.run()
    assert mover.is_done()


class _Nothing:
    def partial(self, step: type, *arguments: object) -> None:
        raise AssertionError("cut between effects only")
