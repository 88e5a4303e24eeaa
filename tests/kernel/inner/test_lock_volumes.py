"""Closing: what is ours goes, in the right order and as often as one likes; what is not ours stays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import devicemapper, lock
from keybroker.wire.problems import Problem
from tests.crash.service_broker import Wanted
from tests.kernel.disks import MIB
from tests.kernel.rig import Rig, rig

pytestmark = pytest.mark.kernel


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Rig]:
    wanted = [Wanted("data", 24 * MIB, "ext4", "srv/data"), Wanted("logs", 24 * MIB, "ext4", "srv/logs")]
    with rig(tmp_path, *wanted, Wanted("swap", 32 * MIB, "swap")) as made:
        assert [outcome.error for outcome in made.unlock().outcomes] == [None] * 3
        yield made


def test_everything_is_closed_and_closing_again_finds_nothing_to_do(vm: Rig) -> None:
    assert {name: each.result for name, each in vm.lock().items()} == {
        "kb-data": "closed", "kb-logs": "closed", "kb-swap": "closed",
    }  # fmt: skip
    assert devicemapper.mapped() == {}
    assert str(vm.mounts["data"]) not in Path("/proc/self/mountinfo").read_text()
    assert {each.result for each in vm.lock().values()} == {"already"}


def test_a_process_that_holds_a_volume_is_named_and_the_other_volumes_close(vm: Rig) -> None:
    with subprocess.Popen(["sleep", "600"], cwd=vm.mounts["data"]) as holder:
        try:
            closed = vm.lock()
            held = closed["kb-data"]
            assert held.result == "held"
            assert held.error is not None
            assert held.error.problem is Problem.WRONG_DEVICE
            assert f"sleep ({holder.pid})" in held.error.detail
            assert closed["kb-logs"].result == closed["kb-swap"].result == "closed"
            assert os.path.ismount(vm.mounts["data"])
        finally:
            holder.kill()
    assert vm.lock()["kb-data"].result == "closed"


def test_what_is_mapped_from_a_volume_is_named(vm: Rig) -> None:
    subprocess.run(["umount", vm.mounts["data"]], check=True)
    subprocess.run(
        ["dmsetup", "create", "theirs", "--table", "0 2048 linear /dev/mapper/kb-data 0"], check=True
    )
    held = vm.lock()["kb-data"]
    assert held.error is not None
    assert "/dev/dm-" in held.error.detail
    subprocess.run(["dmsetup", "remove", "theirs"], check=True)
    assert vm.lock()["kb-data"].result == "closed"


def test_volumes_are_closed_though_the_layout_is_lost(vm: Rig) -> None:
    closed = lock.lock((), runtime=vm.runtime)
    assert {each.name: each.result for each in closed} == {"kb-data": "closed", "kb-logs": "closed"}
    assert set(devicemapper.mapped()) == {"kb-swap"}


def test_strangers_with_our_names_stay(vm: Rig) -> None:
    vm.lock()
    for name in ("kb-data", "kb-swap", "kb-other"):
        subprocess.run(["dmsetup", "create", name, "--table", "0 2048 zero"], check=True)
    closed = vm.lock()
    assert {name: each.result for name, each in closed.items()} == {
        "kb-data": "held", "kb-logs": "already", "kb-swap": "held",
    }  # fmt: skip
    assert set(devicemapper.mapped()) == {"kb-data", "kb-swap", "kb-other"}


def test_a_volume_that_is_mounted_twice_is_unmounted_twice(vm: Rig, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    subprocess.run(["mount", "--bind", vm.mounts["data"], second], check=True)
    assert vm.lock()["kb-data"].result == "closed"
    assert not os.path.ismount(second)


def test_a_volume_that_is_half_open_is_closed(vm: Rig) -> None:
    subprocess.run(["umount", vm.mounts["data"]], check=True)
    subprocess.run(["dmsetup", "remove", "kb-data"], check=True)
    assert vm.lock()["kb-data"].result == "closed"
    assert devicemapper.mapped() == {}
