"""A header that was destroyed comes back to a real disk, and the rows with it; a disk in use is let be."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import restoration
from agent.places import Places
from agent.restoration import Bench, Restored
from keybroker.wire.problems import KeybrokerError, Problem
from tests.crash.service_broker import Wanted
from tests.kernel.disks import MIB, fingerprint
from tests.kernel.rig import BOOT, SIZE, Rig, rig

pytestmark = pytest.mark.kernel

ROW = "a row that must come back"


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, Wanted("data", SIZE, "ext4", "srv/data")) as made:
        assert made.outcome("data", made.unlock()).error is None
        (made.mounts["data"] / "rows").write_text(ROW)
        yield made


def restore(vm: Rig, *, sure: bool = True) -> Restored:
    bench = Bench(vm.broker, Places(vm.devices), BOOT, vm.state, vm.runtime, time.time())
    return restoration.restore(bench, "data", sure=sure)


def disk(vm: Rig) -> Path:
    return vm.devices[vm.record("data").volume]


def test_rows_come_back_with_the_header_after_a_boot_that_named_the_way(vm: Rig) -> None:
    vm.lock()
    subprocess.run(["dd", "if=/dev/urandom", f"of={disk(vm)}", "bs=1M", "count=4", "conv=fsync"], check=True)
    refused = vm.outcome("data", vm.unlock()).error
    assert refused is not None
    assert refused.problem is Problem.HEADER_REFUSED
    assert refused.hint is not None
    assert "restore-header data" in refused.hint
    before = fingerprint(disk(vm))
    with pytest.raises(KeybrokerError, match="nothing was written"):
        restore(vm, sure=False)
    assert fingerprint(disk(vm)) == before
    done = restore(vm)
    assert done.saved is not None
    assert len(done.saved.read_bytes()) == 4 * MIB
    assert vm.outcome("data", vm.unlock()).error is None
    assert (vm.mounts["data"] / "rows").read_text() == ROW


def test_a_volume_that_is_open_is_not_written_to(vm: Rig) -> None:
    with disk(vm).open("r+b", buffering=0) as device:
        device.write(bytes(MIB))
    before = fingerprint(disk(vm))
    with pytest.raises(KeybrokerError) as caught:
        restore(vm)
    assert caught.value.problem is Problem.WRONG_DEVICE
    assert "in use" in caught.value.detail
    assert fingerprint(disk(vm)) == before
    assert (vm.mounts["data"] / "rows").read_text() == ROW
