"""How long one online rotation takes: README says a second or two.

Real are the broker's process, TLS, its database, cryptsetup and the header; the disk is a file. Under a
mounted filesystem it is timed by tests/kernel/test_kernel_cuts.py, in a kernel that is emulated.
"""

from __future__ import annotations

import statistics
import time
from contextlib import closing
from pathlib import Path

import pytest

from agent import contact, identity, layout
from agent.change.broker import ChangeClient
from agent.change.course import Course
from agent.change.reporting import send
from agent.driver import Driver
from keybroker.wire.reports import VolumeReport
from tests.contract.test_agent_real_broker import Vm
from tests.contract.test_rotation_over_the_wire import SPEC
from tests.crash.file_world import FileWorld
from tests.crash.test_crash_memory import BOOT
from tests.crash.test_crash_rotation import ROTATION
from tests.tls.running import run_cli, running

pytestmark = pytest.mark.bench

ROUNDS = 9
MOST_SECONDS = 2.0


def test_a_rotation_takes_a_second_or_two(tmp_path: Path) -> None:
    took = []
    (place := tmp_path / "broker").mkdir()
    with running(place) as broker:
        broker.add_addon("shop")
        assert broker.ask("PUT", "/v1/addons/shop/volumes/data", SPEC, who=broker.operator).status == 201
        vm = Vm(tmp_path, broker)
        assert vm.enrol(broker.invite("shop")).returncode == 0
        mine = identity.load(vm.state)
        with closing(ChangeClient(mine.brokers, contact.credentials(mine), patience=20)) as client:
            world = FileWorld(tmp_path, client, layout.load(vm.state).records)
            (booted,) = Driver(world.world(), BOOT, keep=world.keep).unlock(world.layout).outcomes
            assert booted.error is None
            for _ in range(ROUNDS):
                asked = run_cli("volume", "rotate", "shop", "data", "--config", str(broker.config))
                assert asked.returncode == 0, asked.stderr
                began = time.monotonic()
                (record,) = send(client, BOOT, [VolumeReport(booted.record.volume, "open")]).records
                outcome = Course(world.workshop(client), BOOT, record).settle()
                took.append(time.monotonic() - began)
                assert outcome.error is None, outcome.error
                assert tuple(type(step) for step in outcome.steps) == ROTATION
    median = statistics.median(took)
    print(f"one rotation: {median:.2f} s in the middle, {min(took):.2f} to {max(took):.2f} s, {ROUNDS} times")
    assert median <= MOST_SECONDS
