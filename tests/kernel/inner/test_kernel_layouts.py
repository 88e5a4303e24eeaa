"""Disks that are in use by device-mapper, md, a mount or swap: the agent leaves each as it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agent import blank
from agent.devices import open_device
from agent.luks.copy import HeaderImage
from tests.kernel.examination import examine, header
from tests.kernel.layouts import LAYOUTS, SERIAL, Layout

pytestmark = pytest.mark.kernel

INSIDE = [layout for layout in LAYOUTS if layout.inside]


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> HeaderImage:
    return header(tmp_path_factory.mktemp("header"))


@pytest.mark.parametrize("layout", INSIDE, ids=lambda layout: layout.name)
def test_leaves_unchanged(layout: Layout, tmp_path: Path, composed: HeaderImage) -> None:
    examine(layout, tmp_path, composed)


@pytest.mark.parametrize("place", ["0 2048 zero;2048 63488 error", "0 2048 error;2048 63488 zero"])
def test_a_disk_that_cannot_be_read_everywhere_is_not_blank(place: str) -> None:
    subprocess.run(["dmsetup", "create", "broken"], input=place.replace(";", "\n"), text=True, check=True)
    subprocess.run(["dmsetup", "mknodes", "broken"], check=True)
    try:
        with open_device(Path("/dev/mapper/broken"), serial=SERIAL, overridden=True) as disk:
            assert "cannot be read: Input/output error" in (blank.look(disk) or "")
    finally:
        subprocess.run(["dmsetup", "remove", "broken"], check=True)
