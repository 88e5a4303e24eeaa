"""Inside User-Mode Linux: pgbench on the stable device, and on dm-crypt without it, under one PostgreSQL.

    python -m tests.bench.layering FILE

One device carries the database all the while; its table is exchanged twice a second: linear over dm-crypt,
as the agent makes it, or the same dm-crypt target by itself. So nothing differs but the layer: one
filesystem, one cache, one run of pgbench. What goes to FILE is how long each transaction took, by what was
under it, turn by turn.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from bisect import bisect_left
from pathlib import Path
from typing import Final

DISK: Final = Path("/dev/ubda")
DATA: Final = Path("/mnt/data")
TURNS: Final = 480
"""A multiple of four: two of each table, and as much of whatever changes with time for both."""

TURN_SECONDS: Final = 0.4
SETTLED_SECONDS: Final = 0.1
"""What the exchange of a table holds up belongs to neither of the two."""

PROGRAMS: Final = next(Path("/usr/lib/postgresql").glob("*/bin"))
SETTINGS: Final = (
    "listen_addresses=''", "unix_socket_directories=/mnt", "checkpoint_timeout=1h", "max_wal_size=8GB",
    "autovacuum=off", "shared_buffers=64MB",
)  # fmt: skip


def main(file: Path) -> None:
    """Measure, and write it down."""
    tables = made()
    run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", "/dev/mapper/top")
    run("mount", "/dev/mapper/top", "/mnt")
    DATA.mkdir()
    run("chown", "-R", "postgres:", "/mnt")
    postgres("initdb", "-D", DATA, "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
    options = " ".join(f"-c {setting}" for setting in SETTINGS)
    postgres("pg_ctl", "-D", DATA, "-w", "-l", "/mnt/log", "-o", options, "start")
    try:
        postgres("createdb", "-h", "/mnt", "bench")
        postgres("pgbench", "-h", "/mnt", "-i", "-q", "-s", "4", "bench")
        postgres("psql", "-h", "/mnt", "-q", "-c", "checkpoint", "bench")
        file.write_text(json.dumps(measured(tables)))
    finally:
        postgres("pg_ctl", "-D", DATA, "-m", "immediate", "stop")


def made() -> dict[str, str]:
    """Make a LUKS2 volume, open it, and put a device over it; return the two tables of that."""
    options = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--sector-size", "4096")
    run(
        "cryptsetup",
        "luksFormat",
        "-q",
        "--type",
        "luks2",
        *options,
        "--key-file",
        "-",
        DISK,
        stdin=b"k" * 32,
    )
    run("cryptsetup", "open", "--disable-keyring", "--key-file", "-", DISK, "crypt", stdin=b"k" * 32)
    alone = run("dmsetup", "table", "--showkeys", "crypt").decode().strip()
    sectors = alone.split()[1]
    tables = {"through": f"0 {sectors} linear /dev/mapper/crypt 0", "below": alone}
    run("dmsetup", "create", "top", stdin=tables["through"].encode())
    run("dmsetup", "mknodes")  # there is no udev
    return tables


def measured(tables: dict[str, str]) -> list[dict[str, list[float]]]:
    """Return the milliseconds of each transaction, by table, for each pair of turns."""
    seconds = str(int(TURNS * TURN_SECONDS) + 20)
    command = ("-h", "/mnt", "-n", "-c", "1", "-T", seconds, "--log", "--log-prefix=/mnt/told", "bench")
    bench = subprocess.Popen(called("pgbench", *command), stdout=subprocess.DEVNULL)
    time.sleep(5)
    turns: list[tuple[str, float, float]] = []
    for turn in range(TURNS):
        # A B B A: what grows or wears off with time meets both alike
        name = "through" if turn % 4 in (0, 3) else "below"
        run("dmsetup", "load", "top", stdin=tables[name].encode())
        run("dmsetup", "resume", "top")
        begun = time.time() + SETTLED_SECONDS
        time.sleep(SETTLED_SECONDS + TURN_SECONDS)
        turns.append((name, begun, time.time()))
    bench.terminate()
    bench.wait()
    (told,) = Path("/mnt").glob("told.*")
    lines = [line.split() for line in told.read_text().splitlines()]
    ends = [int(line[4]) + int(line[5]) / 1e6 for line in lines]
    taken = [int(line[2]) / 1000 for line in lines]
    pairs = []
    for first, second in zip(turns[::2], turns[1::2], strict=True):
        pair = {}
        for name, since, until in (first, second):
            pair[name] = taken[bisect_left(ends, since) + 1 : bisect_left(ends, until)]
        pairs.append(pair)
    return pairs


def called(program: str, *arguments: str | Path) -> list[str]:
    return ["runuser", "-u", "postgres", "--", str(PROGRAMS / program), *map(str, arguments)]


def postgres(program: str, *arguments: str | Path) -> None:
    subprocess.run(called(program, *arguments), check=True, stdout=subprocess.DEVNULL, cwd="/")


def run(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    return subprocess.run(
        [str(word) for word in arguments], check=True, input=stdin, stdout=subprocess.PIPE
    ).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
