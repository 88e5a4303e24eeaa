"""A stretch that was in work when the power went is settled, and no cut meanwhile costs a byte.

The headers in which one is hot are cryptsetup's own, offline on a file, cut by strace among its writes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from agent import ending
from agent.devices import BlockDevice, OpenDevice
from agent.luks import copy, cryptsetup
from agent.luks.completion import is_complete
from agent.luks.hotzone import hot, settled
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import passphrase
from tests.header.disks import PASSPHRASE, Disk
from tests.header.disks import cryptsetup as run_cryptsetup
from tests.header.test_header_completion import Work, make_work, salts, strace, to_the_end

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="re-encrypting a file needs root")

REPAIR: Final = ("repair", "-q", "--key-file", "-")


@pytest.fixture(scope="module", params=["another volume key", "in place", "adopted"])
def work(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Work:
    return make_work(request.param, tmp_path_factory.mktemp("hotzone"))


@pytest.fixture(scope="module")
def states(work: Work, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Each header that a run leaves on its last stretches, by its sequence; what is hot is half done."""
    directory, found = tmp_path_factory.mktemp("states"), dict[int, Path]()
    for at in (1, 7, *range(work.writes - 40, work.writes - 10, 2)):
        path = directory / f"{at}.img"
        if found.setdefault(work.cut(at, path).header().sequence, path) != path:
            path.unlink()
    for number in hots(found):
        header = Disk.of(found[number]).header()
        stretch = hot(header)
        assert stretch is not None
        assert stretch.size is not None
        half = slice(stretch.offset, stretch.offset + stretch.size // 1024 * 512)
        held = bytearray(found[number].read_bytes())
        held[: header.header_bytes] = header.first.ljust(header.header_bytes, b"\0")
        held[header.header_bytes : 2 * header.header_bytes] = header.second.ljust(header.header_bytes, b"\0")
        held[half] = work.end_path.read_bytes()[half]
        found[number].write_bytes(held)
    return found


def hots(states: dict[int, Path]) -> list[int]:
    return [number for number, path in sorted(states.items()) if hot(Disk.of(path).header()) is not None]


def settle(work: Work, path: Path) -> bool:
    with path.open("r+b") as file:
        fd = file.fileno()
        device = BlockDevice(path, "", path.stat().st_size, 512, 512, (7, 0), read_only=False)
        disk = OpenDevice(device, fd, exclusive=False)

        def recover(header_fd: int) -> None:
            assert cryptsetup.recover(disk, header_fd=header_fd, key=passphrase(PASSPHRASE))

        done = ending.settle(work.record, disk, recover)
        return ending.complete(work.record, disk) or done


def finish(work: Work, path: Path) -> None:
    """Go on to the end as the agent does."""
    settle(work, path)
    if work.judge(Disk.of(path).header()) == "midway":
        run_cryptsetup(*work.resume, path)


def test_nothing_is_hot_afterwards_and_the_data_comes_out_whole(
    work: Work, states: dict[int, Path], tmp_path: Path
) -> None:
    assert len(hots(states)) >= 2
    for number in hots(states):
        path = tmp_path / f"{number}.img"
        shutil.copyfile(states[number], path)
        assert settle(work, path)
        header = Disk.of(path).header()
        assert hot(header) is None
        assert not header.degraded
        assert header.sequence > number
        finish(work, path)
        assert work.judge(Disk.of(path).header()) == "done"
        assert work.content(path) == work.content(work.end_path)
        assert not settle(work, path)


def test_it_is_settled_to_a_header_that_cryptsetup_itself_writes(work: Work, states: dict[int, Path]) -> None:
    """In place the one before the stretch, otherwise the one after it."""
    for number in hots(states):
        header = Disk.of(states[number]).header()
        made = settled(header, salts=salts())
        disk = Disk.of(states[number]).with_bytes(0, made.first).with_bytes(header.header_bytes, made.second)
        step = -1 if header.metadata.final is not None else 1
        assert said(disk) == said(Disk.of(states[number + step]))


def said(disk: Disk) -> Any:
    """Return what a header says; not in which order it says whose a segment is, or what comes afterwards."""
    value = disk.json()
    backups = {n: each["flags"][0] for n, each in value["segments"].items() if is_backup(each)}
    value["segments"] = {backups.get(n, n): each for n, each in value["segments"].items()}
    for digest in value["digests"].values():
        digest["segments"] = {backups.get(n, n) for n in digest["segments"]}
        if not digest["segments"]:
            del (
                digest["salt"],
                digest["digest"],
                digest["iterations"],
            )  # of the re-encryption's own keyslot: each run makes it anew
    return value


def is_backup(segment: dict[str, Any]) -> bool:
    return any(flag.startswith("backup-") for flag in segment.get("flags", ()))


def test_a_power_cut_while_the_last_stretch_is_settled_costs_nothing(
    work: Work, states: dict[int, Path], tmp_path: Path
) -> None:
    """cryptsetup is killed at each of its writes, and the write of the header is torn."""
    last = states[max(hots(states))]
    header = Disk.of(last).header()
    made = settled(header, salts=salts())
    path = tmp_path / "cut.img"
    for at in range(1, 160, 13) if work.is_adopted else range(1, 30):
        shutil.copyfile(last, path)
        if not cut_recovery(work, path, at):
            break
        assert Disk.of(path).header().first == header.first
        finish(work, path)
        assert work.content(path) == work.content(work.end_path), at
    else:
        pytest.fail("it was never through")
    copies = ending.order(made, header, Disk.of(path).start[: len(header.first)])
    for shares in ((0.1, 0), (0.3, 0), (1, 0), (1, 0.3)):
        disk = Disk.of(path)
        for (start, held), share in zip(copies, shares, strict=True):
            disk = disk.with_bytes(start, held[: int(share * len(held)) // 512 * 512])
        start, held = copies[0]
        is_written = disk.read(start, len(held)) == held  # of a larger copy, most is zero before and after
        assert (hot(disk.header()) is None) == is_written
        assert is_written or shares[0] < 1
        assert work.judge(disk.header()) == "midway"


def test_a_header_that_comes_without_its_checksums_is_taken_back(
    work: Work, states: dict[int, Path], tmp_path: Path
) -> None:
    """Of what was written between two flushes, the first copy is on the medium, and all else is not."""
    number, path = max(hots(states)), tmp_path / "cut.img"
    header = Disk.of(states[number]).header()
    held = bytearray(states[number - 1].read_bytes())
    earlier = Disk.of(states[number - 1]).header()
    held[: header.header_bytes] = header.first.ljust(header.header_bytes, b"\0")
    held[header.header_bytes : 2 * header.header_bytes] = earlier.second.ljust(header.header_bytes, b"\0")
    path.write_bytes(held)
    assert Disk.of(path).header().sequence == number
    assert settle(work, path)
    after = Disk.of(path).header()
    assert hot(after) is None
    assert (after.sequence, after.degraded) == (number + 1, False)
    finish(work, path)
    assert work.content(path) == work.content(work.end_path)


def cut_recovery(work: Work, path: Path, at: int) -> bool:
    """Kill cryptsetup at its n-th write; say whether it had so many."""
    if work.record.order is not None and work.record.order.kind == "encrypt":
        return False  # there is none in it
    held, draft = path.read_bytes(), path.with_suffix(".draft")
    fd = copy.draft(Disk.of(path).header(), lambda offset, length: held[offset : offset + length])
    draft.write_bytes(os.pread(fd, len(held), 0))
    os.close(fd)
    kill = f"inject=write,pwrite64:signal=KILL:when={at}"
    strace("/dev/null", "-e", kill, "cryptsetup", *REPAIR, "--header", str(draft), str(path))
    return hot(Disk.of(draft).header()) is not None or is_complete(Disk.of(draft).header())


def test_cryptsetup_itself_spoils_it_or_fails(work: Work, states: dict[int, Path], tmp_path: Path) -> None:
    """Why it is never asked to. Should a newer one do better, this test may go, and nothing else."""
    last, path = states[max(hots(states))], tmp_path / "cut.img"
    shutil.copyfile(last, path)
    if work.is_adopted:
        return  # it is cryptsetup all the same, and takes it longer
    spoilt = 0
    for at in range(1, to_the_end(path, REPAIR)):
        shutil.copyfile(last, path)
        strace(
            "/dev/null",
            "-e",
            f"inject=write,pwrite64:signal=KILL:when={at}",
            "cryptsetup",
            *REPAIR,
            str(path),
        )
        header = Disk.of(path).header()
        if hot(header) is None:
            continue
        failed = run_cryptsetup(*REPAIR, path, expect=None).returncode != 0
        spoilt += failed or work.content(path) != work.content(work.end_path)
    assert spoilt >= 3


def test_a_keyslot_that_cannot_be_read_is_none_and_the_checksums_must_be_readable(
    work: Work, states: dict[int, Path]
) -> None:
    path = states[max(hots(states))]
    header, held = Disk.of(path).header(), path.read_bytes()
    for keyslot in header.keyslots.values():

        def read(offset: int, length: int, bad: int = keyslot.area.offset) -> bytes:
            if offset == bad:
                raise OSError(5, "Input/output error")
            return held[offset : offset + length]

        if keyslot.kdf is None:
            with pytest.raises(KeybrokerError):
                copy.draft(header, read)
            continue
        fd = copy.draft(header, read)
        assert not any(os.pread(fd, keyslot.area.size, keyslot.area.offset))
        os.close(fd)


def test_what_nothing_is_in_work_of_is_not_settled(work: Work) -> None:
    for disk in (Disk.of(work.beginning), work.end):
        with pytest.raises(KeybrokerError) as refused:
            settled(disk.header(), salts=salts())
        assert refused.value.problem is Problem.CONFLICT
