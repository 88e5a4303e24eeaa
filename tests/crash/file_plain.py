"""A plain disk of a real ext4, in a file: moved to an encrypted one, or encrypted where it is.

The shelf, the inscription, the settling of a stretch and the wipe are the agent's own, on the file, which
cryptsetup encrypts offline. What would be read through device-mapper is worked out from the header on the
disk, by a program that shares no code with cryptsetup.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Keys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from agent import ending, plain, shelf
from agent.change import shelving, wipe
from agent.change.headers import MachineHeaders
from agent.change.workshop import Broker as ChangeBroker
from agent.change.workshop import Watch, Wiped, Workshop
from agent.devices import OpenDevice
from agent.ground import SUPERBLOCK_BYTES, taken_bytes
from agent.luks import copy
from agent.luks.header import read_header
from agent.plan import provision, steps
from agent.plan.situation import Content, Ground, Mapping
from agent.process import run
from agent.shelf import FRONT
from agent.world import Broker, Composed, Sighting, World
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB
from keybroker.wire.records import Record
from keybroker.wire.reports import Progress
from keybroker.wire.secret import Secret
from tests.crash import file_legs, file_world
from tests.crash.file_legs import FileLegs, FileWiping, MovedFiles
from tests.crash.file_reencryption import OFFLINE, FileReencryption

SECTOR: Final = 512
FILESYSTEM: Final = 8 * MIB
"""How large the ext4 on a plain disk is; the rest of the disk is free."""

KILLED_AT: Final = (5, 17, 25, 33, 21, 13, 35)
"""At which of its writes cryptsetup is killed, one after the other: in each kind of what it leaves behind."""


def make_plain(path: Path, size: int) -> bytes:
    """Make a disk with an ext4 that leaves room behind it, and return what the ext4 is."""
    inside = path.with_suffix(".files")
    inside.mkdir()
    chance = random.Random(20261126)
    for number in range(4):
        (inside / f"table-{number}").write_bytes(chance.randbytes(chance.randrange(MIB)))
    path.write_bytes(bytes(size - 2 * FRONT) + chance.randbytes(2 * FRONT))
    command = ["mkfs.ext4", "-q", "-F", "-b", "1024", "-d", str(inside), str(path), f"{FILESYSTEM >> 10}k"]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(inside)
    return path.read_bytes()[:FILESYSTEM]


class PlainFiles(MovedFiles):
    """Disks in a directory, the first of which is plain.

    Attributes:
        cuts: how many times something was left in part; it says where the next one is cut.
        keys: what the broker has, for whoever must decrypt.
        content: the filesystem, as it was written last.
    """

    def __init__(self, directory: Path, broker: Broker, record: Record) -> None:
        self.plain_serial = record.serial
        self.cuts = 0
        self.keys: Callable[[], Keys[KeyVersion, Secret]] = dict
        super().__init__(directory, broker, [record])
        self.content = make_plain(self.disk(record), record.size_bytes)

    def inside(self, record: Record) -> Path:
        return self.disk(record) if record.serial == self.plain_serial else super().inside(record)

    def attach(self, record: Record) -> None:
        super().attach(record)
        os.truncate(self.inside(record), record.size_bytes - FRONT)

    def world(self) -> World:
        return World(self.broker, _Disks(self), _Mappings(self), _Filesystems(self))

    def workshop(self, broker: ChangeBroker) -> Workshop:
        headers = MachineHeaders(self, self.directory / "run")
        return Workshop(
            self.world(), broker, headers, _Legs(self), file_legs._Sizes(), _Wiping(self),
            _Encryption(self), FileShelving(self),
        )  # fmt: skip

    def is_alike(self, one: Record, other: Record) -> bool:
        held = [self.inside(each).read_bytes() for each in (one, other)]
        least = min(map(len, held))
        return held[0][:least] == held[1][:least]

    def duplicate(self, source: Record, target: Record) -> None:
        held = self.inside(source).read_bytes()
        with self.inside(target).open("r+b") as file:
            file.write(held)
        self.leave_a_trace(target)

    # what a database sees

    def read(self, record: Record) -> bytes:
        """Return all of the filesystem, as it is read through what stands under the stable name."""
        with self.inside(record).open("rb") as disk:
            held = disk.read()
        if record.serial != self.plain_serial or record.is_bare:
            return held[:FILESYSTEM]
        found = bytearray()
        for begin, end, place, is_encrypted in self._stretches(record):
            piece = held[place : place + end - begin]
            found += self._crypt(record, begin, piece, encrypt=False) if is_encrypted else piece
        return bytes(found[:FILESYSTEM])

    def write(self, record: Record, at: int, held: bytes) -> None:
        """Write a sector of the filesystem, through the same."""
        self.content = self.content[:at] + held + self.content[at + SECTOR :]
        if record.serial == self.plain_serial and not record.is_bare:
            (found,) = [each for each in self._stretches(record) if each[0] <= at < each[1]]
            begin, _, place, is_encrypted = found
            sector = self._crypt(record, at, held, encrypt=True) if is_encrypted else held
            put(self.disk(record), place + at - begin, sector)
            return
        for leg in self.legs.get(record.name, (record,)):
            put(self.inside(leg), at, held)

    def _stretches(self, record: Record) -> Iterator[tuple[int, int, int, bool]]:
        """Yield where in the data something begins and ends, where on the disk, and whether encrypted."""
        at = 0
        for segment in self.luks(record).segments.values():
            if not segment.is_backup:
                end = at + (FILESYSTEM if segment.size is None else segment.size)
                yield at, end, segment.offset, segment.is_encrypted
                at = end

    def _crypt(self, record: Record, begin: int, held: bytes, *, encrypt: bool) -> bytes:
        key, found = algorithms.AES(self.volume_key(record)), bytearray()
        for at in range(0, len(held), SECTOR):
            cipher = Cipher(key, modes.XTS(((begin + at) // SECTOR).to_bytes(16, "little")))
            way = cipher.encryptor() if encrypt else cipher.decryptor()
            found += way.update(held[at : at + SECTOR])
        return bytes(found)

    def volume_key(self, record: Record) -> bytes:
        """Return the volume key, by a key of the broker's.

        Raises:
            KeybrokerError: LOCKED_OUT.
        """
        given, to = self.directory / "passphrase", self.directory / "volume-key"
        for key in self.keys().values():
            given.write_bytes(key.reveal())
            done = subprocess.run(
                ["cryptsetup", "luksDump", "--dump-volume-key", "--volume-key-file", to, "--batch-mode",
                 "--disable-locks", "--key-file", given, self.disk(record)],
                check=False, capture_output=True,
            )  # fmt: skip
            if done.returncode == 0:
                held = to.read_bytes()
                to.unlink()
                return held
        raise KeybrokerError(Problem.LOCKED_OUT, f"{record.name}: no key opens it")

    # what is left of an effect that was cut

    def partial(self, step: type, *arguments: Any) -> None:
        """Do part of an effect, another part each time."""
        self.cuts += 1
        record = arguments[0] if arguments and isinstance(arguments[0], Record) else None
        if step is steps.Inscribe and record is not None and record.stage == "plain":
            self._inscribe_in_part(record, arguments[1])
        elif step is steps.Shelve and record is not None:
            with self.open(record) as disk:
                at = shelf.place(record.size_bytes)
                os.pwrite(disk.fd, disk.read(0, FRONT)[: FRONT * (self.cuts % 4) // 4], at)
        elif step is steps.Reencrypt and record is not None:
            self.kill_encryption(record, KILLED_AT[self.cuts % len(KILLED_AT)])
        elif step is steps.Wipe and record is not None and record.stage == "plain":
            with self.open(record) as disk:
                os.pwrite(disk.fd, bytes(record.size_bytes * (self.cuts % 4) // 4 or SECTOR), 0)
        elif step is steps.Copy and isinstance(arguments[1], Record):
            with self.inside(arguments[1]).open("r+b") as target:
                target.write(self.inside(arguments[0]).read_bytes()[: 6 << 20])
        else:
            super().partial(step, *arguments)

    def kill_encryption(self, record: Record, at: int) -> None:
        """Have cryptsetup encrypt, and kill it at its n-th write; it may be through by then."""
        _Encryption(self).killed(record, at)

    def _inscribe_in_part(self, record: Record, copied: Secret) -> None:
        """Leave some groups of what is written, and any sectors of the next one: a disk may reorder those."""
        image, chance = copy.unpack(copied), random.Random(self.cuts)
        header = read_header(image.read, image.total)
        with self.open(record) as disk:
            groups = shelf.writes(image, header)
            there = shelf.look(disk.read(0, FRONT), disk.read(layout_at(header), FRONT), image, header)
            if there == "changed":
                shelf.shelve(disk.fd, record.size_bytes)
            for number, group in enumerate(groups[: self.cuts % 4 + 1]):
                for at, held in group:
                    for offset in range(0, len(held), SECTOR):
                        if number < self.cuts % 4 or chance.random() < 0.5:
                            os.pwrite(disk.fd, held[offset : offset + SECTOR], at + offset)


def layout_at(header: Any) -> int:
    """Return where a header says that the beginning is kept."""
    from agent.luks.inplace import layout_of

    return layout_of(header).shelf


def put(path: Path, at: int, held: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(held)


class Places:
    """What opens the disks, for code of the agent's that asks to write."""

    def __init__(self, world: PlainFiles) -> None:
        self._world = world

    @contextmanager
    def open(self, record: Record, *, writable: bool = False) -> Iterator[OpenDevice]:
        with self._world.open(record) as disk:
            yield disk


class _Disks(file_world._Disks):
    _world: PlainFiles

    def compose(self, record: Record, key: Secret, sector_size: int | None = None) -> Composed:
        if record.stage != "plain":
            return super().compose(record, key, sector_size)
        return shelving.compose(record, key, Places(self._world), runtime=self._world.directory)  # type: ignore[arg-type]

    def inscribe(self, record: Record, copied: Secret) -> None:
        if record.stage != "plain":
            super().inscribe(record, copied)
            return
        assert not self._world.legs.get(record.name), "it is in use"
        shelving.inscribe(record, Places(self._world), copy.unpack(copied))  # type: ignore[arg-type]


class _Mappings(file_legs._Mappings):
    _world: PlainFiles

    def look(self, record: Record) -> Mapping:
        if record.stage == "plain" and record.role != "holder":
            return Mapping()
        if record.is_bare and not self._world.legs.get(record.name):
            return Mapping()
        return super().look(record)

    def open(self, record: Record, keys: Keys[KeyVersion, Secret], seen: Sighting) -> tuple[str, ...]:
        begun = record.order is not None and record.order.is_reencrypting
        if not begun or self.look(record).reach != "closed":
            return super().open(record, keys, seen)
        with self._world.open(record) as disk:
            settle(record, disk)
        self._world.volume_key(record)
        self._world.reach[record.volume] = Mapping("crypt")
        return ()

    def link(self, record: Record) -> None:
        if not record.is_bare:
            super().link(record)
            return
        assert _Filesystems(self._world).look(record).kind == record.filesystem
        self._world.legs[record.name] = (record,)
        self._world.reach[record.volume] = Mapping("open")


def settle(record: Record, disk: OpenDevice) -> None:
    """Do what ``agent.midway.open_midway`` does before cryptsetup opens it."""

    def recover(header_fd: int) -> None:
        raise AssertionError("in place nothing is brought to an end by cryptsetup")

    ending.settle(record, disk, recover)
    ending.complete(record, disk)


class _Filesystems(file_world._Filesystems):
    _world: PlainFiles

    def look(self, record: Record) -> Content:
        if not record.is_bare:
            return super().look(record)
        if self._world.legs.get(record.name) or record.volume in self._world.held:
            raise KeybrokerError(Problem.IN_USE, f"{record.name}: its disk is in use")
        with self._world.open(record) as disk:
            return Content(plain.recognised(disk), untouched=False, unfinished=False)

    def mount(self, record: Record) -> None:
        seen = self._world.directory / "seen"
        seen.write_bytes(self._world.read(record))
        run("e2fsck", "-fn", seen)
        self._world.mounted.add(record.volume)


class _Legs(FileLegs):
    _world: PlainFiles

    def drop(self, holder: Record, partner: Record) -> None:
        super().drop(holder, partner)
        if partner.stage == "plain":
            self._world.reach.pop(partner.volume, None)  # nothing but the stable device made it open

    def unlink(self, record: Record) -> None:
        if self._world.mounted & {leg.volume for leg in self._world.legs.get(record.name, ())}:
            raise KeybrokerError(Problem.IN_USE, f"{record.name}: is mounted")
        super().unlink(record)
        if record.stage == "plain":
            self._world.reach.pop(record.volume, None)


class _Wiping(FileWiping):
    _world: PlainFiles

    def wipe(self, record: Record, watch: Watch) -> Wiped:
        if record.stage != "plain":
            return super().wipe(record, watch)
        assert record.volume not in {leg.volume for legs in self._world.legs.values() for leg in legs}
        with self._world.open(record) as disk:
            moved = [path for path in self._world.directory.glob("*.inside") if path.stem != record.serial]
            kept = [wipe.signature(str(path))[1] for path in moved]
            wipe.check(record, disk, kept=kept)
            return wipe.wipe_all(disk, watch=watch)


class FileShelving:
    """``agent.change.shelving`` on a file: see ``agent.change.workshop.Shelving``; nobody else uses it."""

    def __init__(self, world: PlainFiles) -> None:
        self._world = world

    def look(self, record: Record, *, in_use: bool) -> Ground:
        with self._world.open(record) as disk:
            taken = taken_bytes(disk.read(0, SUPERBLOCK_BYTES))
            kept = not in_use and shelf.is_shelved(disk.fd, record.size_bytes)
            return Ground(plain.recognised(disk), disk.device.size_bytes, taken, kept)

    def check(self, record: Record) -> None:
        run("e2fsck", "-f", "-n", self._world.disk(record))

    def shelve(self, record: Record) -> None:
        assert not self._world.legs.get(record.name), "it is in use"
        with self._world.open(record) as disk:
            provision.check_plain(record, Content(plain.recognised(disk), untouched=False, unfinished=False))
            shelf.shelve(disk.fd, record.size_bytes)


class _Encryption(FileReencryption):
    """An encryption in place, offline."""

    _world: PlainFiles

    def run(
        self,
        record: Record,
        keys: Keys[KeyVersion, Secret],
        *,
        by: KeyVersion,
        progress: Callable[[Progress], None],
    ) -> None:
        with self._world.open(record) as disk:
            settle(record, disk)
        if self._state(record) == "midway":
            run(*self._words(record, keys[by]), timeout_seconds=60)
        assert self._state(record) == "done"

    def killed(self, record: Record, at: int) -> None:
        """Begin, and be killed at a write."""
        with self._world.open(record) as disk:
            settle(record, disk)
        if self._state(record) == "midway":
            (key,) = self._world.keys().values()
            kill = f"inject=write,pwrite64:signal=KILL:when={at}"
            words = ["strace", "-f", "-o", "/dev/null", "-e", "trace=write,pwrite64", "-e", kill]
            subprocess.run([*words, *self._words(record, key)], check=False, capture_output=True)

    def _words(self, record: Record, key: Secret) -> list[str]:
        given = self._world.directory / "passphrase"
        given.write_bytes(key.reveal())
        return [
            "cryptsetup",
            *OFFLINE,
            "--resume-only",
            "--key-file",
            str(given),
            str(self._world.disk(record)),
        ]
