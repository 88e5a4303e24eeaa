"""The cuts of what becomes of a plain disk, on real bytes and the real broker: encrypted in place, or moved.

Before the last flush of the inscription the disk is the plain filesystem, afterwards the LUKS2 volume; in
between each sector is one of both. Whatever was cut, and however often, a boot finds every byte that was
written last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from agent.change.course import Course
from agent.change.disks import undertake
from agent.driver import Driver
from agent.plan.settling import has_course
from agent.plan.steps import Reencrypt, Wipe
from agent.process import run
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB
from keybroker.wire.records import Record
from tests.crash.file_plain import FILESYSTEM, SECTOR, PlainFiles
from tests.crash.mortal import MOMENTS, Death, Mortal
from tests.crash.service_broker import ServiceBroker
from tests.crash.staged import Staged, stages
from tests.crash.test_crash_encryption import WAY
from tests.crash.test_crash_memory import BOOT
from tests.crash.test_crash_plain import JOURNEYS
from tests.crash.volumes import SIZE

PLACES: Final = (1500 * SECTOR, 15000 * SECTOR)
"""Where rows are written: in the beginning, which is moved, and behind it; the filesystem has both free."""

MACHINES: Final[dict[str, tuple[type, ...]]] = {
    "in place": WAY,
    **{f"moved {how}": journey for how, journey in JOURNEYS.items()},
}


def cuts() -> list[tuple[str, int]]:
    """Return every effect of every machine, but once only where two begin with the same ones."""
    begun = {
        journey[: effect + 1]: (how, effect)
        for how, journey in MACHINES.items()
        for effect in range(len(journey))
    }
    return sorted(begun.values())


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="encrypting a file needs root")


class Site(Staged[PlainFiles]):
    """A machine whose plain disk is to be encrypted, ``how`` of ``MACHINES``.

    Attributes:
        count: rows that were written.
    """

    def __init__(self, directory: Path, how: str) -> None:
        self.how, self.count, self.directory = how, 0, directory
        self.broker = ServiceBroker(directory / "broker")
        self.broker.declare("data", SIZE, origin="plain", serial="OLD-1", mount="/srv/data")
        self.plain = self.broker.record("data").volume
        self.world = PlainFiles(directory, self.broker, self.broker.record("data"))
        self.boot()
        if how == "in place":
            self.broker.order("data", "encrypt", backed_up=True)
        else:
            self.broker.order("data", "migrate", offline="offline" in how, size_bytes=SIZE + 4 * MIB)
            self.world.attach(self.records[1])
        self.world.keys = lambda: self.broker.keys(self.plain)
        self.stop()
        self.keep()

    noted = ("reach", "mounted", "legs", "synced", "held", "layout", "content", "cuts")

    @property
    def records(self) -> list[Record]:
        old = self.broker.record(self.plain)
        holder = self.broker.record("data")
        other = holder.volume if holder.volume != old.volume else old.partner
        return [old] if other is None else [old, self.broker.record(other)]

    @property
    def holder(self) -> Record:
        return self.broker.record("data")

    def stop(self) -> None:
        """Stop the database where that must be."""
        if "offline" in self.how or (self.how == "in place" and self.holder.is_bare):
            self.world.mounted.clear()

    def write(self) -> None:
        if self.world.mounted:
            self.count += 1
            for at in PLACES:
                self.world.write(self.holder, at, f"rows {self.count} at {at}".encode().ljust(SECTOR, b"."))

    def boot(self) -> None:
        """Lose power, boot: the holder's disk opens, and has every byte; then the database goes on."""
        self.world.power_cut()
        report = Driver(self.world.world(), BOOT, keep=self.world.keep).unlock(self.world.layout)
        assert report.error is None
        (outcome,) = report.outcomes
        assert outcome.error is None, outcome.error
        assert outcome.record.volume == self.holder.volume
        assert self.world.read(outcome.record) == self.world.content
        assert self.world.made == 0, "a filesystem was made"
        self.write()

    def run(self, mortal: Mortal | None = None) -> KeybrokerError | None:
        shop = mortal.workshop if mortal else self.world.workshop(self.broker)
        if has_course(self.holder) and self.how == "in place":
            return Course(shop, BOOT, self.holder).settle().error
        done = undertake(shop, BOOT, self.records, watch=lambda record, doing: None)
        return next((each.error for each in done.values() if each.error is not None), None)

    def run_until_death(self, death: Death) -> Mortal:
        mortal = super().run_until_death(death)
        self.world.held.clear()
        return mortal

    def settle(self) -> None:
        self.stop()
        assert self.run() is None
        self.check_done()

    def check_done(self) -> None:
        now = self.holder
        assert (now.stage, now.order, now.partner) == ("ready", None, None)
        left = self.world.disk(self.broker.record(self.plain)).read_bytes()
        if self.how == "in place":
            luks = self.world.luks(now)
            assert (luks.requirements, luks.degraded, luks.sequence) == ((), False, now.sequence)
            assert luks.pin == now.pin
        else:
            assert self.broker.record(self.plain).stage == "erased"
            assert not any(left), "plaintext is left"
        assert self.world.content[: SECTOR * 4] not in left
        self.boot()
        self.world.mounted.clear()
        assert self.run() is None


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Site]]:
    with stages(Site, tmp_path_factory) as renewed:
        yield renewed


@pytest.fixture
def site(sites: Callable[[str], Site], how: str) -> Site:
    return sites(how)


@pytest.mark.parametrize("how", MACHINES)
def test_it_takes_each_step_once(site: Site) -> None:
    mortal = Mortal(site.world.workshop(site.broker), site.world)
    assert site.run(mortal) is None
    assert tuple(mortal.journey) == MACHINES[site.how]
    site.check_done()


@pytest.mark.parametrize("moment", [each for each in MOMENTS if each != "before"])  # after the one before it
@pytest.mark.parametrize(("how", "effect"), cuts())
def test_one_that_is_cut_anywhere_is_finished_by_the_next_run(site: Site, effect: int, moment: str) -> None:
    assert not site.run_until_death(Death(effect, moment)).survived
    site.write()
    site.boot()
    site.settle()


@pytest.mark.parametrize("how", ["moved live", "moved offline"])
def test_a_plain_disk_with_another_filesystem_of_the_same_kind_is_not_wiped(site: Site) -> None:
    """Two disks were exchanged since, or somebody made a filesystem on the one that was left."""
    site.run_until_death(Death(MACHINES[site.how].index(Wipe), "before"))
    disk = site.world.disk(site.broker.record(site.plain))
    run("mkfs.ext4", "-q", "-F", "-b", "1024", disk, f"{FILESYSTEM >> 10}k")
    theirs = disk.read_bytes()
    error = site.run()
    assert error is not None
    assert error.problem is Problem.WRONG_DEVICE
    assert disk.read_bytes() == theirs
    assert site.broker.record(site.plain).stage == "plain"
    site.boot()


@pytest.mark.parametrize("how", ["in place"])
def test_a_cryptsetup_that_is_killed_at_any_write_costs_nothing(site: Site) -> None:
    """As of a power cut with all of that write, and no later one, on the medium."""
    for at in range(2, 40, 5):
        site.renew()
        site.run_until_death(Death(WAY.index(Reencrypt), "before"))
        site.world.kill_encryption(site.holder, at)
        site.boot()
        if at % 2:
            site.world.kill_encryption(site.holder, at)
            site.boot()
        site.settle()


@pytest.mark.parametrize(("how", "effect"), cuts())
def test_two_cuts_in_a_row_are_survived(site: Site, effect: int) -> None:
    """The second one a step or two on, in the middle of it; the model has every pair."""
    site.run_until_death(Death(effect, "after"))
    site.write()
    if effect % 2:
        site.boot()
    site.stop()
    site.run_until_death(Death(1 + effect % 2, "during"))
    site.write()
    site.boot()
    site.settle()
