"""A rotation with all of it real but the disk: cryptsetup on a file, the network, the server, the CLI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent import contact, identity, layout
from agent.change.broker import ChangeClient
from agent.change.course import Course
from agent.change.proving import prove
from agent.change.reporting import Reporter, send
from agent.driver import Driver
from agent.plan import settling
from agent.plan.steps import Ask
from keybroker.wire.records import Record
from keybroker.wire.reports import Activity, VolumeReport
from tests.contract.test_agent_real_broker import Vm
from tests.crash.file_world import FileWorld
from tests.crash.test_crash_memory import BOOT
from tests.crash.test_crash_rotation import ROTATION
from tests.crash.volumes import SIZE
from tests.tls.running import Broker, run_cli, running

SPEC = {
    "size_bytes": SIZE, "cipher": "aes-xts-plain64", "mount": None, "filesystem": "none", "serial": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running(tmp_path_factory.mktemp("broker")) as started:
        started.add_addon("shop")
        added = started.ask("PUT", "/v1/addons/shop/volumes/data", SPEC, who=started.operator)
        assert added.status == 201, added.body
        yield started


def test_an_operators_wish_is_heard_carried_out_and_proved(broker: Broker, tmp_path: Path) -> None:
    vm = Vm(tmp_path, broker)
    assert vm.enrol(broker.invite("shop")).returncode == 0
    mine = identity.load(vm.state)
    with closing(ChangeClient(mine.brokers, contact.credentials(mine), patience=20)) as client:
        world = FileWorld(tmp_path, client, layout.load(vm.state).records)
        (booted,) = Driver(world.world(), BOOT, keep=world.keep).unlock(world.layout).outcomes
        assert booted.error is None
        volume = booted.record.volume
        assert [record.wanted for record in send(client, BOOT, [VolumeReport(volume, "open")]).records] == [1]

        asked = run_cli("volume", "rotate", "shop", "data", "--json", "--config", str(broker.config))
        assert asked.returncode == 0, asked.stderr
        reply = send(client, BOOT, [VolumeReport(volume, "open")])
        (record,) = reply.records
        assert (record.current, record.wanted) == (1, 2)
        assert reply.again_seconds > 0
        assert not settling.is_at_rest(record, world.luks(record).seen())

        told: list[str] = []

        def watch(record: Record, activity: Activity | None) -> None:
            reporter.watch(record, activity)
            told.append(activity.step if activity else "")

        with Reporter(lambda: client, BOOT, [VolumeReport(volume, "open")], every=0.0) as reporter:
            outcome = Course(world.workshop(client), BOOT, record, watch=watch).settle()
        assert outcome.error is None
        assert tuple(type(step) for step in outcome.steps) == ROTATION
        assert told[-1] == ""

        shop, now = world.workshop(client), outcome.record
        assert settling.is_at_rest(now, world.luks(now).seen())
        proof = prove(shop, BOOT, now)
        send(client, BOOT, [VolumeReport(volume, "open", proof=proof)])
        assert [type(step) for step in Course(shop, BOOT, now).settle().steps] == [Ask]
    shown = run_cli("volume", "show", "shop", "data", "--json", "--config", str(broker.config))
    said = json.loads(shown.stdout)
    assert (said["current"], said["wanted"], said["staged"], said["retiring"]) == (2, 2, None, None)
