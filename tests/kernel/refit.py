"""A machine whose plain disks are encrypted in place, and whose power goes at any moment: the part inside.

    python -m tests.kernel.refit DIRECTORY SEED

As ``tests.kernel.voyage``, on a plain ext4: one run is one boot, which opens the disk as it is or by whatever
header is on it, holds its content to what was acknowledged, and has it encrypted in place; in use before and,
from the header on, meanwhile. Then the disk is made anew, plain, with another volume. What outlives a cut is
the disk, and DIRECTORY on the host.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent import lock
from agent.change.course import Course
from agent.driver import Driver
from agent.places import Places
from keybroker.wire.profile import MIB
from keybroker.wire.records import Record
from keybroker.wire.reports import Activity
from tests.crash.volumes import record
from tests.kernel.voyage import BOOT, SIZE, SavedBroker, Writer, check_content, save, workshop

DISK: Final = Path("/dev/ubda")
MOUNTED: Final = Path("/mnt/data")
RUNTIME: Final = Path("/run/agent")
ROOM: Final = 8 * MIB


def new_volume(directory: Path) -> Record:
    """Return the record of the plain disk that there is, or that is to be made."""
    number = done(directory)
    made = record(f"disk-{number}", size=SIZE, mount=str(MOUNTED))
    return replace(made, stage="plain", current=None, wanted=None)


def done(directory: Path) -> int:
    """Return how many disks were encrypted to the end."""
    return int((directory / "done").read_text()) if (directory / "done").exists() else 0


def make_plain(directory: Path) -> None:
    """Make a plain disk with a filesystem; cut, it is made again."""
    save(directory / "making", "")
    for left in ("broker.json", "still.sha256", "acknowledged"):
        (directory / left).unlink(missing_ok=True)
    subprocess.run(["dd", "if=/dev/zero", f"of={DISK}", "bs=1M", "count=16", "oflag=direct"], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", DISK, f"{(SIZE - ROOM) >> 10}k"], check=True)
    subprocess.run(["sync"], check=True)
    (directory / "making").unlink()


class Refit:
    """One boot's life."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.chance = random.Random(seed)
        self.broker = SavedBroker(directory, new_volume(directory))
        self.broker.save()
        self.places = Places({self.now.volume: DISK})
        self.writer: Writer | None = None

    @property
    def now(self) -> Record:
        (kept,) = self.broker.records.values()
        return kept

    def boot(self) -> None:
        """Open it as a boot does, look, write on."""
        shop = workshop(self.broker, self.places, RUNTIME)
        report = Driver(shop.world, BOOT).unlock((self.now,))
        assert report.error is None, report.error
        (outcome,) = report.outcomes
        assert outcome.error is None, outcome.error
        save(self.directory / "boot", " ".join(type(step).__name__ for step in outcome.steps))
        check_content(MOUNTED, self.directory)
        self.writer = Writer(MOUNTED, self.directory)
        self.writer.start()

    def stop(self) -> None:
        """Stop what writes, and unmount."""
        if self.writer is not None:
            self.writer.going = False
            self.writer.join()
            self.writer = None
        subprocess.run(["umount", MOUNTED], check=True)

    def watch(self, kept: Record, doing: Activity | None) -> None:
        """Note what is going on; as soon as it can be used again, use it."""
        (self.directory / "doing").write_text(doing.step if doing else "-")
        if doing is not None and doing.step == "Reencrypt" and self.writer is None:
            self.boot()

    def go_on(self) -> None:
        """Have it encrypted to the end, and look at it once more."""
        if self.now.order is None:
            self.broker.encrypt(self.now.volume)
            self.broker.save()
        time.sleep(self.chance.uniform(0, 0.3))
        if self.now.is_bare:
            self.stop()
        shop = workshop(self.broker, self.places, RUNTIME)
        outcome = Course(shop, BOOT, self.now, watch=self.watch).settle()
        assert outcome.error is None, outcome.error
        assert (self.now.stage, self.now.order) == ("ready", None)

    def end(self) -> None:
        """Close it, boot it once more, and be done with this disk."""
        self.stop()
        (closed,) = lock.lock((self.now,), runtime=RUNTIME)
        assert closed.error is None, closed.error
        self.boot()
        self.stop()
        (closed,) = lock.lock((self.now,), runtime=RUNTIME)
        assert closed.error is None, closed.error
        save(self.directory / "done", str(done(self.directory) + 1))


def main(directory: Path, seed: int) -> None:
    """Boot, look, go on; never ends by itself but by a failure."""
    while True:
        if (directory / "making").exists() or not (directory / "broker.json").exists():
            make_plain(directory)
        kept = new_volume(directory)
        refit = Refit(directory, seed)
        if refit.now.volume != kept.volume:  # it was done, and the power went before the next disk was made
            make_plain(directory)
            refit = Refit(directory, seed)
        refit.boot()
        save(directory / "sailing", "")
        if refit.now.is_bare or refit.now.order is not None:
            refit.go_on()
        refit.end()
        seed += 1


if __name__ == "__main__":
    here = Path(sys.argv[1])
    try:
        main(here, int(sys.argv[2]))
    except BaseException as error:
        with contextlib.suppress(OSError):
            save(here / "failed", f"{type(error).__name__}: {error}")
        raise
