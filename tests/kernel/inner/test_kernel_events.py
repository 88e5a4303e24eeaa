"""Waiting for disks on a kernel where nothing else happens: it sleeps until the kernel says something."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import pytest

from agent import devices

pytestmark = pytest.mark.kernel

SERIAL = "kbv-q3m5x7abcdef"


def wait_for(place: Path, seconds: float) -> tuple[dict[str, object], int, float]:
    """Wait for /sys/class/block to have ``place``; tell what came, how often it looked, how long it took."""
    looks = 0

    def find(serial: str) -> Path | None:
        nonlocal looks
        looks += 1
        return place if place.exists() else None

    before = time.monotonic()
    found = devices.wait({SERIAL}, deadline=before + seconds, find=find)
    return dict(found), looks, time.monotonic() - before


def test_looks_twice_and_then_sleeps_until_the_deadline() -> None:
    found, looks, took = wait_for(Path("/sys/class/block/there-is-no-such"), 2)
    assert (found, looks) == ({}, 3)
    assert 2 <= took < 3


def test_wakes_when_the_kernel_announces_the_disk() -> None:
    place = Path("/sys/class/block/dm-0")
    make = ["dmsetup", "create", "late", "--table", "0 2048 zero"]
    timer = threading.Timer(1.0, subprocess.run, [make], {"check": True})
    timer.start()
    try:
        found, looks, took = wait_for(place, 30)
    finally:
        timer.join()
        subprocess.run(["dmsetup", "remove", "late"], check=True)
    assert found == {SERIAL: place}
    assert 1 <= took < 3
    assert looks <= 5
