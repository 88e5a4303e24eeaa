"""The real world of ``agent.world``: this machine's disks, mappings and filesystems.

One object each, put together by ``machine``; safe to use from the threads of several volumes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent import devicemapper, filesystem, inscription, opened, opening, sighting, swap
from agent import mounts as mounting
from agent.devices import OpenDevice
from agent.luks import copy, cryptsetup
from agent.luks.acceptance import accept
from agent.luks.header import read_header
from agent.opened import Fact
from agent.places import Places
from agent.plan import recovery, situation
from agent.plan.situation import Content
from agent.turn import turn
from agent.world import Broker, Composed, Sighting, World
from keybroker.wire import names
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass, field


@dataclass(frozen=True, slots=True)
class MachineDisks:
    """The disks, by serial or where the configuration puts them.

    Attributes:
        deadline: of ``time.monotonic``, in seconds: until when disks that are not there are waited for.
        runtime: a directory on a tmpfs, for headers that are being made.
    """

    places: Places
    deadline: float
    runtime: Path

    def wait(self, records: Sequence[Record]) -> None:
        """See ``agent.world.Disks``."""
        self.places.wait(records, deadline=self.deadline)

    def look(self, record: Record) -> Sighting:
        """See ``agent.world.Disks``."""
        try:
            with self.places.open(record) as disk:
                return sighting.look(record, disk)
        except KeybrokerError as error:
            if error.problem is not Problem.NO_DEVICE:
                raise
            return sighting.absent(record)

    def compose(self, record: Record, key: Secret, sector_size: int | None = None) -> Composed:
        """See ``agent.world.Disks``."""
        if record.current is None:
            raise KeybrokerError(Problem.CORRUPT, f"{record.name}: the record has no current key version")
        if record.stage == "plain":
            from agent.change import shelving

            return shelving.compose(record, key, self.places, runtime=self.runtime)
        with self.places.open(record) as disk:
            sector_size = sector_size or disk.device.encryption_sector
            if sector_size < disk.device.logical_block:
                raise KeybrokerError(
                    Problem.WRONG_DEVICE,
                    f"{record.name}: the disk has blocks of {disk.device.logical_block} bytes, and the volume"
                    f" that is to be moved to it has sectors of {sector_size}",
                )
        return compose(record, record.current, key, sector_size=sector_size, runtime=self.runtime)

    def inscribe(self, record: Record, copied: Secret) -> None:
        """See ``agent.world.Disks``."""
        image = copy.unpack(copied)
        if record.stage == "plain":
            from agent.change import shelving

            shelving.inscribe(record, self.places, image)
            return
        # Whoever sent it, this is about to be written to a disk and opened with the key.
        accept(read_header(image.read, image.total), record.profile, record.pin)
        with self.places.open(record, writable=True) as disk:
            inscription.inscribe(disk.fd, disk.device.size_bytes, image)

    def mark(self, record: Record) -> None:
        """See ``agent.world.Disks``."""
        with self.places.open(record, writable=True) as disk:
            swap.mark(disk, record.volume)


def compose(record: Record, version: KeyVersion, key: Secret, *, sector_size: int, runtime: Path) -> Composed:
    """Make the header of a new volume in memory, checked as it would be at each boot.

    Args:
        sector_size: encryption sector size in bytes.
        runtime: a directory on a tmpfs.

    Raises:
        KeybrokerError: TOOL_FAILED; HEADER_REFUSED if cryptsetup made other than what the profile asks for.
    """
    import tempfile  # 4 ms, and most boots provision nothing

    with tempfile.TemporaryDirectory(prefix="compose-", dir=runtime) as private:
        image = cryptsetup.compose(
            Path(private), key,
            uuid=record.luks_uuid, label=names.luks_label(record.volume), profile=record.profile,
            sector_size=sector_size, volume=record.volume, version=version,
            recovery=recovery.first(record, version),
        )  # fmt: skip
    header = read_header(image.read, image.total)
    accept(header, record.profile, None)
    return Composed(header.seen(), copy.pack(header, image.read))


@dataclass(frozen=True, slots=True)
class MachineMappings:
    """The device-mapper devices.

    Attributes:
        runtime: where facts about what was opened are written down.
        clock: seconds since 1970.
    """

    places: Places
    runtime: Path
    clock: Callable[[], float]
    # Devices whose table this process has compared: finding the disk again costs more than all the rest.
    _compared: set[tuple[str, str, str]] = field(default_factory=set)

    def look(self, record: Record) -> situation.Mapping:
        """See ``agent.world.Mappings``."""
        there = devicemapper.mapped()
        here = self._judge(record, there)
        if here.obstacle and (empty := self._empty(record, there)):
            return self._judge(record, {name: there[name] for name in there if name not in empty})
        return here

    def _judge(self, record: Record, there: Mapping[str, devicemapper.Mapped]) -> situation.Mapping:
        # The stable name is the holder's; of a migration's other disk only the dm-crypt device is its own.
        top = there.get(names.mapper_name(record.name)) if record.role == "holder" else None
        crypt = there.get(names.crypt_name(record.name, record.luks_uuid))
        stranger = next(
            (other for other in there.values() if other.uuid == opening.stable_uuid(record) and other != top),
            None,
        )
        if stranger is not None and record.role == "holder":
            return situation.Mapping(obstacle=f"its linear device has another name, {stranger.name}")
        if top is None and (crypt is None or record.is_swap):
            return situation.Mapping()
        try:
            if record.is_bare and top is not None:
                return self._plain(record, top)
            return self._swap(record) if record.is_swap else self._data(record, top, crypt)
        except KeybrokerError as error:
            return situation.Mapping(obstacle=error.detail)

    def _empty(self, record: Record, there: Mapping[str, devicemapper.Mapped]) -> list[str]:
        """Name the volume's own devices without a table: whoever makes them, or made them, is not done."""
        mine = [
            name for name, uuid in opening.ours(record).items() if name in there and there[name].uuid == uuid
        ]
        return [name for name in mine if self._is_new(there[name]) and devicemapper.table(name) == ""]

    def _clear(self, record: Record) -> None:
        """Take away what an agent left that was killed between making a device and loading its table."""
        for name in self._empty(record, devicemapper.mapped()):
            devicemapper.remove(name)

    def _swap(self, record: Record) -> situation.Mapping:
        name = names.swap_crypt_name(record.name)
        with self.places.open(record) as disk:
            if not swap.is_mapped(disk, name):
                return situation.Mapping()
        return situation.Mapping("open" if swap.is_on(name) else "crypt")

    def _data(
        self, record: Record, top: devicemapper.Mapped | None, crypt: devicemapper.Mapped | None
    ) -> situation.Mapping:
        if crypt is None:
            raise KeybrokerError(
                Problem.WRONG_DEVICE,
                f"{devicemapper.path(names.mapper_name(record.name))}: is there, its dm-crypt device is not",
            )
        if self._is_new(crypt) or (top is not None and self._is_new(top)):
            with self.places.open(record) as disk:
                opening.check_opened(record, crypt, disk.device)
                if top is not None:
                    opening.check_linked(record, top, crypt, disk.device)
        self._compared.update((each.name, each.uuid, each.node) for each in (top, crypt) if each is not None)
        return situation.Mapping("crypt" if top is None else "open")

    def _plain(self, record: Record, top: devicemapper.Mapped) -> situation.Mapping:
        if self._is_new(top):
            from agent import plain  # most machines have no such disk

            with self.places.open(record) as disk:
                plain.check_linked(record, top, disk)
        self._compared.add((top.name, top.uuid, top.node))
        return situation.Mapping("open")

    def _is_new(self, device: devicemapper.Mapped) -> bool:
        return (device.name, device.uuid, device.node) not in self._compared

    def open(self, record: Record, keys: Mapping[KeyVersion, Secret], seen: Sighting) -> tuple[str, ...]:
        """See ``agent.world.Mappings``."""
        with turn(self.runtime, record.volume):
            return self._open(record, keys, seen)

    def _open(self, record: Record, keys: Mapping[KeyVersion, Secret], seen: Sighting) -> tuple[str, ...]:
        if self._stands(record, "crypt", "open"):
            return ()
        self._clear(record)
        with self.places.open(record) as disk:
            way = _way(record, disk, keys, seen)
        crypt = _mapped(names.crypt_name(record.name, record.luks_uuid))
        self._compared.add((crypt.name, crypt.uuid, crypt.node))
        since = int(self.clock())
        opened.note(
            self.runtime, Fact(record.volume, crypt.node, since, way.version, way.keyslot, way.sequence)
        )
        return opening.notes(record, way, seen.observation.header)

    def link(self, record: Record) -> None:
        """See ``agent.world.Mappings``."""
        with turn(self.runtime, record.volume):
            if self._stands(record, "open"):
                return
            self._clear(record)
            with self.places.open(record) as disk:
                if record.is_bare:
                    from agent import plain  # most machines have no such disk

                    plain.link(record, disk, runtime=self.runtime, now=int(self.clock()))
                else:
                    crypt = _mapped(names.crypt_name(record.name, record.luks_uuid))
                    opening.link(record, crypt, disk.device)
            top = _mapped(names.mapper_name(record.name))
        self._compared.add((top.name, top.uuid, top.node))  # it was made just now, of the table that is meant

    def swap_on(self, record: Record) -> None:
        """See ``agent.world.Mappings``."""
        name = names.swap_crypt_name(record.name)
        with turn(self.runtime, record.volume):
            self._clear(record)
            with self.places.open(record) as disk:
                swap.turn_on(disk, name, record.volume)
            node = _mapped(name).node
            if opened.recall(self.runtime, record.volume, node) is None:
                opened.note(self.runtime, Fact(record.volume, node, int(self.clock())))

    def _stands(self, record: Record, *reaches: situation.Reach) -> bool:
        here = self.look(record)
        if here.obstacle:
            raise KeybrokerError(Problem.WRONG_DEVICE, f"{record.name}: {here.obstacle}")
        return here.reach in reaches


def _way(record: Record, disk: OpenDevice, keys: Mapping[KeyVersion, Secret], seen: Sighting) -> opening.Way:
    header = seen.observation.header
    begun = record.order is not None and record.order.is_reencrypting
    if begun and header is not None and header.requirements:
        from agent.midway import open_midway  # most boots have no use for it

        return open_midway(record, disk, keys)
    if seen.held is None:
        raise KeybrokerError(Problem.HEADER_REFUSED, f"{record.name}: no copy of its header can be made")
    return opening.open_crypt(record, disk, keys, seen.held)


@dataclass(frozen=True, slots=True)
class MachineFilesystems:
    """What is inside the opened volumes.

    Attributes:
        runtime: of the agent.
        mounts: None where systemd mounts.
    """

    places: Places
    runtime: Path
    mounts: mounting.Mounts | None

    def look(self, record: Record) -> Content:
        """See ``agent.world.Filesystems``."""
        with self.places.open(record) as disk:
            if record.is_bare:
                from agent import plain  # most machines have no such disk

                return plain.look(record, disk)
            return filesystem.look(record, disk, _stable(record))

    def make(self, record: Record) -> None:
        """See ``agent.world.Filesystems``."""
        with turn(self.runtime, record.volume), self.places.open(record) as disk:
            filesystem.make(record, disk, _stable(record))

    def mounted(self, record: Record) -> bool | None:
        """See ``agent.world.Filesystems``."""
        return None if self.mounts is None else self.mounts.mounted(record)

    def mount(self, record: Record) -> None:
        """See ``agent.world.Filesystems``."""
        if self.mounts is not None:
            with turn(self.runtime, record.volume):
                self.mounts.mount(record)


def _mapped(name: str) -> devicemapper.Mapped:
    there = devicemapper.find(name)
    if there is None:
        raise KeybrokerError(Problem.WRONG_DEVICE, f"{devicemapper.path(name)}: was taken away meanwhile")
    return there


def _stable(record: Record) -> Path:
    return devicemapper.device(names.mapper_name(record.name))


def machine(
    broker: Broker,
    *,
    places: Places,
    runtime: Path,
    deadline: float,
    clock: Callable[[], float],
    mounts: mounting.Mounts | None,
) -> World:
    """Put the real world together.

    Args:
        runtime: the agent's runtime directory, on a tmpfs; made 0700 if it is not there.
        deadline: of ``time.monotonic``: until when disks are waited for.
        clock: ``time.time``.
        mounts: mounts directly; None leaves that to systemd (``agent.mountunits``).
    """
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    return World(
        broker=broker,
        disks=MachineDisks(places, deadline, runtime),
        mappings=MachineMappings(places, runtime, clock),
        filesystems=MachineFilesystems(places, runtime, mounts),
    )
