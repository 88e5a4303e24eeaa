"""Power cuts at random moments of a move to another disk: the UML process is killed, its disks are files.

After each cut the next boot must open the disk that holds the data, every acknowledged write must be there,
and what was begun must come to its end. ``KEYBROKER_CUTS`` says how many; the seed is printed.
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
from tests.kernel.test_kernel_cuts import BOOT_SECONDS, CUTS, SEED, Cut

ROOT: Final = Path(__file__).parents[2]
LONGEST: Final = 12.0
"""Seconds from the moment that the work begins until the cut, at most: a move takes five or so."""

pytestmark = [pytest.mark.kernel, pytest.mark.limit(180 + 60 * CUTS)]


def test_no_power_cut_in_a_move_costs_a_byte_or_stops_it() -> None:
    chance = random.Random(SEED)
    met: Counter[str] = Counter()
    with uml.run_directory() as run:
        disks = [image(run / name, voyage.SIZE) for name in ("first", "second")]

        def boot(cut: Callable[[], bool], seed: int) -> uml.Boot:
            return uml.boot(
                [sys.executable, "-m", "tests.kernel.crossing", str(run), str(seed)],
                run=run, directory=ROOT, limit_seconds=BOOT_SECONDS, disks=disks, cut=cut,
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
        done = moves(run)
        last = boot(lambda: moves(run) > done, 0)
        assert not (run / "failed").exists(), (run / "failed").read_text() + last.console[-3000:]
        assert moves(run) > done, "what was begun is not finished\n" + last.console[-3000:]
        wrote = voyage.acknowledged(run)
    print(f"seed {SEED}: {CUTS} cuts, {done + 1} moves finished, {wrote} writes acknowledged and kept")
    print(f"cut in: {dict(met.most_common())}")


def moves(run: Path) -> int:
    return int((run / "done").read_text()) if (run / "done").exists() else 0
