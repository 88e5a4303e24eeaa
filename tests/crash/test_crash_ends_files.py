"""The cuts of growing and of erasing, on real LUKS2 headers, a real ext4, and at the real broker's database.

The tables are in memory, and lost with the power; header, filesystem and the wipe are real.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Keys
from pathlib import Path
from typing import Any, Final

import pytest

from agent.change.disks import undertake
from agent.change.headers import MachineHeaders
from agent.change.workshop import Broker as ChangeBroker
from agent.change.workshop import Workshop
from agent.driver import Driver
from agent.ground import SUPERBLOCK_BYTES, taken_bytes
from agent.luks import copy as header_copy
from agent.luks import cryptsetup
from agent.luks.acceptance import accept
from agent.luks.header import NotLuks, read_header
from agent.plan import steps
from agent.plan.growth import Sizes
from agent.plan.steps import Ask, Finish, Grow, Layer, Wipe
from agent.process import run
from agent.shelf import FRONT
from agent.world import Sighting
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret
from tests.crash.file_legs import FileLegs, FileWiping, MovedFiles
from tests.crash.file_reencryption import FileReencryption
from tests.crash.file_world import NoDevices
from tests.crash.mortal import MOMENTS, Death, Mortal
from tests.crash.service_broker import ServiceBroker, Wanted
from tests.crash.staged import Staged, stages
from tests.crash.test_crash_memory import BOOT
from tests.crash.test_crash_migration import ERASURE, GROWTH
from tests.crash.volumes import SIZE

GROWN: Final = SIZE + 8 * MIB
FULL_GROWTH: Final = (Ask, Grow, *GROWTH)
"""The model's dm-crypt device is never too small; here it is, and takes a key to grow."""

MACHINES: Final[dict[str, tuple[type, ...]]] = {"grown": FULL_GROWTH, "erased": ERASURE}
CUTS: Final = [(how, effect) for how, journey in MACHINES.items() for effect in range(len(journey))]
WIPED: Final = ((24 << 10, 0), (FRONT, 0), (FRONT, 512), (FRONT, 40 << 10), (FRONT, FRONT))
"""Where a wipe is cut: bytes that are random by then, and from the start again, that are zeros."""


class Layers(MovedFiles):
    """A disk whose tables are in memory.

    Attributes:
        tables: how long the dm-crypt and the stable device of the volume are, in bytes; none where closed.
        cuts: how many times something was left in part.
    """

    cuts = 0

    def power_cut(self) -> None:
        super().power_cut()
        self.tables: dict[str, int] = {}

    def workshop(self, broker: ChangeBroker) -> Workshop:
        headers = MachineHeaders(self, self.directory / "run")
        return Workshop(
            self.world(), broker, headers, _Legs(self), FileGrowth(self), FileWiping(self),
            FileReencryption(self), NoDevices(),
        )  # fmt: skip

    def partial(self, step: type, *arguments: Any) -> None:
        """Do part of an effect, another part each time; a table is exchanged by one call."""
        self.cuts += 1
        if step is steps.Wipe:
            scrambled, zeros = WIPED[self.cuts % len(WIPED)]
            with self.open(arguments[0]) as disk:
                os.pwrite(disk.fd, os.urandom(scrambled), 0)
                os.pwrite(disk.fd, bytes(zeros), 0)
        elif step is steps.Grow and arguments[1] == "filesystem":
            # The kernel lets a mounted one grow group by group, each in a transaction.
            FileGrowth(self).resize(arguments[0], SIZE - FRONT + 2 * MIB)
        elif step is not steps.Grow:
            super().partial(step, *arguments)


class FileGrowth:
    """See ``agent.change.workshop.Growth``: the layers of a world of files."""

    def __init__(self, world: Layers) -> None:
        self._world = world

    def sizes(self, record: Record) -> Sizes | None:
        if [leg.volume for leg in self._world.legs.get(record.name, ())] != [record.volume]:
            return None
        room = self._world.disk(record).stat().st_size - FRONT
        with self._world.inside(record).open("rb") as inside:
            filesystem = taken_bytes(inside.read(SUPERBLOCK_BYTES))
        tables = self._world.tables
        return Sizes(room, tables.get("crypt", room), tables.get("linear", room), filesystem)

    def grow(self, record: Record, layer: Layer, keys: Keys[KeyVersion, Secret], seen: Sighting) -> None:
        sizes = self.sizes(record)
        assert sizes is not None
        match layer:
            case "crypt":
                self._check(record, keys, seen)
                self._world.tables["crypt"] = sizes.room
            case "linear":
                self._world.tables["linear"] = sizes.crypt
            case "filesystem":
                self.resize(record, sizes.linear)

    def resize(self, record: Record, size: int) -> None:
        inside = self._world.inside(record)
        os.truncate(inside, max(size, inside.stat().st_size))
        run("e2fsck", "-f", "-p", inside, expect=(0, 1))
        run("resize2fs", inside, f"{size >> 10}K")

    def _check(self, record: Record, keys: Keys[KeyVersion, Secret], seen: Sighting) -> None:
        """Open a keyslot of the checked copy, as the real one does before it loads a table."""
        assert seen.copy is not None
        image = header_copy.unpack(seen.copy)
        header = read_header(image.read, image.total)
        accept(header, record.profile, record.pin)
        fd = header_copy.memfd(image)
        try:
            assert any(
                cryptsetup.opens(fd, keyslot=slot, key=key)
                for slot in header.keyslots
                for key in keys.values()
            )
        finally:
            os.close(fd)


class _Legs(FileLegs):
    def unlink(self, record: Record) -> None:
        if self._world.mounted:
            raise KeybrokerError(Problem.IN_USE, f"{record.name}: is mounted")
        super().unlink(record)


class Site(Staged[Layers]):
    """A volume in use, that is to grow or to be erased."""

    noted = ("reach", "mounted", "legs", "synced", "held", "layout", "tables", "made")

    def __init__(self, directory: Path, how: str) -> None:
        self.how, self.count, self.directory = how, 0, directory
        self.broker = ServiceBroker(directory / "broker", Wanted("data", SIZE, "ext4", "/srv/data"))
        self.volume = self.broker.records[0].volume
        self.world = Layers(directory, self.broker, self.broker.records)
        self.world.attach(self.record)
        self.boot()
        self.keys = self.broker.keys(self.volume)
        if how == "grown":
            os.truncate(self.world.disk(self.record), GROWN)
            self.world.tables = dict.fromkeys(("crypt", "linear"), SIZE - FRONT)
            self.broker.order("data", "resize")
        else:
            self.world.mounted.clear()
            self.broker.order("data", "erase")
        self.keep()

    def renew(self) -> None:
        super().renew()
        self.count = 0

    @property
    def record(self) -> Record:
        return self.broker.record(self.volume)

    def write(self) -> None:
        if self.world.mounted:
            self.count += 1
            self.world.write_rows(self.record, f"rows {self.count}")

    def boot(self) -> None:
        """Lose power, boot; of a volume that is to stay: it opens, and has what was written last."""
        self.world.power_cut()
        report = Driver(self.world.world(), BOOT, keep=self.world.keep).unlock(self.world.layout)
        assert report.error is None
        if self.record.stage == "erased":
            return
        (outcome,) = report.outcomes
        if self.record.order is None or self.record.order.kind != "erase":
            assert outcome.error is None, outcome.error
        if outcome.error is None and self.count:
            assert self.world.mounted
            assert self.world.rows_of(self.record).read_text() == f"rows {self.count}"
        self.write()

    def run(self, mortal: Mortal | None = None) -> KeybrokerError | None:
        shop = mortal.workshop if mortal else self.world.workshop(self.broker)
        done = undertake(shop, BOOT, [self.record], watch=lambda record, doing: None)
        return next((each.error for each in done.values() if each.error is not None), None)

    def opens(self) -> bool:
        """Say whether any key that ever was opens what is on the disk."""
        with self.world.open(self.record) as disk:
            try:
                luks = read_header(disk.read, disk.device.size_bytes)
            except (NotLuks, KeybrokerError):
                return False
            return any(
                cryptsetup.opens(disk.fd, keyslot=slot, key=key)
                for slot in luks.keyslots
                for key in self.keys.values()
            )

    def settle(self) -> None:
        if self.how == "erased":
            self.world.mounted.clear()
        assert self.run() is None
        self.check_done()

    def check_done(self) -> None:
        kept = self.record
        assert self.world.made == 1
        assert kept.order is None
        if self.how == "erased":
            self._check_erased(kept)
            return
        sizes = FileGrowth(self.world).sizes(kept)
        assert sizes == Sizes(*[GROWN - FRONT] * 4)
        self.boot()
        assert self.run() is None

    def _check_erased(self, kept: Record) -> None:
        assert (kept.stage, kept.current) == ("erased", None)
        with self.world.disk(kept).open("rb") as disk:
            assert not any(disk.read(FRONT)), "something is left of the header"
            assert any(disk.read()), "what lies behind it needed no wipe"
        with pytest.raises(KeybrokerError):
            self.broker.header_copy(self.volume)
        self.boot()
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


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("how", "effect"), CUTS)
def test_one_that_is_cut_anywhere_is_finished_by_the_next_run(
    site: Site, how: str, effect: int, moment: str, power: bool
) -> None:
    assert not site.run_until_death(Death(effect, moment)).survived
    if site.record.order is not None and effect < MACHINES[how].index(Wipe if how == "erased" else Finish):
        assert site.opens()
    site.write()
    if power:
        site.boot()
    site.settle()


@pytest.mark.parametrize("later", ["during", "after"])
@pytest.mark.parametrize(("how", "effect"), CUTS)
def test_two_cuts_in_a_row_are_survived(site: Site, effect: int, later: str) -> None:
    """The second one a step or two on, after a boot or without one; the model has every pair."""
    for second in (0, 1, 2):
        site.renew()
        site.run_until_death(Death(effect, "during"))
        site.write()
        if second:
            site.boot()
        if site.how == "erased":
            site.world.mounted.clear()
        site.run_until_death(Death(second, later))
        site.write()
        site.settle()
