"""All that the agent could do to a disk it was led to, tried on one layout; the disk must not change."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from agent import blank, devicemapper, inscription, sighting, swap
from agent.devices import OpenDevice, open_device
from agent.luks import cryptsetup
from agent.luks.copy import HeaderImage
from keybroker.wire.names import AddonName, KeyVersion, VolumeName
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.profile import first_profile
from keybroker.wire.records import Record
from keybroker.wire.secret import passphrase
from tests.kernel.disks import fingerprint, loop
from tests.kernel.layouts import SERIAL, VOLUME, Layout

UUID: Final = str(uuid.UUID(int=0x0F2D3C1A5B6E4D7C8F90A1B2C3D4E5F6))
PROFILE: Final = first_profile("aes-xts-plain64")


def record(layout: Layout, filesystem: str) -> Record:
    """Return the record of a volume that is new, for whose disk this one is taken."""
    return Record(
        volume=VOLUME, addon=AddonName("shop-db"), name=VolumeName("data"), stage="new", revision=1,
        size_bytes=layout.least_bytes, filesystem=filesystem, mount=None, serial=SERIAL, device=None,
        luks_uuid=UUID, profile=PROFILE, pin=None, sequence=None,
        current=None if filesystem == "swap" else KeyVersion(1), wanted=None,
    )  # fmt: skip


def header(directory: Path) -> HeaderImage:
    """Compose a header that the agent would write."""
    return cryptsetup.compose(
        directory, passphrase(b"A" * 43), uuid=UUID, label="kb-layouts", profile=PROFILE, sector_size=512,
        volume=VOLUME, version=KeyVersion(1),
    )  # fmt: skip


def examine(layout: Layout, directory: Path, image: HeaderImage) -> None:
    """Build the layout, try all on it, and hold that nothing changed."""
    path = directory / "image"
    point = directory / "point"
    point.mkdir()
    layout.build(path)
    with loop(path, *layout.options) as device, layout.hold(device, point):
        before = fingerprint(device), devicemapper.mapped(), Path("/proc/swaps").read_text()
        with open_device(device, serial=SERIAL, overridden=True) as disk:
            _look(layout, disk)
            _swap_on(disk)
        _write(device, lambda disk: swap.mark(disk, VOLUME, least_bytes=layout.least_bytes))
        if not layout.only_looking_tells:
            _write(device, lambda disk: inscription.inscribe(disk.fd, disk.device.size_bytes, image))
        assert (fingerprint(device), devicemapper.mapped(), Path("/proc/swaps").read_text()) == before


def _look(layout: Layout, disk: OpenDevice) -> None:
    reason = blank.look(disk, least_bytes=layout.least_bytes)
    assert reason is not None
    assert re.search(layout.reason, reason), reason
    assert sighting.look(record(layout, "ext4"), disk).observation.sight == layout.sight
    as_swap = sighting.look(record(layout, "swap"), disk).observation.sight
    assert as_swap == ("other" if layout.sight == "luks2" else layout.sight)


def _swap_on(disk: OpenDevice) -> None:
    with pytest.raises(KeybrokerError):
        swap.turn_on(disk, "kb-layout", VOLUME)


def _write(device: Path, write: Callable[[OpenDevice], None]) -> None:
    with (
        pytest.raises(KeybrokerError),
        open_device(device, serial=SERIAL, overridden=True, writable=True) as disk,
    ):
        write(disk)
