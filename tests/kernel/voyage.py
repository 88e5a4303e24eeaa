"""A machine whose power goes at any moment, again and again: the part that runs inside User-Mode Linux.

    python -m tests.kernel.voyage DIRECTORY DEVICE SEED [rotate]

One run is one boot: open the volume as a boot does, hold what is in it to what was acknowledged, write on and
re-encrypt it under a mounted ext4, one order after the other, or with ``rotate`` only ever change its key,
until the host cuts the power. What outlives that is the disk, and DIRECTORY on the host: the broker's state,
and what was acknowledged.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from agent.change.course import Course, CourseOutcome, Watch
from agent.change.outfit import fitted
from agent.change.workshop import Workshop
from agent.driver import Boot, Driver
from agent.machine import machine
from agent.mounts import Mounts
from agent.places import Places
from agent.plan import settling
from keybroker.wire.fields import Fields
from keybroker.wire.names import KeyVersion, crypt_name
from keybroker.wire.orders import Order
from keybroker.wire.profile import MIB
from keybroker.wire.records import Record
from keybroker.wire.reports import Activity
from keybroker.wire.secret import Secret
from tests.crash.memory_broker import MemoryBroker
from tests.crash.volumes import record

BOOT: Final = Boot("1b4e28ba-2fa1-41d2-883f-0016d3cca427", "0" * 32, "0.1.0")
SIZE: Final = 68 * MIB
STILL_BYTES: Final = 24 * MIB
RATES: Final = (None, 4 * MIB, 16 * MIB)


def save(path: Path, text: str) -> None:
    """Have a text outlive this kernel."""
    fresh = path.with_suffix(".new")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)


class SavedBroker(MemoryBroker):
    """A broker that runs elsewhere, as far as this machine's power is concerned."""

    def __init__(self, directory: Path, new: Record) -> None:
        self._state = directory / "broker.json"
        super().__init__([new])
        if self._state.exists():
            said = json.loads(self._state.read_text())
            kept = Record.read(Fields(said["record"]))
            self.records = {kept.volume: kept}
            self.copies = {kept.volume: Secret(bytes.fromhex(said["copy"]))} if said["copy"] else {}
            self.copied = {kept.volume: said["copied"] and KeyVersion(said["copied"])}
            self.retired = {kept.volume: {KeyVersion(each) for each in said["retired"]}}

    @contextmanager
    def _entered(self) -> Iterator[None]:  # type: ignore[override]
        with super()._entered():
            yield
            self.save()

    def save(self) -> None:
        ((volume, kept),) = self.records.items()
        copied = self.copies.get(volume)
        said = {
            "record": kept.as_json(),
            "copy": copied.reveal().hex() if copied else "",
            "copied": self.copied.get(volume),
            "retired": sorted(self.retired.get(volume, ())),
        }
        save(self._state, json.dumps(said))


class Writer(threading.Thread):
    """Appends numbers to a file, and acknowledges each only after it is on the disk."""

    def __init__(self, mounted: Path, directory: Path) -> None:
        super().__init__(daemon=True)
        self._journal, self._acknowledged = mounted / "journal", directory / "acknowledged"
        self.longest = 0.0
        self.going = True

    def run(self) -> None:
        number = acknowledged(self._acknowledged.parent)
        told = os.open(self._acknowledged, os.O_RDWR | os.O_CREAT)
        with self._journal.open("a") as journal:
            while self.going:
                number += 1
                began = time.monotonic()
                journal.write(f"{number}\n")
                journal.flush()
                os.fsync(journal.fileno())
                self.longest = max(self.longest, time.monotonic() - began)
                os.pwrite(told, b"%12d" % number, 0)
                os.fsync(told)
                time.sleep(0.01)


def acknowledged(directory: Path) -> int:
    try:
        return int((directory / "acknowledged").read_text())
    except (FileNotFoundError, ValueError):
        return 0


class OneVolume:
    """A machine with one volume, in the hands of a test."""

    broker: MemoryBroker
    shop: Workshop

    @property
    def now(self) -> Record:
        """What the broker says of it."""
        (kept,) = self.broker.records.values()
        return kept

    @property
    def name(self) -> str:
        """Under which it is opened."""
        return crypt_name(self.now.name, self.now.luks_uuid)

    def settle(self, watch: Watch | None = None) -> CourseOutcome:
        """Take it on its course."""
        return Course(self.shop, BOOT, self.now, watch=watch or (lambda record, activity: None)).settle()


def workshop(broker: MemoryBroker, places: Places, runtime: Path) -> Workshop:
    """Put the real workshop together, on a memory broker."""
    world = machine(
        broker, places=places, runtime=runtime, deadline=time.monotonic(), clock=time.time, mounts=Mounts()
    )
    return fitted(world, broker, places, runtime)


def check_content(mounted: Path, directory: Path) -> None:
    """Hold what is in the volume to what was acknowledged before the cut."""
    still, kept = mounted / "still", directory / "still.sha256"
    if not kept.exists():
        held = random.Random(7).randbytes(STILL_BYTES)  # to be told apart, not to be guessed
        still.write_bytes(held)
        with still.open("rb") as file:
            os.fsync(file.fileno())
        save(kept, hashlib.sha256(held).hexdigest())
        return
    with still.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    assert found == kept.read_text(), "the content is another one"
    lines = (
        (mounted / "journal").read_text(errors="replace").split() if (mounted / "journal").exists() else []
    )
    there = {int(line) for line in lines if line.isdigit()}
    missing = [number for number in range(1, acknowledged(directory) + 1) if number not in there]
    assert not missing, f"lost: {missing[:10]}"


def main(directory: Path, device: Path, seed: int, work: str = "") -> None:
    """Boot, look, go on; never ends by itself but by a failure."""
    chance = random.Random(seed)
    mounted = Path("/mnt/data")
    new = record(size=SIZE, mount=str(mounted))
    broker = SavedBroker(directory, new)
    places = Places({new.volume: device})
    shop = workshop(broker, places, Path("/run/agent"))
    report = Driver(shop.world, BOOT).unlock(tuple(broker.records.values()))
    assert report.error is None, report.error
    for opened in report.outcomes:
        assert opened.error is None, opened.error
        save(directory / "boot", " ".join(type(step).__name__ for step in opened.steps))
    check_content(mounted, directory)
    writer = Writer(mounted, directory)
    writer.start()
    save(directory / "sailing", "")

    def watch(kept: Record, doing: Activity | None) -> None:
        (directory / "doing").write_text(doing.step if doing else "-")

    while work == "rotate":
        rotate(directory, broker, shop, broker.records[new.volume], watch)
    while True:
        now = broker.records[new.volume]
        if now.order is None:
            done = finished(directory)
            if chance.random() < 0.3:
                broker.rotate(now.volume)
            broker.order(now.volume, Order(done + 1, "reencrypt", rate=chance.choice(RATES)))
            broker.save()
        before = broker.records[new.volume]
        course = Course(shop, BOOT, before, watch=watch)
        outcome = course.settle()
        assert outcome.error is None, outcome.error
        after = broker.records[new.volume]
        assert after.order is None
        assert before.order is not None
        save(directory / "done", str(before.order.number))


def finished(directory: Path) -> int:
    """Return how much was brought to its end so far."""
    return int((directory / "done").read_text()) if (directory / "done").exists() else 0


def rotate(directory: Path, broker: SavedBroker, shop: Workshop, now: Record, watch: Watch) -> None:
    """Change the volume's key, or bring to its end what a cut has left of that; nothing else is wanted."""
    assert now.order is None
    if settling.is_at_rest(now, shop.world.disks.look(now).observation.header):
        broker.rotate(now.volume)
        broker.save()
        now = broker.records[now.volume]
    began = time.monotonic()
    outcome = Course(shop, BOOT, now, watch=watch).settle()
    assert outcome.error is None, outcome.error
    with (directory / "seconds").open("a") as file:
        file.write(f"{time.monotonic() - began:.2f}\n")
    save(directory / "done", str(finished(directory) + 1))


def told(error: BaseException) -> Any:
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    place = Path(sys.argv[1])
    try:
        main(place, Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:5])
    except BaseException as error:
        save(place / "failed", told(error))
        raise
