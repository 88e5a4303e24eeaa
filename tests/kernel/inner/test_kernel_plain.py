"""A plain disk on a real kernel: opened under its stable name as it is; refused where it is anything else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent import devicemapper, opened
from agent.change.disks import undertake
from agent.change.outfit import fitted
from agent.change.wipe import MachineWiping
from agent.places import Places
from keybroker.wire.problems import KeybrokerError, Problem
from tests.kernel.disks import MIB, fingerprint, image, loop
from tests.kernel.rig import BOOT, Rig, rig

pytestmark = pytest.mark.kernel

SIZE = 48 * MIB


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Rig]:
    """Make a VM whose one disk has an ext4 with files in it, and nothing encrypted."""
    with ExitStack() as stack:
        made = stack.enter_context(rig(tmp_path))
        disk = stack.enter_context(loop(image(tmp_path / "old.img", SIZE)))
        stack.callback(made.power_cut)  # before the loop device goes
        run("mkfs.ext4", "-q", disk)
        point = tmp_path / "before"
        point.mkdir()
        run("mount", disk, point)
        (point / "rows").write_bytes(b"rows of before\n")
        (point / "big").write_bytes(os.urandom(16 * MIB))
        run("umount", point)
        mount = tmp_path / "srv/data"
        record = made.broker.declare("data", SIZE, origin="plain", serial="OLD-1", mount=str(mount))
        made.devices[record.volume], made.mounts["data"] = disk, mount
        made.images["data"] = tmp_path / "old.img"
        yield made


def disk_of(vm: Rig) -> Path:
    return vm.devices[vm.broker.record("data").volume]


def refused(vm: Rig) -> KeybrokerError:
    (outcome,) = vm.unlock().outcomes
    assert outcome.error is not None
    assert "kb-data" not in devicemapper.mapped()
    return outcome.error


def test_it_is_linked_mounted_and_closed_without_a_key(vm: Rig) -> None:
    (outcome,) = vm.unlock().outcomes
    assert outcome.error is None
    assert [type(step).__name__ for step in outcome.steps] == ["Link", "Mount"]
    there = devicemapper.mapped()
    assert set(there) == {"kb-data"}
    assert there["kb-data"].uuid == "KEYBROKER-data"
    number = os.stat(disk_of(vm)).st_rdev
    node = f"{os.major(number)}:{os.minor(number)}"
    assert (devicemapper.table("kb-data") or "").split() == ["0", str(SIZE // 512), "linear", node, "0"]
    assert (vm.mounts["data"] / "rows").read_bytes() == b"rows of before\n"
    (vm.mounts["data"] / "more").write_bytes(b"written through the stable name")
    (status,) = opened.status([vm.record("data")], vm.world().mappings, runtime=vm.runtime)
    assert (status.state, status.detail) == ("open", "plaintext until it is encrypted")
    assert status.fact is not None
    (again,) = vm.unlock().outcomes
    assert (again.result, again.error) == ("already", None)
    assert {name: each.result for name, each in vm.lock().items()} == {"kb-data": "closed"}
    assert devicemapper.mapped() == {}
    (outcome,) = vm.unlock().outcomes
    assert outcome.error is None
    assert (vm.mounts["data"] / "more").read_bytes() == b"written through the stable name"


def test_a_disk_that_is_mounted_is_left_to_whoever_mounted_it(vm: Rig, tmp_path: Path) -> None:
    run("mount", disk_of(vm), tmp_path / "before")
    error = refused(vm)
    assert error.problem is Problem.IN_USE
    assert "it is mounted on" in error.detail
    run("umount", tmp_path / "before")
    assert [outcome.error for outcome in vm.unlock().outcomes] == [None]


def test_a_disk_that_another_mapping_holds_is_left_alone(vm: Rig) -> None:
    run("dmsetup", "create", "another", "--table", f"0 {SIZE // 512} linear {disk_of(vm)} 0")
    error = refused(vm)
    assert error.problem is Problem.IN_USE
    assert "it is held by" in error.detail
    run("dmsetup", "remove", "another")


MAKINGS = {
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "swap": ("mkswap",),
    "LUKS2": (
        *("cryptsetup", "luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"),
        *("--key-file", "/etc/hostname"),
    ),
    "nothing": ("ls",),
}


@pytest.mark.parametrize("what", MAKINGS)
def test_anything_but_the_declared_filesystem_is_refused_and_not_written_to(vm: Rig, what: str) -> None:
    if what == "xfs":
        os.truncate(vm.images["data"], 320 * MIB)
        run("losetup", "--set-capacity", disk_of(vm))
    run("wipefs", "--quiet", "--all", disk_of(vm))
    run(*MAKINGS[what], disk_of(vm))
    before = fingerprint(disk_of(vm))
    error = refused(vm)
    print(f"{what}: {error.detail}")
    assert error.problem is (Problem.HEADER_REFUSED if what == "LUKS2" else Problem.WRONG_DEVICE)
    assert fingerprint(disk_of(vm)) == before


def test_a_filesystem_beside_a_partition_table_is_neither(vm: Rig) -> None:
    entry = bytes([0, 1, 1, 0, 0x83, 1, 1, 1]) + (2048).to_bytes(4, "little") + (4096).to_bytes(4, "little")
    with disk_of(vm).open("r+b", buffering=0) as raw:
        raw.seek(446)
        raw.write(entry.ljust(64, b"\0") + b"\x55\xaa")
        os.fsync(raw.fileno())
    error = refused(vm)
    print(error.detail)
    assert error.problem is Problem.WRONG_DEVICE


def test_a_stable_name_that_stands_elsewhere_is_no_plain_volume(vm: Rig, tmp_path: Path) -> None:
    with loop(image(tmp_path / "other.img", SIZE)) as other:
        table = f"0 {SIZE // 512} linear {other} 0"
        run("dmsetup", "create", "kb-data", "--uuid", "KEYBROKER-data", "--table", table)
        (outcome,) = vm.unlock().outcomes
        run("dmsetup", "remove", "kb-data")
        assert outcome.error is not None
        assert outcome.error.problem is Problem.WRONG_DEVICE


@pytest.mark.parametrize("offline", [False, True], ids=["live", "offline"])
def test_it_is_moved_to_an_encrypted_disk_and_nothing_is_left_of_it_on_the_old_one(
    vm: Rig, tmp_path: Path, offline: bool
) -> None:
    old = disk_of(vm)
    assert [outcome.error for outcome in vm.unlock().outcomes] == [None]
    big = (vm.mounts["data"] / "big").read_bytes()
    (vm.mounts["data"] / "more").write_bytes(b"written in the clear, but under the stable name")
    record = vm.broker.order("data", "encrypt", serial="NEW-1", size_bytes=SIZE + 8 * MIB, offline=offline)
    assert record.partner is not None
    with loop(image(tmp_path / "new.img", SIZE + 8 * MIB)) as new:
        vm.devices[record.partner] = new
        if offline:
            run("umount", vm.mounts["data"])
        shop = fitted(vm.world(), vm.broker, Places(vm.devices), vm.runtime)
        records = [vm.broker.record(record.volume), vm.broker.record(record.partner)]
        outcomes = undertake(shop, BOOT, records, watch=lambda record, doing: None)
        taken = [type(step).__name__ for outcome in outcomes.values() for step in outcome.steps]
        print(" ".join(taken))
        assert [outcome.error for outcome in outcomes.values()] == [None]
        if not offline:
            assert (vm.mounts["data"] / "big").read_bytes() == big
            (vm.mounts["data"] / "late").write_bytes(b"written while it was mounted all along")
        assert vm.broker.record(record.volume).stage == "erased"
        assert not any(old.read_bytes()), "plaintext is left"
        assert vm.broker.record("data").volume == record.partner
        run("mkfs.ext4", "-q", "-F", old)  # somebody took it into use again, or exchanged two disks
        with pytest.raises(KeybrokerError, match="the filesystem"):
            MachineWiping(Places(vm.devices)).wipe(record, lambda done, total: None)
        vm.power_cut()
        assert [outcome.error for outcome in vm.unlock().outcomes] == [None]
        run("cryptsetup", "isLuks", "--type", "luks2", new)
        assert any(name.startswith("kb-data-") for name in devicemapper.mapped())
        assert (vm.mounts["data"] / "big").read_bytes() == big
        assert (vm.mounts["data"] / "more").read_bytes().startswith(b"written in the clear")
        assert (vm.mounts["data"] / "late").exists() is not offline
        assert new.read_bytes().find(b"rows of before") == -1
        vm.power_cut()
