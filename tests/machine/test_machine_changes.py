"""PostgreSQL works on while its volume gets new keys and a new disk; and then the power goes.

One pgbench runs through all three. What must be so at its end: no failed transaction, nothing that pg_amcheck
or a checksum complains about, and the longest stall is told. Then each of them is cut by killing QEMU in its
middle, and a boot with nobody typing ends where the operator wanted it.

The tests share one machine: each finds it on, with its rows, and leaves it so.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.machine import image, story
from tests.machine.conftest import Provisioned, provision
from tests.machine.site import ADDON, MOUNT_POINT, Site

FILES: Final = f"{MOUNT_POINT}/15/main"
pytestmark = pytest.mark.limit(1800)

PROGRAMS: Final = "/usr/lib/postgresql/15/bin"
LOAD: Final = "/run/pgbench"
SCALE: Final = 1
BYTES: Final = 192 << 20
"""Of the data volume: all of it is encrypted anew and copied, three times each, by an emulated processor."""

LIMIT_SECONDS: Final = 600
SETTLE: Final = "keybroker-agent-settle.service"
LONGEST_STALL_SECONDS: Final = 30.0
"""In software emulation, on two cores that everything shares; what was seen is printed."""


class Busy:
    """A machine whose PostgreSQL stands on the volume that changes."""

    def __init__(self, provisioned: Provisioned) -> None:
        self.site = provisioned.site
        self.machine = provisioned.site.machine
        self._text = provisioned.text

    def boot(self) -> None:
        self.machine.start(disks=self.site.disks)
        self.machine.wait_for_login()

    def rows(self) -> int:
        self.machine.wait_until(f"systemctl is-active {story.DATABASE}")
        return story.count_rows(self.machine, self._text)

    def show(self) -> Any:
        return self.site.broker.operate("volume", "show", ADDON, "data")

    def order(self, verb: str, *options: str) -> Any:
        """Ask for a change of the data volume, and have the agent hear of it at once."""
        answer = self.site.broker.operate("volume", verb, ADDON, "data", *options)
        if verb == "migrate":
            self._plug(self.show()["partner"])
        self.hear()
        return answer

    def hear(self) -> None:
        self.machine.run(f"systemctl start --no-block {SETTLE}")

    def _plug(self, serial: str) -> None:
        disk = self.site.directory / f"{serial}.raw"
        subprocess.run(["truncate", "--size", str(BYTES), disk], check=True)
        self.site.disks[serial] = disk
        self.machine.plug(serial, disk)

    def wait_for(self, done: Callable[[Any], bool], *, pause_seconds: float = 1.0) -> Any:
        """Wait until the volume's document pleases ``done``."""
        until = time.monotonic() + LIMIT_SECONDS
        while True:
            shown = self.show()
            if done(shown):
                return shown
            if time.monotonic() > until:
                journal = self.machine.journal(SETTLE)
                raise AssertionError(f"{json.dumps(shown, indent=1)}\n{journal[-4000:]}")
            time.sleep(pause_seconds)

    def retire_disk(self, serial: str) -> None:
        """Wait until the disk that was left is wiped, and take it off the list of the next boot's disks."""
        disk = self.site.disks[serial]
        until = time.monotonic() + LIMIT_SECONDS
        while any(disk.read_bytes()[: 4 << 20]):
            assert time.monotonic() < until, self.machine.journal(SETTLE)[-4000:]
            time.sleep(1.0)
        del self.site.disks[serial]

    def begin_load(self) -> None:
        machine = self.machine
        story.sql(machine, "alter system set max_wal_size = '48MB'; alter system set min_wal_size = '32MB';")
        machine.run("su postgres -c 'psql -qc \"select pg_reload_conf()\"'")
        machine.run(f"install -d -o postgres {LOAD}; cd {LOAD} && su postgres -c 'createdb bench'")
        machine.run(f"su postgres -c 'pgbench -q -i -s {SCALE} bench'", limit_seconds=240)
        machine.run(
            f"systemd-run --quiet --unit=bench --uid=postgres --working-directory={LOAD}"
            f" --property=StandardError=file:{LOAD}/err --property=StandardOutput=file:{LOAD}/out"
            " pgbench -c 2 -T 3600 -l --log-prefix=tx bench"
        )

    def end_load(self) -> tuple[int, float, float]:
        """Stop pgbench; return its transactions, the longest and the median one in seconds."""
        self.machine.run("systemctl is-active bench", limit_seconds=30)
        self.machine.run("systemctl stop bench.service")
        errors = self.machine.run(f"cat {LOAD}/err")
        assert not re.search(r"error|abort|fatal|panic", errors, re.IGNORECASE), errors
        # client, transaction, latency in microseconds …: a line for each that was committed
        latencies = self.machine.run(f"cat {LOAD}/tx* | cut -d' ' -f3 | sort -n")
        found = [int(line) / 1e6 for line in latencies.split()]
        assert found, "the load never committed anything"
        return len(found), found[-1], found[len(found) // 2]

    def assert_sound(self) -> None:
        """Hold what PostgreSQL itself says of its files: B-trees, heaps, and the checksum of every page."""
        machine = self.machine
        machine.run(
            "cd / && su postgres -c 'psql -qc \"create extension if not exists amcheck\"'"
            f" && su postgres -c '{PROGRAMS}/pg_amcheck --all --install-missing --heapallindexed'",
            limit_seconds=240,
        )
        machine.run(f"systemctl stop {story.DATABASE}")
        machine.run(f"su postgres -c '{PROGRAMS}/pg_checksums --check -D {FILES}'", limit_seconds=240)
        machine.run(f"systemctl start {story.DATABASE}")


@pytest.fixture(scope="module")
def provisioned() -> Iterator[Provisioned]:
    root, tree = image.build(print)
    directory = Path(tempfile.mkdtemp(prefix="kbc-"))  # short: sockets live in it
    try:
        with Site(directory, root, tree) as site:
            yield provision(site, data_bytes=BYTES, checksums=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def booted(provisioned: Provisioned) -> Iterator[Busy]:
    machine = Busy(provisioned)
    try:
        yield machine
        machine.machine.power_off()
    finally:
        machine.machine.cut_power()


@pytest.fixture
def busy(booted: Busy) -> Busy:
    if not booted.machine.is_on:
        booted.boot()
    assert booted.rows() >= story.ROWS
    return booted


def at_rest(now: Any) -> bool:
    return now["order"] is None and now["wanted"] == now["current"] and now["retiring"] is None


def test_postgresql_works_on_while_its_volume_is_rotated_reencrypted_and_moved(busy: Busy) -> None:
    before = busy.show()
    busy.begin_load()

    busy.order("rotate")
    rotated = busy.wait_for(lambda now: at_rest(now) and is_changed("rotate", before, now))

    busy.order("reencrypt")
    anew = busy.wait_for(lambda now: at_rest(now) and is_changed("reencrypt", rotated, now))
    assert anew["current"] == rotated["current"] + 1, "a new volume key comes with a new passphrase"

    busy.order("migrate")
    moved = busy.wait_for(lambda now: at_rest(now) and is_changed("migrate", anew, now))
    assert moved["luks_uuid"] != before["luks_uuid"]
    busy.retire_disk(before["volume"])

    count, longest, median = busy.end_load()
    print(f"\npgbench: {count} transactions, none failed; median {median:.3f} s, longest {longest:.3f} s")
    assert longest < LONGEST_STALL_SECONDS
    busy.assert_sound()
    assert busy.rows() >= story.ROWS


@pytest.mark.parametrize("change", ["rotate", "reencrypt", "migrate"])
def test_a_power_cut_in_the_middle_of_a_change_is_mended_by_the_next_boot(busy: Busy, change: str) -> None:
    before, rows = busy.show(), busy.rows()
    busy.order(change)
    seen = busy.wait_for(lambda now: has_begun(change, before, now), pause_seconds=0.1)
    busy.machine.cut_power()
    over = at_rest(seen) and is_changed(change, before, seen)
    print(f"{change}: the power went {'after its end' if over else 'in its middle'}")
    busy.boot()
    assert busy.rows() == rows
    busy.wait_for(lambda now: at_rest(now) and is_changed(change, before, now))  # the timer sees to it
    if change == "migrate":
        busy.retire_disk(before["volume"])
    assert busy.rows() == rows
    busy.assert_sound()


def has_begun(change: str, before: Any, now: Any) -> bool:
    """Say whether a change is in its middle, or past it, as far as the broker knows."""
    if is_changed(change, before, now):
        return True
    if change == "rotate":
        return bool(now["staged"] or now["retiring"])
    activity = (now["report"] or {}).get("activity") or {}
    return activity.get("step") in ("Reencrypt", "Copy", "Verify")


def is_changed(change: str, before: Any, now: Any) -> bool:
    match change:
        case "rotate":
            return bool(now["current"] == before["current"] + 1)
        case "reencrypt":
            return bool(now["pin"]["digest"] != before["pin"]["digest"])
        case _:
            return bool(now["volume"] != before["volume"])
