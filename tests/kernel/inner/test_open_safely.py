"""A header, disk, key or kernel table that is not what it must be: nothing is opened, nothing is changed."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import devicemapper, opening
from agent.places import Places
from agent.plan import steps
from agent.world import Sighting, World
from keybroker.wire.messages import UnlockReply, UnlockRequest
from keybroker.wire.names import KeyVersion, crypt_name
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Grant, Record
from keybroker.wire.secret import Secret, passphrase
from tests.crash.service_broker import ServiceBroker, Wanted
from tests.header.disks import Disk
from tests.header.named import ATTACKS, segment
from tests.kernel.disks import MIB, fingerprint, image, loop
from tests.kernel.rig import SIZE, Rig, rig

pytestmark = pytest.mark.kernel

HEADER = 4 * MIB


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, bytes]]:
    with rig(tmp_path_factory.mktemp("vm"), Wanted("data", SIZE, "ext4", "srv/data")) as made:
        assert made.outcome("data", made.unlock()).error is None
        made.lock()
        yield made, next(iter(made.devices.values())).read_bytes()[:HEADER]


@pytest.fixture
def vm(provisioned: tuple[Rig, bytes]) -> Iterator[Rig]:
    """A VM with a volume that is ready and closed, its header as it was made."""
    made, header = provisioned
    yield made
    made.power_cut()
    overwrite(device(made), header)


def device(vm: Rig) -> Path:
    return vm.devices[vm.record("data").volume]


def overwrite(path: Path, held: bytes, offset: int = 0) -> None:
    with path.open("r+b", buffering=0) as disk:
        disk.seek(offset)
        disk.write(held)
    subprocess.run(["blockdev", "--flushbufs", path], check=True)


def refused(vm: Rig, world: World | None = None) -> KeybrokerError:
    """Run the agent; nothing may be opened and no byte may change."""
    before = fingerprint(device(vm))
    outcome = vm.outcome("data", vm.unlock(world))
    assert outcome.error is not None, "it was opened"
    assert devicemapper.mapped() == {}
    assert fingerprint(device(vm)) == before
    return outcome.error


def forged(vm: Rig, make: Callable[[Disk], Disk]) -> bytes:
    disk = make(Disk.of(device(vm)))
    return disk.start[: 2 * disk.header_bytes]


TAMPERED = (
    "plaintext", "null cipher (CVE-2025-59054)", "the same IV for every sector", "discards",
    "a keyslot that hangs the boot", "another volume key's digest", "a token of another tool",
    "a re-encryption that nobody began", "a null keyslot with the attacker's volume key", "another UUID",
)  # fmt: skip


@pytest.mark.parametrize("attack", TAMPERED)
def test_a_tampered_header_is_refused_with_the_broker_willing_or_not(vm: Rig, attack: str) -> None:
    make, _said = ATTACKS[attack]
    whole = device(vm).read_bytes()[:HEADER]
    overwrite(device(vm), forged(vm, make))
    assert refused(vm).problem is Problem.HEADER_REFUSED
    if attack == TAMPERED[-1]:
        overwrite(device(vm), whole)
        assert vm.outcome("data", vm.unlock()).error is None


def test_both_copies_damaged_is_refused_and_looks_like_nothing_to_format(vm: Rig) -> None:
    overwrite(device(vm), bytes(HEADER))
    error = refused(vm)
    assert error.problem is Problem.HEADER_REFUSED
    assert steps.Inscribe not in [type(step) for step in vm.outcome("data", vm.unlock()).steps]


def test_one_damaged_copy_opens_with_a_note_and_is_not_repaired_behind_anyones_back(vm: Rig) -> None:
    overwrite(device(vm), b"\x55" * 32, offset=448)
    before = device(vm).read_bytes()[:HEADER]
    outcome = vm.outcome("data", vm.unlock())
    assert outcome.error is None
    assert "damaged" in " ".join(outcome.notes)
    assert device(vm).read_bytes()[:HEADER] == before


def test_another_key_opens_nothing(vm: Rig) -> None:
    world = vm.world()
    wrong = dataclasses.replace(world, broker=WrongKey(vm.broker))
    assert refused(vm, wrong).problem is Problem.LOCKED_OUT


class WrongKey:
    """A broker that hands out a key of the right form that is not this volume's."""

    def __init__(self, broker: ServiceBroker) -> None:
        self._broker = broker

    def unlock(self, request: UnlockRequest) -> UnlockReply:
        reply = self._broker.unlock(request)
        grants = tuple(
            Grant(grant.record, {KeyVersion(version): passphrase(b"x" * 43) for version in grant.keys})
            for grant in reply.grants
        )
        return dataclasses.replace(reply, grants=grants)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)


def test_a_header_that_is_swapped_after_the_check_is_not_the_one_that_is_opened(vm: Rig) -> None:
    """dstack #555: validate, then open the same device."""
    world = vm.world()
    forgery = forged(vm, segment(encryption="cipher_null-ecb"))
    swapping = dataclasses.replace(
        world, disks=SwapAfterLook(world.disks, lambda: overwrite(device(vm), forgery))
    )
    outcome = vm.outcome("data", vm.unlock(swapping))
    assert outcome.error is None
    assert "cipher_null" in device(vm).read_bytes()[: 2 << 14].decode("ascii", "replace")
    record = vm.record("data")
    table = devicemapper.table(crypt_name(record.name, record.luks_uuid)) or ""
    assert " crypt aes-xts-plain64 :64:logon:" in table


class SwapAfterLook:
    """Storage that shows one header to whoever looks, and has another on the disk a moment later."""

    def __init__(self, disks: Any, change: Callable[[], None]) -> None:
        self._disks, self._change = disks, change

    def look(self, record: Record) -> Sighting:
        seen: Sighting = self._disks.look(record)
        self._change()
        return seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disks, name)


def sighted(vm: Rig) -> tuple[Record, Sighting, dict[KeyVersion, Secret]]:
    record = vm.record("data")
    seen = vm.world().disks.look(record)
    reply = vm.broker.unlock(
        UnlockRequest("1b4e28ba-2fa1-41d2-883f-0016d3cca427", "0" * 32, "0", (seen.observation,))
    )
    return record, seen, reply.grants[0].keys


@pytest.mark.parametrize("changes", [{"size_bytes": SIZE + MIB}, {"devno": (7, 77)}])
def test_a_kernel_table_that_is_not_what_was_meant_closes_the_volume_again(
    vm: Rig, changes: dict[str, Any]
) -> None:
    record, seen, keys = sighted(vm)
    assert seen.copy is not None
    with Places(vm.devices).open(record) as disk:
        meant = dataclasses.replace(disk, device=dataclasses.replace(disk.device, **changes))
        with pytest.raises(KeybrokerError, match="kernel table"):
            opening.open_crypt(record, meant, keys, seen.copy)
    assert devicemapper.mapped() == {}


def test_a_run_that_was_cut_before_the_linear_device_is_taken_up(vm: Rig) -> None:
    record, seen, keys = sighted(vm)
    assert vm.world().mappings.open(record, keys, seen) == ()
    outcome = vm.outcome("data", vm.unlock())
    assert [type(step) for step in outcome.steps] == [steps.Link, steps.Mount]


def test_opening_and_linking_again_changes_nothing(vm: Rig) -> None:
    record, seen, keys = sighted(vm)
    world = vm.world()
    for _ in range(2):
        world.mappings.open(record, keys, seen)
        world.mappings.link(record)
    assert sorted(devicemapper.mapped()) == ["kb-data", crypt_name(record.name, record.luks_uuid)]


@pytest.mark.parametrize("name", ["kb-data", "kb-data-{uuid}"])
def test_what_has_our_name_and_is_not_ours_is_neither_used_nor_touched(vm: Rig, name: str) -> None:
    record = vm.record("data")
    taken = name.format(uuid=record.luks_uuid[:8])
    subprocess.run(["dmsetup", "create", taken, "--table", "0 2048 zero"], check=True)
    before = devicemapper.mapped()
    outcome = vm.outcome("data", vm.unlock())
    assert outcome.error is not None
    assert outcome.error.problem is Problem.WRONG_DEVICE
    assert devicemapper.mapped() == before
    assert vm.lock()["kb-data"].result == ("held" if taken == "kb-data" else "already")
    assert devicemapper.mapped() == before
    subprocess.run(["dmsetup", "remove", taken], check=True)


def test_an_open_volume_over_another_disk_is_not_adopted(vm: Rig, tmp_path: Path) -> None:
    """A clone of the disk is open under the right names, with the right UUID and key."""
    record, seen, keys = sighted(vm)
    copy = tmp_path / "clone.img"
    copy.write_bytes(vm.images["data"].read_bytes())
    with loop(copy) as clone:
        original = vm.devices[record.volume]
        vm.devices[record.volume] = clone
        vm.world().mappings.open(record, keys, seen)
        vm.devices[record.volume] = original
        outcome = vm.outcome("data", vm.unlock())
        assert outcome.error is not None
        assert "device is" in outcome.error.detail
        vm.power_cut()


def test_a_node_that_leads_to_another_device_is_not_followed(vm: Rig, tmp_path: Path) -> None:
    """Seen with Debian's dmsetup and no udev: the node of an earlier kb-data led to another volume."""
    subprocess.run(["rm", "-f", "/dev/mapper/kb-data"], check=True)
    with loop(image(tmp_path / "theirs", SIZE)) as theirs:
        number = theirs.stat().st_rdev
        subprocess.run(
            ["mknod", "/dev/mapper/kb-data", "b", str(number >> 8), str(number & 0xFF)], check=True
        )
        before = fingerprint(theirs)
        assert vm.outcome("data", vm.unlock()).error is None
        assert fingerprint(theirs) == before
    top = devicemapper.path("kb-data").stat().st_rdev
    assert f"{top >> 8}:{top & 0xFF}" == devicemapper.mapped()["kb-data"].node


def test_swapped_and_smaller_disks_are_refused(vm: Rig, tmp_path: Path) -> None:
    record = vm.record("data")
    original = vm.devices[record.volume]
    for name, size in (("other", SIZE), ("smaller", SIZE - MIB)):
        path = image(tmp_path / name, size)
        if name == "smaller":
            path.write_bytes(vm.images["data"].read_bytes()[:size])
        with loop(path) as other:
            vm.devices[record.volume] = other
            before = fingerprint(other)
            error = vm.outcome("data", vm.unlock()).error
            vm.devices[record.volume] = original
            assert error is not None
            assert error.problem is (Problem.WRONG_DEVICE if name == "smaller" else Problem.HEADER_REFUSED)
            assert fingerprint(other) == before
    assert devicemapper.mapped() == {}


def test_no_key_is_in_the_kernels_table_or_in_the_agents_files(vm: Rig) -> None:
    record, _seen, keys = sighted(vm)
    vm.unlock()
    shown = subprocess.run(["dmsetup", "table", "--showkeys"], check=True, capture_output=True).stdout
    assert b":64:logon:" in shown
    key = keys[KeyVersion(1)].reveal()
    for path in [*vm.runtime.rglob("*"), *vm.state.rglob("*")]:
        assert path.is_dir() or key not in path.read_bytes()
    assert key not in device(vm).read_bytes()
    assert record.stage == "ready"
