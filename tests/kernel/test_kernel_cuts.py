"""Power cuts at random moments of a re-encryption, or of rotations: the UML process dies, its disk stays.

After each cut the next boot must open the volume by itself, every acknowledged write must be there, and what
was begun must come to its end. ``KEYBROKER_CUTS`` says how many (a night takes 200); the seed is printed.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.kernel import uml, voyage
from tests.kernel.disks import image

CUTS: Final = int(os.environ.get("KEYBROKER_CUTS", "6"))
SEED: Final = int(os.environ.get("KEYBROKER_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
BOOT_SECONDS: Final = 180.0
LONGEST: Final = 4.0
"""Seconds from the moment that the work begins until the cut, at most."""

pytestmark = [pytest.mark.kernel, pytest.mark.limit(120 + 60 * CUTS)]


class Cut:
    """Says when the power goes: at a random moment after the machine has begun its work."""

    def __init__(self, run: Path, seconds: float) -> None:
        self._run, self._seconds = run, seconds
        self._since: float | None = None

    def __call__(self) -> bool:
        if self._since is None and (self._run / "sailing").exists():
            self._since = time.monotonic()
        return self._since is not None and time.monotonic() - self._since >= self._seconds


WORDS: Final = {"reencrypt": "re-encryptions", "rotate": "rotations"}


@pytest.mark.parametrize("work", WORDS)
def test_no_power_cut_costs_a_byte_or_stops_what_was_begun(work: str) -> None:
    chance = random.Random(SEED)
    met: Counter[str] = Counter()
    boots: Counter[str] = Counter()
    with uml.run_directory() as run:
        disk = image(run / "disk", voyage.SIZE)

        def sail(seed: int, cut: Callable[[], bool]) -> uml.Boot:
            return uml.boot(
                [sys.executable, "-m", "tests.kernel.voyage", str(run), "/dev/ubda", str(seed), work],
                run=run, directory=Path(__file__).parents[2], limit_seconds=BOOT_SECONDS, disks=[disk],
                cut=cut,
            )  # fmt: skip

        for number in range(CUTS):
            (run / "sailing").unlink(missing_ok=True)
            seed, seconds = chance.randrange(10**6), chance.uniform(0.0, LONGEST)
            boot = sail(seed, Cut(run, seconds))
            failed = run / "failed"
            story = f"seed {SEED}, cut {number} after {seconds:.2f} s: "
            assert not failed.exists(), story + failed.read_text() + boot.console[-3000:]
            assert (run / "sailing").exists(), story + "it never got to work\n" + boot.console[-3000:]
            met[(run / "doing").read_text() if (run / "doing").exists() else "-"] += 1
            boots[(run / "boot").read_text()] += 1
        done = voyage.finished(run)
        last = sail(0, lambda: voyage.finished(run) > done)
        assert not (run / "failed").exists(), (run / "failed").read_text() + last.console[-3000:]
        assert voyage.finished(run) > done, "what was begun is not finished\n" + last.console[-3000:]
        wrote = voyage.acknowledged(run)
        took = sorted(map(float, (run / "seconds").read_text().split())) if work == "rotate" else []
    said = f"{done + 1} {WORDS[work]} finished, {wrote} writes acknowledged and kept"
    print(f"seed {SEED}: {CUTS} cuts, {said}")
    print(f"cut in: {dict(met.most_common())}; boots: {dict(boots.most_common())}")
    if took:
        print(f"one took {took[len(took) // 2]:.1f} s, {took[0]:.1f} to {took[-1]:.1f} s, in this kernel")
