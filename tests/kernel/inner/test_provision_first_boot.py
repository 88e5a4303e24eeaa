"""From a blank disk to rows that outlive a reboot, on a real kernel, with the real broker."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent import devicemapper, filesystem, opened
from agent.plan import steps
from keybroker.wire.names import luks_label
from keybroker.wire.problems import Problem
from tests.crash.mortal import Crash, Death, Mortal
from tests.crash.service_broker import Wanted
from tests.kernel.disks import MIB, fingerprint
from tests.kernel.rig import SIZE, Rig, rig

pytestmark = pytest.mark.kernel

FIRST_BOOT = [
    steps.Claim, steps.Deposit, steps.Inscribe, steps.Ask, steps.Open, steps.Link,
    steps.MakeFilesystem, steps.Ready, steps.Mount,
]  # fmt: skip
REBOOT = [steps.Open, steps.Link, steps.Mount]

ROW = "a row that nobody else may read"


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, Wanted("data", SIZE, "ext4", "srv/data")) as made:
        yield made


def taken(vm: Rig, name: str = "data") -> list[type]:
    outcome = vm.outcome(name, vm.unlock())
    assert outcome.error is None, outcome.error
    return [type(step) for step in outcome.steps]


def test_a_blank_disk_becomes_a_mounted_volume_that_outlives_a_reboot(vm: Rig) -> None:
    assert taken(vm) == FIRST_BOOT
    (vm.mounts["data"] / "rows").write_text(ROW)
    assert vm.lock()["kb-data"].result == "closed"
    assert devicemapper.mapped() == {}
    assert taken(vm) == REBOOT
    assert (vm.mounts["data"] / "rows").read_text() == ROW
    subprocess.run(["sync", "-f", vm.mounts["data"]], check=True)
    assert ROW.encode() not in vm.images["data"].read_bytes()


def test_a_boot_costs_one_request_and_an_open_volume_is_not_named_in_it(vm: Rig) -> None:
    taken(vm)
    vm.lock()
    before = len(vm.broker.requests)
    assert taken(vm) == REBOOT
    assert [len(request.observations) for request in vm.broker.requests[before:]] == [1]
    assert taken(vm) == []
    assert [len(request.observations) for request in vm.broker.requests[before:]] == [1, 0]


def test_the_disk_has_the_geometry_and_the_kernel_the_cipher_that_were_meant(vm: Rig) -> None:
    taken(vm)
    record = vm.record("data")
    assert record.stage == "ready"
    assert record.pin is not None
    assert (record.pin.data_offset, record.pin.sector_size) == (4 * MIB, 512)
    sectors = (SIZE - 4 * MIB) // 512
    crypt = devicemapper.table(f"kb-data-{record.luks_uuid[:8]}") or ""
    device = vm.devices[record.volume].stat().st_rdev
    assert crypt == (
        f"0 {sectors} crypt aes-xts-plain64 :64:logon:cryptsetup:{record.luks_uuid}-d0"
        f" 0 {device >> 8}:{device & 0xFF} 8192"
    )
    assert devicemapper.uuid("kb-data") == f"KEYBROKER-{record.name}"
    options = next(line for line in Path("/proc/mounts").read_text().splitlines() if "/srv/data " in line)
    assert {"nodev", "nosuid"} <= set(options.split()[3].split(","))


def test_status_tells_which_key_opened_which_keyslot(vm: Rig) -> None:
    taken(vm)
    world = vm.world()
    (now,) = opened.status([vm.record("data")], world.mappings, runtime=vm.runtime)
    said = now.as_json()
    assert (said["state"], said["key_version"], said["keyslot"]) == ("open", 1, 0)
    assert isinstance(said["since"], int)
    assert said["mounted"] == [str(vm.mounts["data"])]
    vm.lock()
    (then,) = opened.status([vm.record("data")], world.mappings, runtime=vm.runtime)
    assert (then.as_json()["state"], then.as_json()["since"]) == ("closed", None)


def test_a_first_boot_that_loses_power_after_any_step_is_finished_by_the_next(tmp_path: Path) -> None:
    effects = 10
    for effect in range(effects):
        with rig(tmp_path / f"{effect}", Wanted("data", 24 * MIB, "ext4", "srv/data")) as vm:
            mortal = Mortal(vm.world(), _Nothing(), Death(effect, "after"))
            with pytest.raises(Crash):
                vm.unlock(mortal.world)
            assert len(mortal.journey) == effect + 1
            vm.power_cut()
            assert vm.outcome("data", vm.unlock()).error is None
            assert vm.record("data").stage == "ready"
            (vm.mounts["data"] / "rows").write_text(ROW)
            vm.power_cut()
            assert taken(vm) == REBOOT
            assert (vm.mounts["data"] / "rows").read_text() == ROW


class _Nothing:
    def partial(self, step: type, *arguments: object) -> None:
        raise AssertionError("the kernel tier cuts between effects; tests/crash cuts within them")


def test_a_filesystem_whose_making_was_cut_is_made_again(vm: Rig) -> None:
    mortal = Mortal(vm.world(), _Nothing(), Death(7, "before"))
    with pytest.raises(Crash):
        vm.unlock(mortal.world)
    record = vm.record("data")
    path = devicemapper.path("kb-data")
    with closing(filesystem.Opened(path, writable=True)) as volume:
        volume.put(filesystem.mark(record.volume))
    subprocess.run(["mkfs.ext4", "-q", path], check=True)
    assert taken(vm) == [steps.MakeFilesystem, steps.Ready, steps.Mount]


def test_data_that_nobody_recognises_in_an_unfinished_volume_is_never_made_a_filesystem_over(vm: Rig) -> None:
    mortal = Mortal(vm.world(), _Nothing(), Death(7, "before"))
    with pytest.raises(Crash):
        vm.unlock(mortal.world)
    with devicemapper.path("kb-data").open("r+b", buffering=0) as volume:
        volume.seek(512 << 10)
        volume.write(b"raw rows of a database that needs no filesystem".ljust(4096))
    subprocess.run(["sync"], check=True)
    outcome = vm.outcome("data", vm.unlock())
    assert outcome.error is not None
    assert outcome.error.problem is Problem.NOT_BLANK
    assert devicemapper.path("kb-data").read_bytes()[512 << 10 :].startswith(b"raw rows")


@pytest.mark.parametrize(
    ("offset", "problem"),
    [
        (0, Problem.NOT_BLANK),
        (SIZE - 4096, Problem.NOT_BLANK),
        (
            4 * MIB,
            Problem.NOT_BLANK,
        ),  # the first of the data area: found when the header is about to be written
        (2 * MIB, Problem.NOT_BLANK),
    ],
)
def test_a_disk_that_is_not_blank_is_left_alone(vm: Rig, offset: int, problem: Problem) -> None:
    device = next(iter(vm.devices.values()))
    with device.open("r+b", buffering=0) as disk:
        disk.seek(offset)
        disk.write(b"rows".ljust(512))
    subprocess.run(["sync"], check=True)
    before = fingerprint(device)
    outcome = vm.outcome("data", vm.unlock())
    assert outcome.error is not None
    assert outcome.error.problem is problem
    assert fingerprint(device) == before
    assert devicemapper.mapped() == {}


def test_eight_volumes_and_swap_are_provisioned_and_opened_at_once_though_one_is_refused(
    tmp_path: Path,
) -> None:
    wanted = [Wanted(f"data{number}", 24 * MIB, "ext4", f"srv/{number}") for number in range(8)]
    with rig(tmp_path, *wanted, Wanted("swap", 32 * MIB, "swap"), Wanted("raw", 24 * MIB, "none")) as vm:
        spoilt = vm.record("data3").volume
        vm.devices[spoilt].write_bytes(b"rows")
        report = vm.unlock()
        results = {outcome.record.name: outcome.result for outcome in report.outcomes}
        assert results == {each.name: "refused" if each.name == "data3" else "opened" for each in wanted} | {
            "swap": "opened", "raw": "opened",
        }  # fmt: skip
        assert len(Path("/proc/swaps").read_text().splitlines()) == 2
        closed = vm.lock()
        assert {each.result for each in closed.values()} == {"closed", "already"}
        assert devicemapper.mapped() == {}
        assert taken(vm, "swap") == [steps.SwapOn]
        assert devicemapper.path("kb-raw").exists()


def test_swap_goes_on_though_no_broker_answers(tmp_path: Path) -> None:
    with rig(tmp_path, Wanted("data", 24 * MIB), Wanted("swap", 32 * MIB, "swap")) as vm:
        vm.unlock()
        vm.lock()
        vm.broker.close()
        report = vm.unlock()
        assert report.error is not None
        assert vm.outcome("swap", report).result == "opened"
        assert vm.outcome("data", report).error is report.error


def test_xfs_is_made_and_mounted_too(tmp_path: Path) -> None:
    with rig(tmp_path, Wanted("data", 330 * MIB, "xfs", "srv/data")) as vm:
        assert taken(vm) == FIRST_BOOT
        assert "xfs" in next(
            line for line in Path("/proc/mounts").read_text().splitlines() if "/srv/data " in line
        )


def test_the_composed_header_is_not_left_on_the_runtime_directory(vm: Rig) -> None:
    taken(vm)
    volume = vm.record("data").volume
    assert {path.name for path in vm.runtime.rglob("*")} == {"opened", f"{volume}.json", f"{volume}.lock"}
    assert luks_label(vm.record("data").volume).startswith("kb-")
