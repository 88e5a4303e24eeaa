"""Power cuts at random moments while plain disks are encrypted in place: the UML process is killed.

After each cut the next boot must open the disk by itself, plain or by its header, with every acknowledged
write in it, and what was begun must come to its end. ``KEYBROKER_CUTS`` says how many; the seed is printed.
"""

from __future__ import annotations

from typing import Final

import pytest

from tests.kernel import uml, voyage
from tests.kernel.cutting import CUTS, SEED, cut_and_finish
from tests.kernel.disks import image
from tests.kernel.refit import done

LONGEST: Final = 8.0
"""Seconds from the moment that the work begins until the cut, at most: an encryption takes three or so."""

pytestmark = [pytest.mark.kernel, pytest.mark.limit(180 + 60 * CUTS)]


def test_no_power_cut_in_an_encryption_in_place_costs_a_byte_or_stops_it() -> None:
    with uml.run_directory() as run:
        story = cut_and_finish(
            run,
            [image(run / "disk", voyage.SIZE)],
            lambda seed: ("tests.kernel.refit", str(run), str(seed)),
            done,
            longest=LONGEST,
        )
    assert story.boots.total() == CUTS
    print(f"seed {SEED}: {CUTS} cuts, {story.finished} disks encrypted in place")
    print(f"cut in: {dict(story.met.most_common())}; boots: {dict(story.boots.most_common())}")
