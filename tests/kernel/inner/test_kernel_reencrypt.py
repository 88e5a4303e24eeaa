"""A new volume key under a mounted ext4 that is written to all the time, on the kernel's own dm-crypt."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent import devicemapper, lock
from agent.change.course import Watch
from agent.change.reencryption import MachineReencryption
from agent.change.workshop import Workshop
from agent.driver import Driver, VolumeOutcome
from agent.luks.header import Header, read_header
from agent.luks.midway import done_bytes
from agent.places import Places
from agent.plan import steps
from keybroker.wire.orders import Order
from keybroker.wire.problems import Problem
from keybroker.wire.profile import MIB
from keybroker.wire.records import Record
from keybroker.wire.reports import Activity
from keybroker.wire.values import replace
from tests.crash.memory_broker import MemoryBroker
from tests.crash.volumes import key_of, record
from tests.kernel import voyage
from tests.kernel.disks import image, loop
from tests.kernel.voyage import BOOT, Writer

pytestmark = [pytest.mark.kernel, pytest.mark.limit(480)]

SIZE = 68 * MIB
SEED = int(os.environ.get("KEYBROKER_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)


class Stopped(Exception):
    """The agent ends here."""


@dataclass
class Ship(voyage.OneVolume):
    """A machine with one volume, open and mounted, and something in it."""

    broker: MemoryBroker
    shop: Workshop
    device: Path
    mounted: Path
    directory: Path
    runtime: Path
    content: str = ""

    def unlock(self) -> VolumeOutcome:
        (outcome,) = Driver(self.shop.world, BOOT).unlock((self.now,)).outcomes
        return outcome

    def order(self, **wishes: object) -> str:
        """Order a re-encryption; return the digest of the volume key that is to go."""
        number = self.now.order.number if self.now.order else 0
        self.broker.order(self.now.volume, Order(number + 1, "reencrypt", **wishes))  # type: ignore[arg-type]
        assert self.now.pin is not None
        return self.now.pin.digest

    def header(self) -> Header:
        with self.device.open("rb", buffering=0) as disk:
            return read_header(lambda at, length: os.pread(disk.fileno(), length, at), SIZE)

    def close(self) -> None:
        """Close it as ``keybroker-agent lock`` does."""
        (closed,) = lock.lock((self.now,), runtime=self.runtime)
        assert closed.error is None, closed.error

    def check(self) -> None:
        """Hold what is in it to what was put there, read from the disk."""
        subprocess.run(["sysctl", "-q", "vm.drop_caches=3"], check=True)
        with (self.mounted / "still").open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == self.content
        voyage.check_content(self.mounted, self.directory)

    def check_done(self, before: str) -> None:
        kept, header = self.now, self.header()
        assert kept.order is None
        assert kept.pin == header.pin
        assert header.pin.digest != before
        assert kept.sequence == header.sequence
        assert len(header.keyslots) == len(header.digests) == len(header.segments) == 1
        assert header.token is not None
        (keyslot,) = header.keyslots
        assert (header.token.keyslots, dict(header.token.versions)) == ((keyslot,), {keyslot: kept.current})
        assert self.helpers() == []
        self.check()

    def helpers(self) -> list[str]:
        return [name for name in devicemapper.mapped() if name.startswith(f"{self.name}-")]

    def boot_again(self) -> None:
        self.close()
        assert self.unlock().error is None
        self.check()


def fill(ship: Ship) -> str:
    """Put something into it; return its digest."""
    held = random.Random(7).randbytes(16 * MIB)
    (ship.mounted / "still").write_bytes(held)
    content = hashlib.sha256(held).hexdigest()
    (ship.directory / "still.sha256").write_text(content)
    os.sync()
    return content


@pytest.fixture
def ship(tmp_path: Path) -> Iterator[Ship]:
    mounted = tmp_path / "data"
    new = record(size=SIZE, mount=str(mounted))
    broker = MemoryBroker([new])
    with loop(image(tmp_path / "disk", SIZE)) as device:
        places = Places({new.volume: device})
        shop = voyage.workshop(broker, places, tmp_path / "run")
        made = Ship(broker, shop, device, mounted, tmp_path, tmp_path / "run")
        try:
            assert made.unlock().error is None
            made.content = fill(made)
            yield made
        finally:
            made.close()
            for helper in reversed(made.helpers()):
                subprocess.run(["dmsetup", "remove", "--force", helper], check=False)
            (tmp_path / "disk").unlink()  # pytest would keep it, and it is memory here


def test_the_volume_key_changes_under_a_constant_load(ship: Ship) -> None:
    before = ship.order()
    writer = Writer(ship.mounted, ship.directory)
    writer.start()
    said: list[Activity] = []
    outcome = ship.settle(lambda record, activity: said.append(activity) if activity else None)
    time.sleep(0.2)
    writer.going = False
    writer.join()
    assert outcome.error is None, outcome.error
    assert [type(step) for step in outcome.steps if not isinstance(step, steps.Ask)] == [
        steps.Announce, steps.Begin, steps.Announce, steps.Reencrypt, steps.Tag, steps.Backup, steps.Finish,
    ]  # fmt: skip
    ship.check_done(before)
    progress = [each.progress for each in said if each.progress is not None]
    assert (progress[0].done, progress[-1].done) == (0, progress[-1].total)
    print(f"{voyage.acknowledged(ship.directory)} writes meanwhile, the longest took {writer.longest:.2f} s")
    ship.boot_again()


def stop_after(done: int) -> Watch:
    """Return what ends the agent once so many bytes are done."""

    def watch(record: Record, activity: Activity | None) -> None:
        if activity is not None and activity.progress is not None and activity.progress.done >= done > 0:
            raise Stopped

    return watch


def interrupted(ship: Ship, **wishes: object) -> str:
    """Order a re-encryption and stop the agent in its middle."""
    before = ship.order(rate=MIB, **wishes)
    with pytest.raises(Stopped):
        ship.settle(stop_after(1))
    done, total = done_bytes(ship.header(), SIZE)
    assert 0 < done < total
    return before


def hurry(ship: Ship) -> None:
    assert ship.now.order is not None
    ship.broker.order(ship.now.volume, replace(ship.now.order, rate=None))


def test_an_agent_that_is_stopped_leaves_no_helper_and_the_next_one_goes_on(ship: Ship) -> None:
    before = interrupted(ship)
    assert ship.helpers() == []
    assert len((devicemapper.table(ship.name) or "").splitlines()) == 2
    fresh = voyage.workshop(ship.broker, Places({ship.now.volume: ship.device}), ship.runtime)
    assert fresh.world.mappings.look(ship.now).reach == "open"
    assert Driver(fresh.world, BOOT).unlock((ship.now,)).outcomes[0].result == "already"
    ship.check()
    hurry(ship)
    outcome = ship.settle()
    assert outcome.error is None, outcome.error
    ship.check_done(before)


def test_a_boot_in_the_middle_opens_from_the_disk_and_the_rest_is_done(ship: Ship) -> None:
    before = interrupted(ship)
    ship.close()
    outcome = ship.unlock()
    assert outcome.error is None, outcome.error
    assert [type(step) for step in outcome.steps] == [steps.Open, steps.Link, steps.Mount]
    assert len((devicemapper.table(ship.name) or "").splitlines()) == 2
    ship.check()
    hurry(ship)
    assert ship.settle().error is None
    ship.check_done(before)
    ship.boot_again()


def test_a_header_in_the_middle_that_nobody_announced_is_not_opened(ship: Ship) -> None:
    interrupted(ship)
    kept = ship.now
    ship.close()
    ship.broker.records[kept.volume] = replace(kept, order=None)
    outcome = ship.unlock()
    assert outcome.error is not None
    assert outcome.error.problem is Problem.HEADER_REFUSED
    assert devicemapper.mapped() == {}
    ship.broker.records[kept.volume] = kept
    assert ship.unlock().error is None
    ship.check()


def test_a_look_at_any_moment_of_the_work_finds_the_volume_open(ship: Ship) -> None:
    """Seen from another agent: tables change from one moment to the next, and are never not the volume's."""
    before = ship.order(rate=24 * MIB)
    seen: list[str] = []
    going = threading.Event()

    def look() -> None:
        while not going.is_set():
            fresh = voyage.workshop(ship.broker, Places({ship.now.volume: ship.device}), ship.runtime)
            found = fresh.world.mappings.look(ship.now)
            seen.append(found.obstacle or found.reach)

    watcher = threading.Thread(target=look)
    watcher.start()
    outcome = ship.settle()
    going.set()
    watcher.join()
    assert outcome.error is None, outcome.error
    print(f"looked {len(seen)} times")
    assert set(seen) == {"open"}, set(seen)
    ship.check_done(before)


def _cryptsetup() -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (
                (entry / "cmdline")
                .read_bytes()
                .startswith(b"cryptsetup\0reencrypt\0--batch-mode\0--resume-only")
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", range(3))
def test_a_cryptsetup_that_is_killed_costs_nothing_but_closing_and_opening(ship: Ship, number: int) -> None:
    """Nobody kills it but a kernel that is out of memory. Its helper devices stay, and so does the data."""
    chance = random.Random(f"{SEED} {number}")
    seconds = chance.uniform(0.0, 0.8)
    print(f"seed {SEED}, killed after {seconds:.2f} s")
    before = ship.order(rate=4 * MIB)
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            while not _cryptsetup():
                time.sleep(0.01)
            time.sleep(seconds)
            for process in _cryptsetup():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)

    killer = threading.Thread(target=kill)
    killer.start()
    outcome = ship.settle()
    killer.join()
    assert outcome.error is not None
    assert outcome.error.problem in (Problem.TOOL_FAILED, Problem.WRONG_DEVICE)
    if not _suspended(ship):
        ship.check()
    _resume_all(ship)
    ship.close()
    assert ship.unlock().error is None
    ship.check()
    hurry(ship)
    last = ship.settle()
    assert last.error is None, last.error
    ship.check_done(before)


def _suspended(ship: Ship) -> list[str]:
    said = subprocess.run(
        ["dmsetup", "info", "-c", "--noheadings", "-o", "name,suspended"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [line.split(":")[0] for line in said.splitlines() if line.endswith(":Suspended")]


def _resume_all(ship: Ship) -> None:
    """What a reboot does to devices that are suspended: they are gone, and what waited for them is lost.

    Resumed as it is, the table of before would let that through into the hot zone, under the key of before,
    where the new one is already: no checksum tells such a sector from one that is done.
    """
    for name in _suspended(ship):
        said = subprocess.run(["dmsetup", "table", name], capture_output=True, text=True, check=True)
        first, length = said.stdout.splitlines()[-1].split()[:2]  # the last line ends the device
        sectors = int(first) + int(length)
        subprocess.run(["dmsetup", "load", name, "--table", f"0 {sectors} error"], check=True)
        subprocess.run(["dmsetup", "resume", "--noflush", "--nolockfs", name], check=True)


def test_a_rate_is_kept_by_resting_in_between(ship: Ship) -> None:
    """A slice of work is done at full speed; the rest after it makes up for that."""
    began, rate = time.monotonic(), 3 * MIB
    moments: list[tuple[float, int]] = []
    ship.order(rate=rate)

    def watch(record: Record, activity: Activity | None) -> None:
        if activity is not None and activity.progress is not None:
            moments.append((time.monotonic() - began, activity.progress.done))
            if time.monotonic() - began > 25:
                raise Stopped

    with contextlib.suppress(Stopped):
        ship.settle(watch)
    still = [
        done for (_, done), (_, later) in itertools.pairwise(moments) if 0 < done == later < SIZE - 4 * MIB
    ]
    assert still, moments  # it rested at least once
    rested = max(at for at, done in moments if done == still[0])
    print(f"{still[0] / rested / MIB:.1f} MiB/s of {rate / MIB:.0f} wanted, after the first rest")
    assert still[0] / rested <= rate * 1.25


def test_keys_reach_cryptsetup_by_pipes_only(ship: Ship) -> None:
    secret, seen, met = key_of("data").reveal(), [], 0
    going = threading.Event()

    def look() -> None:
        nonlocal met
        while not going.is_set():
            for entry in Path("/proc").glob("[0-9]*"):
                for part in ("cmdline", "environ"):
                    try:
                        text = (entry / part).read_bytes()
                    except OSError:
                        continue
                    met += text.startswith(b"cryptsetup\0reencrypt")
                    if secret in text:
                        seen.append(text)

    watcher = threading.Thread(target=look)
    watcher.start()
    ship.order()
    outcome = ship.settle()
    going.set()
    watcher.join()
    assert outcome.error is None
    assert met
    assert seen == []


def test_a_version_that_corrupts_data_is_refused(ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    ship.order()
    old = Path(ship.directory / "bin")
    old.mkdir()
    (old / "cryptsetup").write_text("#!/bin/sh\necho cryptsetup 2.7.2\n")
    (old / "cryptsetup").chmod(0o755)
    monkeypatch.setattr("agent.process.ENVIRONMENT", {"PATH": f"{old}:/usr/sbin:/usr/bin:/sbin:/bin"})
    places = Places({ship.now.volume: ship.device})
    with pytest.raises(Exception, match="corrupts data"):
        MachineReencryption(places, ship.runtime).begin(ship.now, {}, by=1)  # type: ignore[arg-type]
    monkeypatch.undo()
