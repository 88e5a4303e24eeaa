"""The list of mapped devices is read while other volumes of the same machine come and go."""

from __future__ import annotations

import subprocess
import threading
import time

import pytest

from agent import devicemapper

pytestmark = pytest.mark.kernel

SECONDS = 6.0


def come_and_go(name: str, until: float) -> None:
    while time.monotonic() < until:
        for command in (["create", name, "--table", "0 8 zero"], ["remove", name]):
            subprocess.run(["dmsetup", *command], check=True)


def test_a_device_that_is_removed_while_it_is_read_is_left_out() -> None:
    until = time.monotonic() + SECONDS
    others = [threading.Thread(target=come_and_go, args=(f"other-{number}", until)) for number in range(4)]
    for other in others:
        other.start()
    looks = 0
    while time.monotonic() < until:
        assert set(devicemapper.mapped()) <= {f"other-{number}" for number in range(4)}
        looks += 1
    for other in others:
        other.join()
    assert looks > 50
    assert devicemapper.mapped() == {}
