"""What a real machine does meanwhile: another agent, or a disk that grows."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from agent import devicemapper, opening, swap
from agent.driver import Report
from agent.plan.situation import Content
from keybroker.wire import names
from tests.crash.mortal import Crash, Death, Mortal
from tests.crash.service_broker import Wanted
from tests.kernel.disks import MIB
from tests.kernel.rig import BOOT, SIZE, Rig, rig

pytestmark = pytest.mark.kernel


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, Wanted("data", SIZE, "ext4", "srv/data"), Wanted("swap", SIZE, "swap")) as made:
        yield made


def refused(report: Report) -> dict[str, str]:
    return {each.record.name: str(each.error) for each in report.outcomes if each.error is not None}


def test_two_agents_that_run_at_the_same_time_disturb_each_other_in_nothing(vm: Rig) -> None:
    assert refused(vm.unlock()) == {}
    (vm.mounts["data"] / "rows").write_text("kept")
    reports: list[Report] = []
    for _ in range(2):
        vm.power_cut()
        reports.clear()
        agents = [Thread(target=lambda: reports.append(vm.unlock())) for _ in range(3)]
        for agent in agents:
            agent.start()
        for agent in agents:
            agent.join(60)
        assert [refused(report) for report in reports] == [{}, {}, {}]
        assert (vm.mounts["data"] / "rows").read_text() == "kept"


class _Nothing:
    def partial(self, step: type, *arguments: object) -> None:
        raise AssertionError("nothing is cut within an effect here")


def test_a_filesystem_that_another_agent_is_making_is_made_once(tmp_path: Path) -> None:
    """The second one sees the mark of the first: unfinished, it seems, and to be made again."""
    with rig(tmp_path, Wanted("data", SIZE, "ext4", "srv/data")) as vm:
        with pytest.raises(Crash):
            vm.unlock(Mortal(vm.world(), _Nothing(), Death(7, "before")).world)
        world = vm.world()
        (grant,) = world.broker.unlock(BOOT.request(())).grants
        assert grant.record.stage == "deposited"
        made: list[Content] = []

        def make() -> None:
            world.filesystems.make(grant.record)
            made.append(world.filesystems.look(grant.record))

        agents = [Thread(target=make) for _ in range(3)]
        for agent in agents:
            agent.start()
        for agent in agents:
            agent.join(120)
        assert [(content.kind, content.unfinished) for content in made] == [("ext4", False)] * 3
        assert refused(vm.unlock()) == {}


def test_what_an_agent_left_that_was_killed_while_it_mapped_is_taken_away(vm: Rig) -> None:
    """A device is created, then loaded, then resumed: three calls of the kernel's."""
    assert refused(vm.unlock()) == {}
    (vm.mounts["data"] / "rows").write_text("kept")
    vm.power_cut()
    data, paging = vm.record("data"), vm.record("swap")
    crypt, plain = names.crypt_name(data.name, data.luks_uuid), names.swap_crypt_name(paging.name)
    for name, uuid in (
        (names.mapper_name(data.name), opening.stable_uuid(data)),
        (crypt, opening.crypt_uuid(data.luks_uuid, crypt)),
        (plain, f"CRYPT-PLAIN-{plain}"),
    ):
        subprocess.run(["dmsetup", "create", name, "--notable", "--uuid", uuid], check=True)
    assert refused(vm.unlock()) == {}
    assert (vm.mounts["data"] / "rows").read_text() == "kept"
    assert swap.is_on(plain)


def test_somebody_elses_unfinished_device_stays(vm: Rig) -> None:
    assert refused(vm.unlock()) == {}
    vm.power_cut()
    subprocess.run(["dmsetup", "create", "kb-data", "--notable", "--uuid", "LVM-somebody"], check=True)
    assert set(refused(vm.unlock())) == {"data"}
    assert devicemapper.mapped()["kb-data"].uuid == "LVM-somebody"


def test_a_disk_that_grows_under_an_open_volume_is_no_reason_to_call_it_foreign(vm: Rig) -> None:
    assert refused(vm.unlock()) == {}
    record = vm.record("data")
    os.truncate(vm.images["data"], SIZE + 16 * MIB)
    subprocess.run(["losetup", "--set-capacity", vm.devices[record.volume]], check=True)
    assert refused(vm.unlock()) == {}
    vm.lock()
    assert refused(vm.unlock()) == {}
