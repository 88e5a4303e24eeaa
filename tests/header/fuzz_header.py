"""A coverage-guided fuzzer for what an attacker writes: headers, their JSON areas, and header copies.

    python -m tests.header.fuzz_header DISK CORPUS [libFuzzer's options, such as -runs=20000]

DISK is a disk with a good header, CORPUS a directory; seeds are put into it first. Whatever an input is, it
must be refused in words, or lead to the very volume that DISK is (``tests.header.judging``).
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["agent.luks", "keybroker.wire"]):
    from tests.header.disks import Disk
    from tests.header.judging import Judge


def main(argv: list[str]) -> None:
    """Put seeds and a dictionary in place, then fuzz until libFuzzer's options say stop."""
    disk, corpus, *options = argv
    judge = Judge(Disk.of(Path(disk)))
    seeds = Path(corpus)
    seeds.mkdir(exist_ok=True)
    for seed in judge.seeds():
        (seeds / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    words = seeds.with_suffix(".dict")
    words.write_text(
        "".join('"' + w.replace("\\", "\\\\").replace('"', '\\"') + '"\n' for w in judge.words())
    )
    limits = ["-max_len=20000", "-timeout=10", "-rss_limit_mb=1024", f"-dict={words}"]
    atheris.Setup([sys.argv[0], *limits, *options, corpus], lambda data: judge.judge(data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
