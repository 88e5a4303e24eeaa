"""What the control device answers and does, against what dmsetup makes of the very same devices."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from agent import devicemapper, dmcontrol, dmlinear
from keybroker.wire.problems import KeybrokerError, Problem

pytestmark = pytest.mark.kernel

KEY = "5ec7e7" * 10 + "abcd"


def dmsetup(*words: str, table: str | None = None) -> str:
    done = subprocess.run(["dmsetup", *words], input=table, check=True, capture_output=True, text=True)
    return done.stdout.rstrip("\n")


@pytest.fixture
def made() -> Iterator[None]:
    names = ["zero", "long", "crypt", "bare", "mute"]
    dmsetup("create", "zero", "--uuid", "KEYBROKER-kbv-1", "--table", "0 64 zero")
    # longer than the first buffer: the kernel says that it is full
    dmsetup("create", "long", table="".join(f"{n} 1 linear 254:0 {n % 64}\n" for n in range(1200)))
    dmsetup("create", "crypt", "--uuid", "A" * 128, "--table", f"0 8 crypt aes-xts-plain64 {KEY} 0 254:0 0")
    dmsetup("create", "bare", "--notable")
    dmsetup("create", "mute", table="0 8 zero\n8 8 error\n")
    yield
    for name in reversed(names):
        dmsetup("remove", name)


@pytest.mark.usefixtures("made")
def test_every_device_is_told_with_uuid_and_number_as_dmsetup_tells_them() -> None:
    columns = dmsetup("info", "--columns", "--noheadings", "--separator", "|", "-o", "name,uuid,major,minor")
    told = set()
    for line in columns.splitlines():
        name, uuid, major, minor = line.split("|")
        told.add((name, uuid, f"{major}:{minor}"))
    assert len(told) == 5
    assert {(each.name, each.uuid, each.node) for each in dmcontrol.devices()} == told


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("name", ["zero", "long", "crypt", "bare", "mute"])
def test_a_table_is_what_dmsetup_prints_key_hidden_and_all(name: str) -> None:
    lines = dmsetup("table", name).splitlines()
    assert dmcontrol.table(name) == "\n".join(line.rstrip() for line in lines)


@pytest.mark.usefixtures("made")
def test_a_key_in_a_table_is_shown_as_zeros() -> None:
    assert KEY in dmsetup("table", "--showkeys", "crypt")
    assert dmcontrol.table("crypt") == f"0 8 crypt aes-xts-plain64 {'0' * len(KEY)} 0 254:0 0"


@pytest.mark.usefixtures("made")
def test_a_device_without_a_table_has_an_empty_one() -> None:
    assert dmcontrol.table("bare") == ""


@pytest.mark.usefixtures("made")
def test_the_open_count_is_the_kernels() -> None:
    assert dmcontrol.open_count("crypt") == 0
    assert (
        dmcontrol.open_count("zero") == int(dmsetup("info", "-c", "--noheadings", "-o", "open", "zero")) > 0
    )
    minor = dmsetup("info", "-c", "--noheadings", "-o", "minor", "mute")
    with open(f"/dev/dm-{minor}", "rb"):
        assert dmcontrol.open_count("mute") == 1


def test_what_is_not_there_has_neither_table_nor_anything_else() -> None:
    assert dmcontrol.devices() == []
    assert dmcontrol.table("kb-none") is None
    assert dmcontrol.open_count("kb-none") == 0


@pytest.mark.usefixtures("made")
def test_a_linear_device_is_as_dmsetup_would_make_it() -> None:
    below = next(each.node for each in dmcontrol.devices() if each.name == "zero")
    node = dmlinear.create("kb-data", uuid="KEYBROKER-kbv-2", below=below, sectors=40)
    try:
        assert dmsetup("table", "kb-data") == f"0 40 linear {below} 0"
        columns = ("--columns", "--noheadings", "--separator", "|", "-o")
        said = dmsetup("info", *columns, "uuid,suspended,tables_loaded,open", "kb-data")
        assert said == "KEYBROKER-kbv-2|Active|Live|0"
        assert dmcontrol.Mapped("kb-data", "KEYBROKER-kbv-2", node) in dmcontrol.devices()
        for name, uuid in (("kb-data", "KEYBROKER-kbv-3"), ("kb-other", "KEYBROKER-kbv-2")):
            with pytest.raises(KeybrokerError) as caught:
                dmlinear.create(name, uuid=uuid, below=below, sectors=40)
            assert caught.value.problem is Problem.EXISTS
    finally:
        dmsetup("remove", "kb-data")


@pytest.mark.usefixtures("made")
def test_a_table_that_the_kernel_refuses_leaves_no_device() -> None:
    before = dmcontrol.devices()
    for below in ("4095:1", "x"):
        with pytest.raises(KeybrokerError, match="load kb-data") as caught:
            dmlinear.create("kb-data", uuid="KEYBROKER-kbv-2", below=below, sectors=8)
        assert caught.value.problem is Problem.TOOL_FAILED
    assert dmcontrol.devices() == before


@pytest.mark.usefixtures("made")
def test_a_path_that_leads_elsewhere_is_led_right_at_once() -> None:
    place = devicemapper.path("zero")
    node = next(each.node for each in dmcontrol.devices() if each.name == "zero")
    try:
        dmlinear.lead(place, "254:77")
        assert not place.exists()
        dmlinear.lead(place, node)
        number = place.stat().st_rdev
        assert f"{os.major(number)}:{os.minor(number)}" == node
        assert not list(place.parent.glob(".*"))
    finally:
        place.unlink()
