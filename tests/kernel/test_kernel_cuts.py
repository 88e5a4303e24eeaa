"""Power cuts at random moments of a re-encryption, or of rotations: the UML process dies, its disk stays.

After each cut the next boot must open the volume by itself, every acknowledged write must be there, and what
was begun must come to its end. ``KEYBROKER_CUTS`` says how many (a night takes 200); the seed is printed.
"""

from __future__ import annotations

from typing import Final

import pytest

from tests.kernel import uml, voyage
from tests.kernel.cutting import CUTS, SEED, cut_and_finish
from tests.kernel.disks import image

LONGEST: Final = 4.0
"""Seconds from the moment that the work begins until the cut, at most."""

pytestmark = [pytest.mark.kernel, pytest.mark.limit(120 + 60 * CUTS)]

WORDS: Final = {"reencrypt": "re-encryptions", "rotate": "rotations"}


@pytest.mark.parametrize("work", WORDS)
def test_no_power_cut_costs_a_byte_or_stops_what_was_begun(work: str) -> None:
    with uml.run_directory() as run:
        story = cut_and_finish(
            run,
            [image(run / "disk", voyage.SIZE)],
            lambda seed: ("tests.kernel.voyage", str(run), "/dev/ubda", str(seed), work),
            voyage.finished,
            longest=LONGEST,
        )
        wrote = voyage.acknowledged(run)
        took = sorted(map(float, (run / "seconds").read_text().split())) if work == "rotate" else []
    assert story.boots.total() == CUTS
    said = f"{story.finished} {WORDS[work]} finished, {wrote} writes acknowledged and kept"
    print(f"seed {SEED}: {CUTS} cuts, {said}")
    print(f"cut in: {dict(story.met.most_common())}; boots: {dict(story.boots.most_common())}")
    if took:
        print(f"one took {took[len(took) // 2]:.1f} s, {took[0]:.1f} to {took[-1]:.1f} s, in this kernel")
