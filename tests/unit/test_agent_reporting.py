"""What is reported of a volume whose disk cannot even be looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from agent.change import reporting
from agent.world import Disks, Sighting
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from tests.crash.memory_world import MemoryWorld
from tests.crash.volumes import record

SWAP = record("swap", filesystem="swap")


class Sick:
    """Disks that fail when they are looked at."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)

    def look(self, record: Record) -> Sighting:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [OSError(5, "Input/output error"), KeybrokerError(Problem.WRONG_DEVICE, "two disks have its serial")],
)
def test_a_disk_that_cannot_be_looked_at_does_not_keep_the_others_from_being_reported(
    error: Exception, tmp_path: Path
) -> None:
    world = MemoryWorld([SWAP]).world()
    standing = reporting.look(replace(world, disks=cast(Disks, Sick(error))), SWAP, tmp_path)
    assert (standing.report.volume, standing.report.state) == (SWAP.volume, "absent")
    assert standing.seen.header is None
    assert standing.seen.detail
