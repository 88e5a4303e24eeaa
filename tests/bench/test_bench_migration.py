"""A move of a volume against dd through the same dm-crypt devices, and the stable device against none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.kernel import uml

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


def test_the_stable_device_costs_less_than_a_hundredth(best: dict[str, float]) -> None:
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
