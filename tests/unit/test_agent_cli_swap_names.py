"""Swap that our unit turned on is recognised when its mount namespace, and with it its path, is gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent import swap


@pytest.mark.parametrize("path", ["/dev/null", "/null"])
def test_a_device_is_known_with_and_without_its_dev(path: str) -> None:
    number = os.stat("/dev/null").st_rdev
    assert swap._node(Path(path)) == f"{os.major(number)}:{os.minor(number)}"


def test_a_file_that_is_gone_is_nobodys() -> None:
    assert swap._node(Path("/no/such/file")) is None
