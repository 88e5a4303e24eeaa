"""Power cuts at random moments: a kernel that is killed again and again, its disks, and what must come of it.

``KEYBROKER_CUTS`` says how many (a night takes 200), ``KEYBROKER_SEED`` repeats a run; the seed is printed.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.kernel import uml

CUTS: Final = int(os.environ.get("KEYBROKER_CUTS", "6"))
SEED: Final = int(os.environ.get("KEYBROKER_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
BOOT_SECONDS: Final = 180.0
ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Story:
    """What the cuts met.

    Attributes:
        finished: how many works came to their end, the last one after the last cut.
        met: in what they cut.
        boots: as what the boots after them found their disk, where the program says so.
    """

    finished: int
    met: Counter[str] = field(default_factory=Counter)
    boots: Counter[str] = field(default_factory=Counter)


class Cut:
    """Says when the power goes: at a random moment after the machine has begun its work."""

    def __init__(self, run: Path, seconds: float) -> None:
        self._run, self._seconds = run, seconds
        self._since: float | None = None

    def __call__(self) -> bool:
        if self._since is None and (self._run / "sailing").exists():
            self._since = time.monotonic()
        return self._since is not None and time.monotonic() - self._since >= self._seconds


def cut_and_finish(
    run: Path,
    disks: Sequence[Path],
    program: Callable[[int], Sequence[str]],
    finished: Callable[[Path], int],
    *,
    longest: float,
) -> Story:
    """Cut the power so many times, and let the last boot finish what is under way.

    Args:
        program: module and arguments, by the seed of its own chance.
        finished: how many works have come to their end.
        longest: seconds from the moment that the work begins until the cut, at most.
    """
    chance = random.Random(SEED)

    def boot(cut: Callable[[], bool], seed: int) -> uml.Boot:
        command = [sys.executable, "-m", *program(seed)]
        return uml.boot(
            command, run=run, directory=ROOT, limit_seconds=BOOT_SECONDS, disks=list(disks), cut=cut
        )

    met: Counter[str] = Counter()
    boots: Counter[str] = Counter()
    failed = run / "failed"
    for number in range(CUTS):
        (run / "sailing").unlink(missing_ok=True)
        seconds = chance.uniform(0.0, longest)
        booted = boot(Cut(run, seconds), chance.randrange(10**6))
        story = f"seed {SEED}, cut {number} after {seconds:.2f} s: "
        assert not failed.exists(), story + failed.read_text() + booted.console[-3000:]
        assert (run / "sailing").exists(), story + "it never got to work\n" + booted.console[-3000:]
        met[(run / "doing").read_text() if (run / "doing").exists() else "-"] += 1
        if (run / "boot").exists():
            boots[(run / "boot").read_text()] += 1
    before = finished(run)
    last = boot(lambda: finished(run) > before, 0)
    assert not failed.exists(), failed.read_text() + last.console[-3000:]
    assert finished(run) > before, "what was begun is not finished\n" + last.console[-3000:]
    return Story(before + 1, met, boots)
