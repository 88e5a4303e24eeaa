"""A move of a volume against dd through the same dm-crypt devices, and the stable device against none."""

from __future__ import annotations

import json
import sys
from math import log, sqrt
from pathlib import Path
from statistics import fmean, stdev

import pytest

from tests.kernel import uml
from tests.kernel.disks import MIB, image

pytestmark = pytest.mark.bench

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def best() -> dict[str, float]:
    """Measure in one boot of a User-Mode Linux; seconds by what was done."""
    with uml.run_directory() as run:
        file = run / "measured"
        command = [sys.executable, "-m", "tests.bench.moving", str(file)]
        boot = uml.boot(command, run=run, directory=ROOT, limit_seconds=800)
        assert boot.status == 0, boot.console[-4000:]
        found: dict[str, float] = json.loads(file.read_text())
    print("\n" + "\n".join(f"{name}: {seconds:.3f} s" for name, seconds in found.items()))
    return found


@pytest.mark.parametrize("how", ["mirror", "offline"])
def test_a_move_has_nine_tenths_of_the_throughput_of_dd(best: dict[str, float], how: str) -> None:
    ratio = best["dd"] / best[how]
    print(f"{how}: {ratio:.2f} of dd's throughput (wanted: 0.9)")
    assert ratio >= 0.9


def test_the_stable_device_costs_a_database_less_than_a_hundredth() -> None:
    """By the transactions of pgbench, of which the table under the database is exchanged twice a second."""
    with uml.run_directory() as run:
        file, disk = run / "measured", image(run / "disk.img", 1500 * MIB)
        command = [sys.executable, "-m", "tests.bench.layering", str(file)]
        boot = uml.boot(command, run=run, directory=ROOT, limit_seconds=800, disks=[disk])
        assert boot.status == 0, boot.console[-4000:]
        pairs: list[dict[str, list[float]]] = json.loads(file.read_text())
    costs = [log(fmean(pair["through"]) / fmean(pair["below"])) for pair in pairs if all(pair.values())]
    cost, error = fmean(costs), stdev(costs) / sqrt(len(costs))
    count = sum(len(taken) for pair in pairs for taken in pair.values())
    print(f"a transaction of pgbench takes {cost:+.2%} ± {error:.2%} ({count} of them; wanted: below 1 %)")
    assert error < 0.01, "the machine has too much else to do for a word on a hundredth"
    assert cost < 0.01


def test_the_stable_device_costs_a_long_read_less_than_a_hundredth(best: dict[str, float]) -> None:
    cost = best["read through"] / best["read below"] - 1
    print(f"reading through it costs {cost:.2%} (wanted: below 1 %)")
    assert cost < 0.01


def test_the_stable_device_costs_little_even_where_a_disk_answers_at_once(best: dict[str, float]) -> None:
    """Each read waits for the one before it, and the disk is memory: what is left is work, all of it counts.

    A disk takes 50 microseconds and more for each, beside which these few are not to be seen.
    """
    each = (best["small through"] - best["small below"]) / 1024 * 1e6
    share = best["small through"] / best["small below"] - 1
    print(f"each read of 4 KiB takes {each:.1f} microseconds more, {share:.0%} of one from memory")
    assert share < 0.4
