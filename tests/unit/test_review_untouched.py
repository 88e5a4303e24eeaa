"""A disk that holds something between wiped ends is no blank disk, at whatever stage its volume is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent import inscription
from agent.luks import copy
from agent.machine import compose
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB
from tests.crash.volumes import key_of, record
from tests.kernel.disks import fingerprint, image

SIZE = 48 * MIB


def test_a_disk_whose_ends_were_wiped_takes_no_header_and_no_filesystem(tmp_path: Path) -> None:
    """As after a broker's database was set back to "deposited" and a disk's two ends were overwritten."""
    made = compose(record(), KeyVersion(1), key_of("data"), sector_size=512, runtime=tmp_path)
    path = image(tmp_path / "disk", SIZE, {6 * MIB: os.urandom(SIZE - 8 * MIB)})
    before = fingerprint(path)
    with path.open("r+b") as file:
        assert not inscription.is_untouched(file.fileno(), SIZE, 4 * MIB)
        with pytest.raises(KeybrokerError) as caught:
            inscription.inscribe(file.fileno(), SIZE, copy.unpack(made.copy))
    assert caught.value.problem is Problem.NOT_BLANK
    assert fingerprint(path) == before
