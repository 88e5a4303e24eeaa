"""From a blank disk to rows that outlive a reboot, on a real kernel, with the real broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import devicemapper
from agent.plan import steps
from tests.crash.service_broker import Wanted
from tests.kernel.disks import MIB
from tests.kernel.rig import SIZE, Rig, rig

pytestmark = pytest.mark.kernel


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, Wanted("data", SIZE, "ext4", "srv/data"), Wanted("swap", 32 * MIB, "swap")) as made:
        yield made


def test_a_blank_disk_becomes_a_mounted_volume_that_outlives_a_reboot(vm: Rig) -> None:
    report = vm.unlock()
    assert report.error is None
    data = vm.outcome("data", report)
    assert data.error is None, data.error
    assert [type(step) for step in data.steps] == [
        steps.Claim, steps.Deposit, steps.Inscribe, steps.Ask, steps.Open, steps.Link,
        steps.MakeFilesystem, steps.Ready, steps.Mount,
    ]  # fmt: skip
    (vm.mounts["data"] / "rows").write_text("a row that nobody else may read")
    assert vm.lock()["kb-data"].result == "closed"
    assert devicemapper.mapped() == {}

    again = vm.unlock()
    data = vm.outcome("data", again)
    assert [type(step) for step in data.steps] == [steps.Open, steps.Link, steps.Mount]
    assert (vm.mounts["data"] / "rows").read_text() == "a row that nobody else may read"
    assert b"a row that nobody else" not in vm.images["data"].read_bytes()
    assert len(vm.broker.requests[-1].observations) == 1
