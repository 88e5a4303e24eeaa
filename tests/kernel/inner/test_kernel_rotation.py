"""Keys change under a filesystem that is written to, on real dm-crypt; and the agent is killed at it."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.change.course import Course
from agent.change.proving import prove
from agent.plan.rotation import live
from agent.plan.steps import Ask
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.proof import proves
from tests.crash.service_broker import Wanted
from tests.crash.test_crash_rotation import ROTATION
from tests.kernel import killing
from tests.kernel.killing import settle, settle_and_be_killed, workshop
from tests.kernel.rig import BOOT, SIZE, Rig, rig

pytestmark = pytest.mark.kernel

CUTS = int(os.environ.get("KB_ROTATION_CUTS", "12"))
SECONDS = float(os.environ.get("KB_ROTATION_SECONDS", "75"))
"""For all cuts together: on a machine with other things to do, a rotation may take ten."""


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, Wanted("data", SIZE, "ext4", "srv/data")) as made:
        assert made.outcome("data", made.unlock()).error is None
        yield made


class Writer:
    """Writes to a volume and syncs, as a database does; knows what must be there afterwards."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "rows"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.written = hashlib.sha256()
        self.rows = 0
        self.longest = 0.0

    def _run(self) -> None:
        with self._file.open("wb", buffering=0) as file:
            while not self._over.is_set():
                row, begun = os.urandom(4096), time.monotonic()
                file.write(row)
                os.fsync(file.fileno())
                self.longest = max(self.longest, time.monotonic() - begun)
                self.written.update(row)
                self.rows += 1
                time.sleep(0.01)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._thread.join()

    def check(self) -> None:
        assert self.rows > 0
        assert hashlib.sha256(self._file.read_bytes()).digest() == self.written.digest()


def opens(vm: Rig) -> set[int]:
    """Return the live versions that open the header on the disk."""
    record = vm.broker.record("data")
    shop = workshop(vm, vm.world(), vm.broker)
    keys = {version: key for version, key in vm.broker.keys(record.volume).items() if version in live(record)}
    found = shop.headers.probe(record, keys, shop.world.disks.look(record))
    return {int(each.opened_by) for each in found.all if each.opened_by is not None and each.bound}


def reboot(vm: Rig) -> None:
    vm.power_cut()
    assert vm.outcome("data", vm.unlock()).error is None


def test_a_key_changes_under_a_mounted_filesystem_that_is_written_to(vm: Rig) -> None:
    with Writer(vm.mounts["data"]) as writer:
        record = vm.broker.rotate()
        begun = time.monotonic()
        outcome = Course(workshop(vm, vm.world(), vm.broker), BOOT, record).settle()
        took = time.monotonic() - begun
    assert outcome.error is None
    assert tuple(type(step) for step in outcome.steps) == ROTATION
    assert opens(vm) == {2}
    print(f"rotated in {took:.1f} s; longest write {writer.longest:.2f} s")
    writer.check()
    reboot(vm)
    writer.check()


def test_the_broker_takes_the_proof_of_an_open_volume(vm: Rig) -> None:
    settle(vm, vm.broker.rotate())
    record = vm.broker.record("data")
    proof = prove(workshop(vm, vm.world(), vm.broker), BOOT, record)
    key = vm.broker.keys(record.volume)[proof.version]
    assert record.pin is not None
    assert (proof.version, proof.digest) == (record.current, record.pin.digest)
    assert proves(
        proof.proof,
        key,
        volume=record.volume,
        version=proof.version,
        digest=proof.digest,
        sequence=proof.sequence,
    )


def test_a_current_key_that_opens_nothing_is_told_and_touches_nothing(vm: Rig) -> None:
    """An older snapshot of the disk's first MiB is put back while the volume is open."""
    device = vm.devices[vm.record("data").volume]
    snapshot = device.read_bytes()[: 4 << 20]
    settle(vm, vm.broker.rotate())
    with device.open("r+b", buffering=0) as disk:
        disk.write(snapshot)
        os.fsync(disk.fileno())
    record = vm.broker.record("data")
    shop = workshop(vm, vm.world(), vm.broker)
    outcome = Course(shop, BOOT, record).settle()
    assert outcome.error is not None
    assert outcome.error.problem is Problem.LOCKED_OUT
    assert [type(step) for step in outcome.steps] == [Ask]
    with pytest.raises(KeybrokerError) as caught:
        prove(shop, BOOT, record)
    assert caught.value.problem is Problem.LOCKED_OUT
    assert device.read_bytes()[: 4 << 20] == snapshot


def test_an_agent_that_is_killed_at_any_moment_leaves_a_volume_that_opens(vm: Rig) -> None:
    seed = int(os.environ.get("KB_SEED", str(random.SystemRandom().randrange(1 << 32))))
    chance = random.Random(seed)
    print(f"KB_SEED={seed}")
    begun = time.monotonic()
    settle(vm, vm.broker.rotate())
    whole = time.monotonic() - begun
    killed = cuts = 0
    until = time.monotonic() + SECONDS
    with Writer(vm.mounts["data"]) as writer:
        while cuts < CUTS and time.monotonic() < until:
            cuts += 1
            if killing.is_at_rest(vm, "data"):
                vm.broker.rotate()
            seconds = chance.uniform(0.0, 1.2 * whole)
            killed += settle_and_be_killed(
                vm, vm.broker.record("data"), seconds, programs=chance.random() < 0.5
            )
            assert opens(vm), f"cut {cuts} after {seconds:.3f} s"
    record = settle(vm, vm.broker.record("data"))
    assert (record.staged, record.retiring, record.current) == (None, None, record.wanted)
    assert opens(vm) == {record.current}
    writer.check()
    reboot(vm)
    writer.check()
    print(
        f"a rotation takes {whole:.1f} s; {killed} of {cuts} agents were killed, up to key {record.current}"
    )
    assert killed > cuts // 4
