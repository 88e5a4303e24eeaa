"""Power cuts at random moments of a move to another disk: the UML process is killed, its disks are files.

After each cut the next boot must open the disk that holds the data, every acknowledged write must be there,
and what was begun must come to its end. ``KEYBROKER_CUTS`` says how many; the seed is printed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.kernel import uml, voyage
from tests.kernel.cutting import CUTS, SEED, cut_and_finish
from tests.kernel.disks import image

LONGEST: Final = 12.0
"""Seconds from the moment that the work begins until the cut, at most: a move takes five or so."""

pytestmark = [pytest.mark.kernel, pytest.mark.limit(180 + 60 * CUTS)]


def test_no_power_cut_in_a_move_costs_a_byte_or_stops_it() -> None:
    with uml.run_directory() as run:
        story = cut_and_finish(
            run,
            [image(run / name, voyage.SIZE) for name in ("first", "second")],
            lambda seed: ("tests.kernel.crossing", str(run), str(seed)),
            moves,
            longest=LONGEST,
        )
        wrote = voyage.acknowledged(run)
    print(f"seed {SEED}: {CUTS} cuts, {story.finished} moves finished, {wrote} writes acknowledged and kept")
    print(f"cut in: {dict(story.met.most_common())}")


def moves(run: Path) -> int:
    return int((run / "done").read_text()) if (run / "done").exists() else 0
