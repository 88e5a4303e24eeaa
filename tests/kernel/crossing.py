"""A machine that moves its volume from disk to disk, and whose power goes at any moment: the part inside.

    python -m tests.kernel.crossing DIRECTORY SEED

As ``tests.kernel.voyage``, with two disks (/dev/ubda, /dev/ubdb): one run is one boot, which opens whatever
disk holds the data, holds its content to what was acknowledged, and moves it to the other disk and back,
under a mounted ext4 or, now and then, offline. What outlives a cut is the disks, and DIRECTORY on the host.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent.change.disks import undertake, undertakings
from agent.driver import Driver
from agent.places import Places
from keybroker.wire.fields import Fields
from keybroker.wire.names import VolumeId
from keybroker.wire.records import Record
from keybroker.wire.reports import Activity
from keybroker.wire.secret import Secret
from tests.crash.memory_broker import MemoryBroker
from tests.crash.volumes import record
from tests.kernel.voyage import BOOT, SIZE, Writer, check_content, save, workshop

DISKS: Final = (Path("/dev/ubda"), Path("/dev/ubdb"))
MOUNTED: Final = Path("/mnt/data")
OFFLINE: Final = 0.25
"""How many of the moves are offline."""


class SavedBroker(MemoryBroker):
    """A broker that runs elsewhere, as far as this machine's power is concerned.

    Attributes:
        disks: where each volume's disk is.
        moved: how many moves came to their end.
    """

    def __init__(self, directory: Path) -> None:
        self._state = directory / "broker.json"
        first = record(size=SIZE, mount=str(MOUNTED))
        super().__init__([first])
        self.disks: dict[VolumeId, Path] = {first.volume: DISKS[0]}
        self.moved = 0
        if self._state.exists():
            said = json.loads(self._state.read_text())
            kept = [Record.read(Fields(each)) for each in said["records"]]
            self.records = {each.volume: each for each in kept}
            self.copies = {
                VolumeId(name): Secret(bytes.fromhex(held)) for name, held in said["copies"].items()
            }
            self.copied = {each.volume: each.current for each in kept if each.volume in self.copies}
            self.disks = {VolumeId(name): Path(place) for name, place in said["disks"].items()}
            self.moved = said["moved"]

    @contextmanager
    def _entered(self) -> Iterator[None]:  # type: ignore[override]
        with super()._entered():
            yield
            self.save()

    def save(self) -> None:
        said = {
            "records": [each.as_json() for each in self.records.values()],
            "copies": {name: copied.reveal().hex() for name, copied in self.copies.items()},
            "disks": {name: str(place) for name, place in self.disks.items()},
            "moved": self.moved,
        }
        save(self._state, json.dumps(said))

    @property
    def holder(self) -> Record:
        (found,) = [each for each in self.records.values() if each.role == "holder"]
        return found

    def move(self, *, offline: bool) -> None:
        """Have the data moved to the other disk, which is made blank for that."""
        holder = self.holder
        (place,) = [disk for disk in DISKS if disk != self.disks[holder.volume]]
        subprocess.run(["dd", "if=/dev/zero", f"of={place}", "bs=4M", "oflag=direct"], check=False)
        for old in [each for each in self.records if each != holder.volume]:
            del self.records[old], self.disks[old]
            self.copies.pop(old, None)
        new = record(f"disk-{self.moved}-{time.time()}", size=SIZE, mount=str(MOUNTED))
        self.disks[new.volume] = place
        self.migrate(holder.volume, replace(new, name=holder.name), offline=offline)
        self.save()


def main(directory: Path, seed: int) -> None:
    """Boot, look, go on; never ends by itself but by a failure."""
    chance = random.Random(seed)
    broker = SavedBroker(directory)
    writer: Writer | None = None

    def boot() -> Writer:
        shop = workshop(broker, Places(broker.disks), Path("/run/agent"))
        report = Driver(shop.world, BOOT).unlock(tuple(broker.records.values()))
        assert report.error is None, report.error
        (opened,) = report.outcomes
        assert opened.error is None, opened.error
        assert opened.record.volume == broker.holder.volume
        check_content(MOUNTED, directory)
        begun = Writer(MOUNTED, directory)
        begun.start()
        return begun

    def watch(kept: Record, doing: Activity | None) -> None:
        (directory / "doing").write_text(doing.step if doing else "-")

    writer = boot()
    save(directory / "sailing", "")
    while True:
        if not list(undertakings(broker.records.values())):
            broker.move(offline=chance.random() < OFFLINE)
        order = broker.holder.order
        if order is not None and order.offline:
            writer.going = False
            writer.join()
            subprocess.run(["umount", MOUNTED], check=True)
        shop = workshop(broker, Places(broker.disks), Path("/run/agent"))
        for outcome in undertake(shop, BOOT, tuple(broker.records.values()), watch=watch).values():
            assert outcome.error is None, outcome.error
        assert not list(undertakings(broker.records.values()))
        if not writer.going:
            writer = boot()
        broker.moved += 1
        broker.save()
        save(directory / "done", str(broker.moved))


if __name__ == "__main__":
    here = Path(sys.argv[1])
    try:
        main(here, int(sys.argv[2]))
    except BaseException as error:
        save(here / "failed", f"{type(error).__name__}: {error}")
        raise
