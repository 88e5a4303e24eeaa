"""What is mapped from what, read from a made-up sysfs; names that never reach dmsetup."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import devicemapper
from agent.devicemapper import Mapped
from keybroker.wire.problems import KeybrokerError, Problem


def test_what_is_mapped_from_a_device_is_read_from_sysfs(tmp_path: Path) -> None:
    holders = tmp_path / "dev/block/254:0/holders"
    holders.mkdir(parents=True)
    (holders / "dm-2").touch()
    (holders / "dm-1").touch()
    assert devicemapper.holders(Mapped("kb-data-0f2d3c1a", "", "254:0"), sys=tmp_path) == ("dm-1", "dm-2")
    assert devicemapper.holders(Mapped("kb-gone", "", "254:1"), sys=tmp_path) == ()


@pytest.mark.parametrize("name", ["", "-a", "../control", "a/b", "a b", "a\nb", "a\\x2f", "é", "a" * 128])
def test_a_name_that_dmsetup_could_take_for_something_else_is_not_passed_on(name: str) -> None:
    for call in (devicemapper.path, devicemapper.table, devicemapper.remove, devicemapper.uuid):
        with pytest.raises(ValueError, match="is not a name"):
            call(name)
    with pytest.raises(ValueError, match="is not a name"):
        devicemapper.create_linear(name, uuid="KEYBROKER-1", below="254:0", sectors=8)


@pytest.mark.parametrize(
    ("uuid", "below", "sectors"),
    [
        ("", "254:0", 8),
        ("a b", "254:0", 8),
        ("U", "/dev/vdb", 8),
        ("U", "254:0 0\n0 1 error", 8),
        ("U", "1:1", 0),
    ],
)
def test_a_table_is_made_of_checked_parts_only(uuid: str, below: str, sectors: int) -> None:
    with pytest.raises(ValueError, match="no linear device"):
        devicemapper.create_linear("kb-data", uuid=uuid, below=below, sectors=sectors)


def test_what_is_not_mapped_has_no_table_and_needs_no_removal() -> None:
    assert devicemapper.table("kb-there-is-no-such") is None
    devicemapper.remove("kb-there-is-no-such")


def test_a_kernel_that_refuses_a_table_is_a_failure() -> None:
    # no device has this number, so it fails with device-mapper as well as without
    with pytest.raises(KeybrokerError, match="kb-refused") as caught:
        devicemapper.create_linear("kb-refused", uuid="KEYBROKER-refused", below="4095:1", sectors=8)
    assert caught.value.problem is Problem.TOOL_FAILED
