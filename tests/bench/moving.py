"""Inside User-Mode Linux: what a move of a volume costs against dd, and the stable device against none.

    python -m tests.bench.moving FILE

Everything is measured in turn, several times, on the same two LUKS2 volumes; what goes to FILE is the best
time of each, in seconds, because whatever else a machine does only ever adds to one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.change.blocks import Blocks
from agent.change.duplicate import duplicate
from tests.kernel.disks import MIB
from tests.kernel.pair import Pair, pair

ROUNDS: Final = 4
LAYER_ROUNDS: Final = 60
SIZE: Final = 132 * MIB


def main(file: Path) -> None:
    """Measure all, and write it down."""
    with tempfile.TemporaryDirectory() as directory, pair(Path(directory), sizes=(SIZE, SIZE)) as two:
        old, new = two.crypt(two.holder), two.crypt(two.successor)
        dd("if=/dev/urandom", f"of={old}", "bs=4M", "count=32", "oflag=direct")
        acts: dict[str, Callable[[], object]] = {
            "dd": lambda: dd(f"if={old}", f"of={new}", "bs=4M", "iflag=direct", "oflag=direct", "conv=fsync"),
            "mirror": lambda: mirror(two),
            "offline": lambda: offline(old, new),
        }
        best = measure(acts, ROUNDS, before=lambda: clear(two, new))
        best |= measure(
            {
                "read below": lambda: dd(f"if={old}", "of=/dev/null", "bs=1M", "count=32", "iflag=direct"),
                "read through": lambda: dd(
                    f"if={two.top}", "of=/dev/null", "bs=1M", "count=32", "iflag=direct"
                ),
                "small below": lambda: dd(f"if={old}", "of=/dev/null", "bs=4k", "count=1k", "iflag=direct"),
                "small through": lambda: dd(
                    f"if={two.top}", "of=/dev/null", "bs=4k", "count=1k", "iflag=direct"
                ),
            },
            LAYER_ROUNDS,
            before=lambda: None,
        )
    file.write_text(json.dumps(best))


def measure(
    acts: dict[str, Callable[[], object]], rounds: int, *, before: Callable[[], object]
) -> dict[str, float]:
    """Do all of them in turn; return the best time of each in seconds, its own word for it if it has one."""
    best = dict.fromkeys(acts, float("inf"))
    for _ in range(rounds):
        for name, act in acts.items():
            before()
            begun = time.monotonic()
            own = act()
            taken = own if isinstance(own, float) else time.monotonic() - begun
            best[name] = min(best[name], taken)
    return best


def dd(*arguments: str) -> None:
    subprocess.run(["dd", *arguments, "status=none"], check=True)


def clear(two: Pair, new: Path) -> None:
    """Have the target hold something else, and the volume stand on its own disk."""
    two.legs.drop(two.holder, two.successor)
    dd("if=/dev/zero", f"of={new}", "bs=4M", "count=32", "oflag=direct")


def mirror(two: Pair) -> float:
    """Return how long the kernel takes to copy all, without the exchange of the table before it."""
    told: list[tuple[float, int]] = []
    two.legs.mirror(two.holder, two.successor)
    two.legs.wait(two.holder, lambda done, total: told.append((time.monotonic(), done)))
    (begun, first), (ended, last) = told[0], told[-1]
    return (ended - begun) * last / (last - first)


def offline(old: Path, new: Path) -> None:
    source, target = Blocks(old), Blocks(new, writable=True)
    try:
        written = duplicate(source, target, source.size_bytes, watch=lambda done, total: None)
        assert written == source.size_bytes
    finally:
        source.close()
        target.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
