"""A whole VM inside User-Mode Linux: the real agent on loop devices, the real broker on SQLite."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent import devicemapper, layout, lock
from agent.driver import Boot, Driver, Report, VolumeOutcome
from agent.lock import Closed
from agent.machine import machine
from agent.mounts import Mounts
from agent.places import Places
from agent.world import World
from keybroker.wire.names import VolumeId
from keybroker.wire.records import Record
from tests.crash.service_broker import ServiceBroker, Wanted
from tests.kernel.disks import MIB, image, loop

BOOT = Boot("1b4e28ba-2fa1-41d2-883f-0016d3cca427", "0" * 32, "0.1.0")
SIZE = 48 * MIB


@dataclass(slots=True)
class Rig:
    """One VM and its broker.

    Attributes:
        images: the disks' files, by volume name.
        devices: their loop devices, by volume id; a test may point a volume at another one.
        mounts: mount points, by volume name.
    """

    broker: ServiceBroker
    directory: Path
    images: dict[str, Path]
    devices: dict[VolumeId, Path]
    mounts: dict[str, Path]
    state: Path
    runtime: Path
    wait_seconds: float = 0.0

    def world(self) -> World:
        return machine(
            self.broker,
            places=Places(self.devices),
            runtime=self.runtime,
            deadline=time.monotonic() + self.wait_seconds,
            clock=time.time,
            mounts=Mounts(),
        )

    def unlock(self, world: World | None = None) -> Report:
        """Run the agent once, as a new process would: nothing is kept but what is on disk."""
        driver = Driver(world or self.world(), BOOT, keep=lambda records: self._keep(records))
        return driver.unlock(layout.load(self.state).records)

    def _keep(self, records: tuple[Record, ...]) -> None:
        layout.save(self.state, records)

    def outcome(self, name: str, report: Report) -> VolumeOutcome:
        return next(outcome for outcome in report.outcomes if outcome.record.name == name)

    def record(self, name: str) -> Record:
        return next(record for record in layout.load(self.state).records if record.name == name)

    def lock(self) -> dict[str, Closed]:
        closed = lock.lock(layout.load(self.state).records, runtime=self.runtime)
        return {each.name: each for each in closed}

    def power_cut(self) -> None:
        """Lose the kernel's state without a word to the agent: unmounted, unmapped, caches written."""
        for mount in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if "/dev/mapper/kb-" in mount:
                subprocess.run(["umount", mount.split()[4]], check=True)
        there = devicemapper.mapped()
        names = sorted(there, key=lambda name: -len(devicemapper.holders(there[name])))
        for swap in Path("/proc/swaps").read_text().splitlines()[1:]:
            subprocess.run(["swapoff", swap.split()[0]], check=True)
        for name in sorted(names, key=len):  # the linear device's name is the beginning of the other's
            subprocess.run(["dmsetup", "remove", "--retry", name], check=True)


@contextmanager
def rig(directory: Path, *wanted: Wanted) -> Iterator[Rig]:
    """Set one up with a blank disk for each volume, and leave nothing mapped or mounted."""
    with ExitStack() as stack:
        whole = [
            Wanted(each.name, each.size_bytes, each.filesystem, each.mount and str(directory / each.mount))
            for each in wanted
        ]
        broker = ServiceBroker(directory / "broker", *whole)
        stack.callback(broker.close)
        images = {each.name: image(directory / f"{each.name}.img", each.size_bytes) for each in wanted}
        ids: dict[str, VolumeId] = {record.name: record.volume for record in broker.records}
        devices = {ids[name]: stack.enter_context(loop(path)) for name, path in images.items()}
        made = Rig(
            broker=broker,
            directory=directory,
            images=images,
            devices=devices,
            mounts={each.name: Path(each.mount) for each in whole if each.mount},
            state=directory / "agent-state",
            runtime=directory / "agent-run",
        )
        made.state.mkdir(mode=0o700)
        layout.save(made.state, broker.records)
        stack.callback(made.power_cut)
        yield made
