"""A header that was destroyed comes back, wherever the write is cut; one that is good stays as it is."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

import pytest

from agent import overwriting, restoration
from agent.devices import OpenDevice
from agent.examination import examine
from agent.inscription import SECTOR
from agent.luks import copy
from agent.luks.header import read_header
from agent.restoration import Bench, Restored
from keybroker.wire.messages import HeaderCopy, UnlockReply, UnlockRequest
from keybroker.wire.names import VolumeId
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB
from keybroker.wire.records import Grant, Record
from keybroker.wire.secret import Secret
from keybroker.wire.values import replace
from tests.crash.file_world import FileWorld
from tests.crash.service_broker import ServiceBroker, Wanted
from tests.crash.test_crash_files import ROWS, rows, run, settle, write_rows
from tests.crash.test_crash_memory import BOOT
from tests.crash.volumes import SIZE
from tests.header.disks import Disk, cryptsetup

LUKS_MAGIC: Final = b"LUKS\xba\xbe"


class Files:
    """The disks of a world of files."""

    def __init__(self, world: FileWorld) -> None:
        self._world = world

    def open(self, record: Record, *, writable: bool = False) -> AbstractContextManager[OpenDevice]:
        return self._world.open(record)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileWorld]:
    directory = tmp_path_factory.mktemp("original")
    broker = ServiceBroker(directory / "broker", Wanted("data", SIZE, "ext4", "/srv/data"))
    world = FileWorld(directory, broker, broker.records)
    settle(world)
    write_rows(world)
    yield world
    broker.close()


@pytest.fixture
def world(original: FileWorld) -> Iterator[FileWorld]:
    """Return a machine whose volume has rows in it; its disk is as it was before each test."""
    original.power_cut()
    disk = original.disk(original.layout[0])
    held = disk.read_bytes()
    yield original
    disk.write_bytes(held)
    for file in overwriting.saved(original.directory, original.layout[0].volume):
        file.unlink()


def bench(world: FileWorld, broker: Any = None) -> Bench:
    directory = world.directory
    return Bench(broker or world.broker, Files(world), BOOT, directory, directory / "run", 1.7e9)


def restore(world: FileWorld, *, sure: bool = True, broker: Any = None) -> Restored:
    return restoration.restore(bench(world, broker), "data", sure=sure)


def refused(world: FileWorld, problem: Problem, *, sure: bool = True, broker: Any = None) -> KeybrokerError:
    """Hold that nothing is restored, and nothing written."""
    before = fingerprint(world)
    with pytest.raises(KeybrokerError) as caught:
        restore(world, sure=sure, broker=broker)
    assert caught.value.problem is problem, caught.value.detail
    assert fingerprint(world) == before
    return caught.value


def fingerprint(world: FileWorld) -> str:
    return hashlib.sha256(world.disk(world.layout[0]).read_bytes()).hexdigest()


def write(world: FileWorld, offset: int, held: bytes) -> None:
    with world.disk(world.layout[0]).open("r+b") as disk:
        disk.seek(offset)
        disk.write(held)


def image(world: FileWorld) -> copy.HeaderImage:
    return copy.unpack(world.broker.header_copy(world.layout[0].volume).copy)


def lose_everything(world: FileWorld) -> None:
    write(world, 0, bytes(4 * MIB))


def lose_both_copies(world: FileWorld) -> None:
    write(world, 0, os.urandom(32 << 10))


def lose_the_keyslot(world: FileWorld) -> None:
    write(world, 32 << 10, os.urandom(256 << 10))


def lose_the_first_copy_to_a_boot_loader(world: FileWorld) -> None:
    write(world, 0, b"\xeb\x63\x90".ljust(512, b"\1"))


def be_formatted(world: FileWorld) -> None:
    disk = world.disk(world.layout[0])
    quick = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    cryptsetup("luksFormat", "-q", "--key-file", "-", *quick, disk)


def become_a_filesystem(world: FileWorld) -> None:
    subprocess.run(["mkswap", world.disk(world.layout[0])], check=True, capture_output=True)


LOSSES: Final[list[Callable[[FileWorld], None]]] = [
    lose_everything,
    lose_both_copies,
    lose_the_keyslot,
    lose_the_first_copy_to_a_boot_loader,
    be_formatted,
    become_a_filesystem,
]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_header_that_was_destroyed_comes_back_and_the_rows_with_it(
    world: FileWorld, lose: Callable[[FileWorld], None]
) -> None:
    record = world.layout[0]
    lose(world)
    (outcome,) = run(world).outcomes
    assert outcome.error is not None
    if lose not in (be_formatted, lose_the_keyslot):
        assert outcome.error.hint is not None
        assert "restore-header data" in outcome.error.hint
    lost = world.disk(record).read_bytes()[: 4 * MIB]
    told = refused(world, Problem.USAGE, sure=False)
    assert "nothing was written" in told.detail
    assert told.hint is not None
    assert "restore-header data --yes" in told.hint
    done = restore(world)
    assert (done.version, done.keyslot) == (1, 0)
    assert done.saved is not None
    assert done.saved.read_bytes() == lost
    assert stat.S_IMODE(done.saved.stat().st_mode) == 0o600
    assert stat.S_IMODE(done.saved.parent.stat().st_mode) == 0o700
    for group in overwriting.writes(image(world)):
        for offset, held in group:
            assert world.disk(record).read_bytes()[offset : offset + len(held)] == held
    settle(world)
    assert rows(world) == ROWS


def test_a_header_that_is_good_is_not_written_over(world: FileWorld) -> None:
    before = fingerprint(world)
    done = restore(world)
    assert (done.version, done.saved) == (1, None)
    assert fingerprint(world) == before
    assert "nothing was written" in restoration.told(done)[0]


def test_a_damaged_copy_beside_a_good_one_is_mended_from_the_very_same_header(world: FileWorld) -> None:
    write(world, 448, b"\x55" * 64)
    record = world.layout[0]
    examined = examine(record_of(world), Files(world))
    assert examined is not None
    assert examined.health == "degraded"
    assert restore(world).saved is not None
    with world.open(record) as disk:
        assert not read_header(disk.read, SIZE).degraded


def cuts() -> list[int]:
    """Return after how many of the sectors that are written to cut, the last copy's all of them."""
    return [0, 1, 200, 503, 504, 510, 535, 536, 537, 545, 567]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_write_that_is_cut_anywhere_is_finished_by_the_next_run(
    world: FileWorld, lose: Callable[[FileWorld], None]
) -> None:
    record = world.layout[0]
    disk = world.disk(record)
    lose(world)
    lost = disk.read_bytes()
    sectors = [
        (offset + at, held[at : at + SECTOR])
        for group in overwriting.writes(image(world))
        for offset, held in group
        for at in range(0, len(held), SECTOR)
    ]
    assert len(sectors) == 568
    for cut in cuts():
        disk.write_bytes(lost)
        for file in overwriting.saved(world.directory, record.volume):
            file.unlink()
        with world.open(record) as held:
            overwriting.save(world.directory, record.volume, held.fd, image(world), now=1.7e9)
        for offset, sector in sectors[:cut]:
            write(world, offset, sector)
        done = restore(world)
        (saved,) = overwriting.saved(world.directory, record.volume)
        assert saved.read_bytes() == lost[: 4 * MIB], "the file that has what was there is gone"
        if done.saved is not None:
            assert done.saved == saved
        settle(world)
        world.power_cut()
        assert rows(world) == ROWS


def sectors_of(world: FileWorld) -> list[list[tuple[int, bytes]]]:
    """Return the sectors of each group that is written; what is in one may reach the medium in any order."""
    return [
        [
            (offset + at, held[at : at + SECTOR])
            for offset, held in group
            for at in range(0, len(held), SECTOR)
        ]
        for group in overwriting.writes(image(world))
    ]


def cut_in(world: FileWorld, group: int, chance: random.Random) -> None:
    """Begin to restore as the verb does, and lose power with any sectors of a group on the medium."""
    with world.open(world.layout[0]) as held:
        overwriting.save(world.directory, world.layout[0].volume, held.fd, image(world), now=1.7e9)
    groups = sectors_of(world)
    for sectors in (*groups[:group], chance.sample(groups[group], chance.randrange(len(groups[group])))):
        for offset, sector in sectors:
            write(world, offset, sector)


GROUPS: Final = 3


@pytest.mark.parametrize("lose", LOSSES)
def test_two_cuts_in_a_row_are_finished_by_the_next_run_and_lose_nothing_that_was_saved(
    world: FileWorld, lose: Callable[[FileWorld], None]
) -> None:
    disk, chance = world.disk(world.layout[0]), random.Random(20261126)
    lose(world)
    lost = disk.read_bytes()
    for first, second in itertools.product(range(GROUPS), repeat=2):
        disk.write_bytes(lost)
        for file in overwriting.saved(world.directory, world.layout[0].volume):
            file.unlink()
        for group in (first, second):
            world.power_cut()
            run(world)
            cut_in(world, group, chance)
        done = restore(world)
        (saved,) = overwriting.saved(world.directory, world.layout[0].volume)
        assert saved.read_bytes() == lost[: 4 * MIB], "the file that has what was there is gone"
        assert done.saved in (saved, None)
        settle(world)
        world.power_cut()
        assert rows(world) == ROWS


def test_the_last_two_that_were_written_over_are_kept(world: FileWorld) -> None:
    kept = []
    for mark in (b"first", b"second", b"third"):
        write(world, 0, mark * 4096)
        kept.append(restore(world).saved)
    assert overwriting.saved(world.directory, world.layout[0].volume) == kept[1:]


class Told:
    """A broker that says what a test wants said."""

    def __init__(self, world: FileWorld, *, held: Secret | None = None, **changes: Any) -> None:
        self._broker, self._held, self._changes = world.broker, held, changes

    def unlock(self, request: UnlockRequest) -> UnlockReply:
        reply = self._broker.unlock(request)
        grants = tuple(
            replace(grant, record=replace(grant.record, **self._changes)) for grant in reply.grants
        )
        return replace(reply, grants=grants)

    def header_copy(self, volume: VolumeId) -> HeaderCopy:
        said = self._broker.header_copy(volume)
        return replace(said, copy=self._held) if self._held is not None else said


def another_header(world: FileWorld) -> Secret:
    """Return the copy of a header of another volume key."""
    made = world.world().disks.compose(world.layout[0], Secret(b"B" * 43))
    return made.copy


def test_a_copy_that_is_not_the_pinned_header_is_never_written(world: FileWorld) -> None:
    lose_everything(world)
    error = refused(world, Problem.HEADER_REFUSED, broker=Told(world, held=another_header(world)))
    assert "digest of the volume key" in error.detail
    refused(world, Problem.CORRUPT, broker=Told(world, held=Secret(b"KBH1 and something else")))


def test_a_header_in_the_middle_of_a_reencryption_is_not_written_over(world: FileWorld) -> None:
    record = world.layout[0]
    forged = Disk.of(world.disk(record))
    said = forged.json()
    said["config"]["requirements"] = {"mandatory": ["online-reencrypt-v2"]}
    write(world, 0, forged.with_json(said).start)
    assert "online-reencrypt" in refused(world, Problem.HEADER_REFUSED).detail


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"order": Order(1, "reencrypt", "begun")}, "has begun"),
        ({"stage": "deposited"}, "is deposited"),
        ({"stage": "foreign", "pin": None}, "is foreign"),
        ({"role": "former"}, "to be wiped"),
    ],
)
def test_a_volume_that_is_none_to_restore_is_refused(
    world: FileWorld, changes: dict[str, Any], said: str
) -> None:
    lose_everything(world)
    assert said in refused(world, Problem.CONFLICT, broker=Told(world, **changes)).detail


def test_a_header_that_the_broker_has_from_after_the_reencryption_is_restored(world: FileWorld) -> None:
    """The copy was left, and the order was not finished: nothing is under another key any more."""
    pin = record_of(world).pin
    assert pin is not None
    lose_everything(world)
    begun = Order(1, "reencrypt", "begun", pin.digest)
    assert restore(world, broker=Told(world, order=begun)).saved is not None
    world.power_cut()
    settle(world)
    assert rows(world) == ROWS


@pytest.mark.parametrize("first", [True, False])
def test_the_header_of_the_disk_that_holds_the_data_is_restored_while_the_one_it_left_waits(
    world: FileWorld, first: bool
) -> None:
    lose_everything(world)
    assert restore(world, broker=Moved(world, first)).record.role == "holder"


class Moved(Told):
    """A broker that also names the disk that the volume has left, before or behind it."""

    def __init__(self, world: FileWorld, first: bool) -> None:
        super().__init__(world)
        self._first = first

    def unlock(self, request: UnlockRequest) -> UnlockReply:
        reply = super().unlock(request)
        left = tuple(
            Grant(replace(grant.record, volume=VolumeId("kbv-" + "z" * 12), role="former"))
            for grant in reply.grants
        )
        return replace(reply, grants=left + reply.grants if self._first else reply.grants + left)


def test_a_disk_that_is_smaller_is_refused(world: FileWorld) -> None:
    record = record_of(world)
    assert record.device is not None
    larger = replace(record.device, size_bytes=SIZE + 1)
    lose_everything(world)
    refused(world, Problem.WRONG_DEVICE, broker=Told(world, device=larger))


def test_a_volume_that_nobody_knows_is_refused(world: FileWorld) -> None:
    with pytest.raises(KeybrokerError, match="knows no such volume"):
        restoration.restore(bench(world), "else", sure=True)


def record_of(world: FileWorld) -> Record:
    (grant,) = world.broker.unlock(BOOT.request(())).grants
    return grant.record


@pytest.mark.parametrize(
    ("lose", "health"),
    [(lose_everything, "lost"), (lose_both_copies, "lost"), (be_formatted, "refused")],
)
def test_status_and_doctor_say_that_a_header_is_gone_and_how_it_comes_back(
    world: FileWorld, lose: Callable[[FileWorld], None], health: str
) -> None:
    good = examine(record_of(world), Files(world))
    assert good is not None
    assert (good.health, good.detail) == ("good", "")
    lose(world)
    examined = examine(record_of(world), Files(world))
    assert examined is not None
    assert examined.health == health
    assert "keybroker-agent restore-header data" in examined.hint


def test_a_tampered_header_is_named_by_the_boot_that_refuses_it_and_by_status(world: FileWorld) -> None:
    forged = Disk.of(world.disk(world.layout[0]))
    said = forged.json()
    said["segments"]["0"]["encryption"] = "cipher_null-ecb"
    write(world, 0, forged.with_json(said).start)
    examined = examine(record_of(world), Files(world))
    assert examined is not None
    assert examined.health == "refused"
    assert "cipher_null" in examined.detail
    (outcome,) = run(world).outcomes
    assert outcome.error is not None
    assert outcome.error.problem is Problem.HEADER_REFUSED
    assert "cipher_null" in outcome.error.detail
    assert restore(world).saved is not None
    settle(world)
    assert rows(world) == ROWS
