"""Power cuts at random moments of a re-encryption: the UML process is killed, its disk is a file that stays.

After each cut the next boot must open the volume by itself, every acknowledged write must be there, and what
was begun must come to its end. ``KEYBROKER_CUTS`` says how many (a night takes 200); the seed is printed.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
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


def test_no_power_cut_in_a_reencryption_costs_a_byte_or_stops_it() -> None:
    chance = random.Random(SEED)
    met: Counter[str] = Counter()
    boots: Counter[str] = Counter()
    with uml.run_directory() as run:
        disk = image(run / "disk", voyage.SIZE)
        for number in range(CUTS):
            (run / "sailing").unlink(missing_ok=True)
            seed, seconds = chance.randrange(10**6), chance.uniform(0.0, LONGEST)
            boot = uml.boot(
                [sys.executable, "-m", "tests.kernel.voyage", str(run), "/dev/ubda", str(seed)],
                run=run, directory=Path(__file__).parents[2], limit_seconds=BOOT_SECONDS, disks=[disk],
                cut=Cut(run, seconds),
            )  # fmt: skip
            failed = run / "failed"
            story = f"seed {SEED}, cut {number} after {seconds:.2f} s: "
            assert not failed.exists(), story + failed.read_text() + boot.console[-3000:]
            assert (run / "sailing").exists(), story + "it never got to work\n" + boot.console[-3000:]
            met[(run / "doing").read_text() if (run / "doing").exists() else "-"] += 1
            boots[(run / "boot").read_text()] += 1
        done = int((run / "done").read_text()) if (run / "done").exists() else 0
        last = uml.boot(
            [sys.executable, "-m", "tests.kernel.voyage", str(run), "/dev/ubda", "0"],
            run=run, directory=Path(__file__).parents[2], limit_seconds=BOOT_SECONDS, disks=[disk],
            cut=lambda: (run / "done").exists() and int((run / "done").read_text()) > done,
        )  # fmt: skip
        assert not (run / "failed").exists(), (run / "failed").read_text() + last.console[-3000:]
        assert int((run / "done").read_text()) > done, (
            "what was begun is not finished\n" + last.console[-3000:]
        )
        wrote = voyage.acknowledged(run)
    print(
        f"seed {SEED}: {CUTS} cuts, {done + 1} re-encryptions finished, {wrote} writes acknowledged and kept"
    )
    print(f"cut in: {dict(met.most_common())}; boots: {dict(boots.most_common())}")
