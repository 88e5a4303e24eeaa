"""Disks that are not blank or not the right one, on loop devices: the agent leaves each as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import swap
from agent.devices import open_device
from agent.luks.copy import HeaderImage
from tests.kernel.disks import image, loop
from tests.kernel.examination import examine, header
from tests.kernel.layouts import LAYOUTS, SERIAL, SIZE, VOLUME, Layout

OUTSIDE = [layout for layout in LAYOUTS if not layout.inside]


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> HeaderImage:
    return header(tmp_path_factory.mktemp("header"))


@pytest.mark.parametrize("layout", OUTSIDE, ids=lambda layout: layout.name)
def test_leaves_unchanged(layout: Layout, tmp_path: Path, composed: HeaderImage) -> None:
    examine(layout, tmp_path, composed)


def test_there_are_at_least_sixty_layouts_and_no_two_of_one_name() -> None:
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS) >= 60


def test_a_disk_of_zeros_passes_all_that_the_layouts_fail(tmp_path: Path, composed: HeaderImage) -> None:
    """What examine() wants of every layout is possible only because a blank disk would be changed."""
    blank_disk = Layout("blank", "", lambda path: image(path, SIZE))
    with pytest.raises(AssertionError):
        examine(blank_disk, tmp_path, composed)
    with (
        loop(image(tmp_path / "disk", SIZE)) as device,
        open_device(device, serial=SERIAL, overridden=True, writable=True) as disk,
    ):
        swap.mark(disk, VOLUME)
