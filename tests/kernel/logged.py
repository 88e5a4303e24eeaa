"""A disk whose every write is logged while something is done to it, and what a power cut anywhere leaves."""

from __future__ import annotations

import contextlib
import random
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.change.course import Watch
from agent.luks.completion import is_complete
from agent.luks.header import Header, read_header
from agent.luks.hotzone import hot
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.records import Record
from keybroker.wire.reports import Activity
from keybroker.wire.secret import Secret
from tests.crash.memory_broker import MemoryBroker
from tests.kernel.disks import image, loop
from tests.kernel.writes import MARK, SECTOR, Entry, entries, survivors

FRONT = 4 << 20
"""Where the header is, in bytes."""

DEVICE = Path("/dev/mapper/logged")

ENDING = 40
"""So many of a step's last writes are cut as often as all others: headers are written there, bit by bit."""


@dataclass(frozen=True)
class Told:
    """What the broker had when a step began."""

    records: Mapping[VolumeId, Record]
    copies: Mapping[VolumeId, Secret]
    copied: Mapping[VolumeId, KeyVersion | None]

    @classmethod
    def by(cls, broker: MemoryBroker) -> Told:
        return cls(dict(broker.records), dict(broker.copies), dict(broker.copied))

    def again(self, broker: MemoryBroker) -> None:
        """Set a broker back to it."""
        broker.records, broker.copies = dict(self.records), dict(self.copies)
        broker.copied = dict(self.copied)


@dataclass
class Voyage:
    """What was written, step by step."""

    before: bytes
    told: list[Told] = field(default_factory=list)
    entries: tuple[Entry, ...] = ()

    def watch(self, broker: MemoryBroker) -> Watch:
        """Return what marks the log where a step begins."""

        def mark(kept: Record, activity: Activity | None) -> None:
            if activity is not None and activity.progress is None:
                self.told.append(Told.by(broker))
                run("dmsetup", "message", "logged", "0", "mark", len(self.told) - 1)

        return mark

    def cut(self, chance: random.Random, path: Path) -> Told:
        """Make an image of what a power cut leaves, of each step as many, however much it writes."""
        marks = [number for number, entry in enumerate(self.entries) if entry.flags & MARK]
        ends = [*marks[1:], len(self.entries)]
        mark, end = chance.choice([span for span in zip(marks, ends, strict=True) if span[1] > span[0] + 1])
        first = max(mark + 1, end - ENDING) if chance.random() < 0.5 else mark + 1
        self._write(path, survivors(self.entries, chance.randrange(first, end + 1), chance))
        return self.told[int(self.entries[mark].data)]

    def stop(self, end: int, path: Path) -> Told:
        """Make an image of what a cut before an entry leaves of a disk that keeps all it is given."""
        self._write(path, ((entry.offset, entry.data) for entry in self.entries[:end] if entry.is_data))
        mark = max(number for number, entry in enumerate(self.entries[:end]) if entry.flags & MARK)
        return self.told[int(self.entries[mark].data)]

    def tear(self, chance: random.Random, path: Path) -> None:
        """Make an image of what a power cut anywhere leaves, steps or no steps."""
        self._write(path, survivors(self.entries, chance.randrange(len(self.entries) + 1), chance))

    def unfinished(self) -> list[int]:
        """Find a cut for each header that has everything encrypted, and says that it is in progress."""
        return self.find(is_complete)

    def in_work(self) -> int:
        """Find a cut at which the last stretch is in work, and some of it is done."""
        return self.find(lambda header: hot(header) is not None and not header.degraded)[-1] + 2

    def find(self, wanted: Callable[[Header], bool]) -> list[int]:
        """Find a cut for each header that is wanted."""
        found: dict[tuple[int, bool], int] = {}
        front = bytearray(self.before[:FRONT])
        for end, entry in enumerate(self.entries, 1):
            if not entry.is_data or entry.offset >= FRONT:
                continue
            front[entry.offset : entry.offset + len(entry.data)] = entry.data
            with contextlib.suppress(KeybrokerError):  # there is none yet
                header = read_header(lambda at, length: bytes(front[at : at + length]), len(self.before))
                if wanted(header):
                    found.setdefault((header.sequence, header.degraded), end)
        return list(found.values())

    def _write(self, path: Path, stretches: Iterable[tuple[int, bytes]]) -> None:
        path.write_bytes(self.before)
        with path.open("r+b") as file:
            for offset, data in stretches:
                file.seek(offset)
                file.write(data)


@contextlib.contextmanager
def logged(disk: Path, log_bytes: int) -> Iterator[Voyage]:
    """Have every write to ``DEVICE``, which is that disk, logged; it and the log are gone afterwards."""
    size = disk.stat().st_size
    made = Voyage(disk.read_bytes())
    log = image(disk.with_name("log"), log_bytes)
    with loop(disk) as below, loop(log) as written:
        run("dmsetup", "create", "logged", "--table", f"0 {size // SECTOR} log-writes {below} {written}")
        run("dmsetup", "mknodes")  # there is no udev
        yield made
        run("dmsetup", "remove", "--retry", "logged")
        made.entries = tuple(entries(written))
    for large in (disk, log):
        large.unlink()  # it is memory here


def run(*command: object) -> None:
    """Run it, and see it succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
