"""A re-encryption that is cut among cryptsetup's last writes is completed to what cryptsetup makes of it.

Done by cryptsetup offline, on a file, and cut by strace at every other one of its last writes. The volume
keys are those of the beginning, so that the data of all cuts, completed, must be the data of the run that
was never cut.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from agent import ending
from agent.devices import BlockDevice, OpenDevice
from agent.luks import copy
from agent.luks.acceptance import judge
from agent.luks.completion import SALT_BYTES, completed, is_complete
from agent.luks.copy import Held
from agent.luks.cryptsetup import opens
from agent.luks.header import Header
from agent.luks.midway import new_digest
from agent.luks.mould import compose_in_place
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin, Profile, adopted_profile, first_profile
from keybroker.wire.records import Record
from keybroker.wire.secret import passphrase
from keybroker.wire.values import replace
from tests.crash import volumes
from tests.header.disks import MIB, OUR_TOKEN, PASSPHRASE, Disk, cryptsetup, import_token, luks_format
from tests.header.test_header_midway import INIT, OFFLINE, RESUME
from tests.header.test_header_midway import SIZE as MIDWAY_SIZE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="re-encrypting a file needs root")

XTS: Final = first_profile("aes-xts-plain64")
ADOPTED: Final = adopted_profile("aes-xts-plain64")
IN_PLACE_SIZE: Final = 20 * MIB
ADOPTED_SIZE: Final = 20 * MIB
IN_PLACE: Final = ("reencrypt", "-q", "--resume-only", *OFFLINE)
LAST: Final = tuple(range(-18, 1, 2))
"""At which of cryptsetup's writes it is cut, from its end: from before the last stretch is done on."""

LAST_OF_MANY: Final = (-30, -24, -20, -16, -12, -8, -4, 0)
"""The same where more keyslots are erased."""

CALLS: Final = "trace=write,pwrite64"


@dataclass(frozen=True)
class Work:
    """A re-encryption that has begun, and one that came to its end.

    Attributes:
        beginning: a file.
        resume: what carries it on.
        writes: of cryptsetup, to its end.
        data: offset and end of the data, in bytes, when all is done.
    """

    beginning: Path
    resume: tuple[str, ...]
    writes: int
    end: Disk
    data: tuple[int, int]
    record: Record

    @property
    def is_adopted(self) -> bool:
        """Say whether its header is a stranger's."""
        return self.record.profile == ADOPTED

    def judge(self, header: Header) -> str:
        """Say how far a header is."""
        return judge(header, self.record, self.beginning.stat().st_size)

    def cut(self, at: int, path: Path) -> Disk:
        shutil.copyfile(self.beginning, path)
        kill = f"inject=write,pwrite64:signal=KILL:when={at}"
        strace("/dev/null", "-e", kill, "cryptsetup", *self.resume, str(path))
        return Disk.of(path)

    @property
    def end_path(self) -> Path:
        return self.beginning.with_name("end.img")

    def content(self, path: Path) -> bytes:
        return path.read_bytes()[slice(*self.data)]


def strace(output: str, *words: str) -> None:
    subprocess.run(
        ["strace", "-f", "-o", output, "-e", CALLS, *words],
        input=PASSPHRASE,
        capture_output=True,
        check=False,
    )


def to_the_end(path: Path, resume: tuple[str, ...]) -> int:
    """Carry on to the end; return how many writes it took."""
    trace = path.with_suffix(".trace")
    strace(str(trace), "cryptsetup", *resume, str(path))
    return len(re.findall(r"(?m)^\d+ +p?write(?:64)?\(", trace.read_text()))


def make_work(kind: str, directory: Path) -> Work:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    path = directory / "end.img"
    beginning, resume, data, of = KINDS[kind](directory)
    shutil.copyfile(beginning, path)
    writes = to_the_end(path, resume)
    return Work(beginning, resume, writes, Disk.of(path), data, of)


@pytest.fixture(scope="module", params=["another volume key", "in place", "adopted"])
def work(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Work:
    return make_work(request.param, tmp_path_factory.mktemp("completion"))


Made = tuple[Path, tuple[str, ...], tuple[int, int], Record]


def _another_key(directory: Path) -> Made:
    base = luks_format(
        directory / "base.img", MIDWAY_SIZE, "--luks2-metadata-size", "16k", "--luks2-keyslots-size", "992k",
        "--offset", "2048", "--sector-size", "512",
    )  # fmt: skip
    import_token(base, OUR_TOKEN)
    pin = Disk.of(base).header().pin
    cryptsetup(*INIT, base)
    order = Order(1, "reencrypt", "begun", new_digest(Disk.of(base).header()))
    return base, RESUME, (MIB, MIDWAY_SIZE), _record(pin, order)


def _in_place(directory: Path) -> Made:
    image = compose_in_place(
        directory, passphrase(PASSPHRASE),
        uuid="0f2d3c1a-5b6e-4d7c-8f90-a1b2c3d4e5f6", label="kb-inplace", profile=XTS, sector_size=512,
        size_bytes=IN_PLACE_SIZE,
    )  # fmt: skip
    base = directory / "base.img"
    base.write_bytes(image.read(0, 4 * MIB) + bytes(range(256)) * ((IN_PLACE_SIZE - 4 * MIB) // 256))
    pin = Disk.of(base).header().pin
    order = Order(1, "encrypt", "begun", pin.digest)
    return base, IN_PLACE, (4 * MIB, IN_PLACE_SIZE - 4 * MIB), _record(pin, order)


def _adopted(directory: Path) -> Made:
    """A header of 16 MiB with larger copies, a keyslot of somebody else's, and that one's token."""
    base = luks_format(directory / "base.img", ADOPTED_SIZE, "--luks2-metadata-size", "32k")
    theirs = directory / "theirs"
    theirs.write_bytes(b"a recovery passphrase")
    argon = ("--pbkdf", "argon2id", "--pbkdf-memory", "64", "--pbkdf-force-iterations", "4")
    cryptsetup("luksAddKey", "-q", "--key-file", "-", *argon, "--pbkdf-parallel", "1", base, theirs)
    import_token(base, OUR_TOKEN)
    import_token(base, {"type": "clevis", "keyslots": ["1"], "jwe": {}})
    pin = Disk.of(base).header().pin
    cryptsetup(*INIT, base)
    order = Order(1, "reencrypt", "begun", new_digest(Disk.of(base).header()), drop_foreign=True)
    return base, RESUME, (16 * MIB, ADOPTED_SIZE), _record(pin, order, ADOPTED)


KINDS: Final = {"another volume key": _another_key, "in place": _in_place, "adopted": _adopted}


def _record(pin: Pin, order: Order, profile: Profile = XTS) -> Record:
    return replace(volumes.record(), luks_uuid=pin.uuid, profile=profile, pin=pin, order=order)


@pytest.fixture(scope="module")
def complete(work: Work, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Every cut that left a re-encryption complete, by the write at which it was cut."""
    directory, found = tmp_path_factory.mktemp("complete"), {}
    states = []
    for at in (work.writes + number for number in (LAST_OF_MANY if work.is_adopted else LAST)):
        path = directory / f"{at}.img"
        header = work.cut(at, path).header()
        state = work.judge(header)
        states.append("complete" if is_complete(header) else state)
        if states[-1] == "complete":
            found[at] = path
    assert states[0] == "midway", "the first of these cuts is to be before all is done"
    assert states[-1] == "done"
    assert len(found) >= 3, states
    return found


def salts() -> tuple[bytes, bytes]:
    return os.urandom(SALT_BYTES), os.urandom(SALT_BYTES)


def copies(complete: dict[int, Path], tmp_path: Path) -> Iterator[tuple[Path, Header]]:
    for path in complete.values():
        copy = tmp_path / path.name
        shutil.copyfile(path, copy)
        yield copy, Disk.of(copy).header()
        copy.unlink()


def test_it_is_completed_to_what_cryptsetup_makes_of_it(
    work: Work, complete: dict[int, Path], tmp_path: Path
) -> None:
    for path, header in copies(complete, tmp_path):
        before = path.read_bytes()
        made = completed(header, salts=salts())
        with path.open("r+b") as file:
            ending.write(file.fileno(), made, header)
        done = Disk.of(path)
        assert done.json() == work.end.json()
        after = done.header()
        assert work.judge(after) == "done"
        assert not is_complete(after)
        assert (after.degraded, after.sequence) == (False, header.sequence + 1)
        assert work.content(path) == work.content(work.end_path)
        held = path.read_bytes()
        for start, length in made.erased:
            assert held[start : start + length] != before[start : start + length]
        cryptsetup("open", "--test-passphrase", "--disable-locks", "--key-file", "-", path)


def test_what_is_erased_is_what_nothing_leads_to_any_more(work: Work, complete: dict[int, Path]) -> None:
    """Not a byte of the data, of a keyslot that stays, or of the metadata."""
    for path in complete.values():
        header = Disk.of(path).header()
        made = completed(header, salts=salts())
        kept = [(0, 2 * header.header_bytes), work.data]
        kept += [(slot.area.offset, slot.area.end) for slot in work.end.header().keyslots.values()]
        for start, length in made.erased:
            assert all(start + length <= low or high <= start for low, high in kept)


def test_a_cut_of_the_completion_is_completed_by_the_same_call(
    work: Work, complete: dict[int, Path], tmp_path: Path
) -> None:
    for path, header in copies(complete, tmp_path):
        made = completed(header, salts=salts())
        before = Disk.of(path)
        order = ending.order(made, header, before.start[: len(header.first)])
        for shares in ((0.3, 0), (0.7, 0), (1, 0), (1, 0.3), (1, 0.7)):
            disk = before
            for (at, held), share in zip(order, shares, strict=True):
                disk = disk.with_bytes(at, held[: int(share * len(held)) // 512 * 512])
            torn = disk.header()
            is_written = torn.sequence > header.sequence
            assert work.judge(torn) == ("done" if is_written else "midway")
            assert is_complete(torn) == (not is_written)
            assert is_written or shares[0] < 1


def device(path: Path, fd: int) -> OpenDevice:
    disk = BlockDevice(path, "", path.stat().st_size, 512, 512, (7, 0), read_only=False)
    return OpenDevice(disk, fd, exclusive=False)


@contextmanager
def writes_fail_from(offset: int) -> Iterator[None]:
    """Have every write fail that reaches beyond an offset, as of a disk with bad sectors there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (offset, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def check_opens(known: Record, held: Held, work: Work) -> None:
    assert judge(held.header, known, work.beginning.stat().st_size) == "done"
    fd = copy.memfd(held.image)
    try:
        (keyslot,) = held.header.keyslots
        assert opens(fd, keyslot=keyslot, key=passphrase(PASSPHRASE))
    finally:
        os.close(fd)


@pytest.mark.parametrize("offset", [0, 20 << 10, 300 << 10])
def test_where_the_disk_takes_no_write_it_is_opened_from_memory_and_completed_later(
    work: Work, complete: dict[int, Path], tmp_path: Path, offset: int
) -> None:
    """In place not: what is erased there is at the end of the disk, which the volume comes to reach."""
    path, held = next(copies(complete, tmp_path))
    with path.open("r+b") as file:
        disk = device(path, file.fileno())
        found = None
        with writes_fail_from(offset):
            if held.metadata.final is not None:
                with pytest.raises(OSError, match="File too large"):
                    ending.whole(work.record, disk)
            else:
                found = ending.whole(work.record, disk)
        if found is not None:
            check_opens(*found, work)
        assert work.judge(Disk.of(path).header()) == "midway"
        assert work.content(path) == work.content(work.end_path)
        found = ending.whole(work.record, disk)
    assert found is not None
    check_opens(*found, work)
    assert work.judge(Disk.of(path).header()) == "done"


def test_where_the_broker_does_not_know_the_volume_key_it_is_opened_and_nothing_is_erased(
    work: Work, complete: dict[int, Path], tmp_path: Path
) -> None:
    """The broker was set back to before it was told; the next change tells it, and completes the header."""
    order = work.record.order
    assert order is not None
    if order.kind == "encrypt":
        return  # it has the digest before the disk has the header
    forgot = replace(work.record, order=replace(order, digest=None))
    for path, header in copies(complete, tmp_path):
        before = path.read_bytes()
        with path.open("r+b") as file:
            found = ending.whole(forgot, device(path, file.fileno()))
        assert path.read_bytes() == before
        assert found is not None
        assert found[0].order == replace(order, digest=new_digest(header))
        check_opens(*found, work)


def test_a_first_copy_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"LUKS")
    fd = os.open(path, os.O_WRONLY)  # not a byte of it can be read
    try:
        assert ending.found(fd, 4) == b""
    finally:
        os.close(fd)


def test_what_is_not_complete_is_not_completed(work: Work) -> None:
    for disk in (Disk.of(work.beginning), work.end):
        assert not is_complete(disk.header())
        with pytest.raises(KeybrokerError) as refused:
            completed(disk.header(), salts=salts())
        assert refused.value.problem is Problem.CONFLICT


def test_a_hot_stretch_or_a_second_one_is_not_complete(work: Work, complete: dict[int, Path]) -> None:
    disk = Disk.of(next(iter(complete.values())))
    hot = disk.json()
    hot["segments"]["0"]["flags"] = ["in-reencryption"]
    assert not is_complete(disk.with_json(hot).header())
    two = disk.json()
    number = str(len(two["segments"]))
    two["segments"][number] = two["segments"]["0"]
    next(one for one in two["digests"].values() if "0" in one["segments"])["segments"].append(number)
    assert not is_complete(disk.with_json(two).header())


def test_cryptsetup_itself_spoils_it_or_fails(work: Work, complete: dict[int, Path], tmp_path: Path) -> None:
    """Why it is never asked to. Should a newer one do better, this test may go, and nothing else."""
    for path, header in [] if work.is_adopted else copies(complete, tmp_path):
        done = subprocess.run(
            ["cryptsetup", *work.resume, str(path)], input=PASSPHRASE, capture_output=True, check=False
        )
        if done.returncode == 0:
            assert work.content(path) != work.content(work.end_path), header.sequence
