"""Power cuts at random moments while plain disks are encrypted in place: the UML process is killed.

After each cut the next boot must open the disk by itself, plain or by its header, with every acknowledged
write in it, and what was begun must come to its end. ``KEYBROKER_CUTS`` says how many; the seed is printed.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.kernel import uml, voyage
from tests.kernel.disks import image
from tests.kernel.refit import done
from tests.kernel.test_kernel_cuts import BOOT_SECONDS, SEED, Cut
from tests.kernel.test_kernel_cuts import CUTS as WANTED

ROOT: Final = Path(__file__).parents[2]
CUTS: Final = max(WANTED, 10)
LONGEST: Final = 8.0
"""Seconds from the moment that the work begins until the cut, at most: an encryption takes three or so."""

pytestmark = [pytest.mark.kernel, pytest.mark.limit(180 + 60 * CUTS)]


def test_no_power_cut_in_an_encryption_in_place_costs_a_byte_or_stops_it() -> None:
    chance = random.Random(SEED)
    met: Counter[str] = Counter()
    boots: Counter[str] = Counter()
    with uml.run_directory() as run:
        disk = image(run / "disk", voyage.SIZE)

        def boot(cut: Callable[[], bool], seed: int) -> uml.Boot:
            return uml.boot(
                [sys.executable, "-m", "tests.kernel.refit", str(run), str(seed)],
                run=run, directory=ROOT, limit_seconds=BOOT_SECONDS, disks=[disk], cut=cut,
            )  # fmt: skip

        for number in range(CUTS):
            (run / "sailing").unlink(missing_ok=True)
            seconds = chance.uniform(0.0, LONGEST)
            booted = boot(Cut(run, seconds), chance.randrange(10**6))
            failed = run / "failed"
            story = f"seed {SEED}, cut {number} after {seconds:.2f} s: "
            assert not failed.exists(), story + failed.read_text() + booted.console[-3000:]
            assert (run / "sailing").exists(), story + "it never got to work\n" + booted.console[-3000:]
            met[(run / "doing").read_text() if (run / "doing").exists() else "-"] += 1
            boots[(run / "boot").read_text()] += 1
        finished = done(run)
        last = boot(lambda: done(run) > finished, 0)
        assert not (run / "failed").exists(), (run / "failed").read_text() + last.console[-3000:]
        assert done(run) > finished, "what was begun is not finished\n" + last.console[-3000:]
    print(f"seed {SEED}: {CUTS} cuts, {finished + 1} disks encrypted in place")
    print(f"cut in: {dict(met.most_common())}; boots: {dict(boots.most_common())}")
