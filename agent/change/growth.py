"""An open volume's layers, measured and grown: dm-crypt, the stable device, the filesystem."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Mapping as Keys
from pathlib import Path
from typing import Final

from agent import devicemapper, opening
from agent.change import stable
from agent.change.blocks import Blocks
from agent.devicemapper import SECTOR
from agent.luks import copy, cryptsetup
from agent.luks.acceptance import accept
from agent.luks.header import read_header
from agent.luks.table import LinearTable
from agent.mountinfo import mounts
from agent.places import Places
from agent.plan.growth import Sizes
from agent.plan.steps import Layer
from agent.process import run
from agent.turn import turn
from agent.world import Sighting
from keybroker.wire import names
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass

GROW_SECONDS: Final = 3600.0

_GEOMETRY: Final = 0x80705864
"""XFS_IOC_FSGEOMETRY_V1 (linux/fs/xfs/libxfs/xfs_fs.h): eight 32-bit words, the first the block's size, then
64 bits of how many blocks of data there are."""

_SUPERBLOCK: Final = 1024
"""Where ext4's begins; in it, little-endian, blocks at 4, log2 of the block's size - 10 at 24, features at
96, the high half of the blocks at 336 (linux, Documentation/filesystems/ext4/super.rst)."""

_EXT4_64BIT: Final = 0x80


@dataclass(frozen=True, slots=True)
class MachineGrowth:
    """The layers of this machine's volumes: see ``agent.change.workshop.Growth``."""

    places: Places
    runtime: Path

    def sizes(self, record: Record) -> Sizes | None:
        """See ``agent.change.workshop.Growth``."""
        crypt = devicemapper.mapped().get(names.crypt_name(record.name, record.luks_uuid))
        standing = stable.read(record)
        if crypt is None or standing is None or standing.nodes != (crypt.node,) or record.pin is None:
            return None
        with self.places.open(record) as disk:
            room = disk.device.size_bytes - record.pin.data_offset
        unit = record.pin.sector_size
        return Sizes(
            room=room // unit * unit,
            crypt=_size(crypt.name),
            linear=standing.sectors * SECTOR,
            filesystem=_filesystem(record, standing.top.node),
        )

    def grow(
        self,
        record: Record,
        layer: Layer,
        keys: Keys[KeyVersion, Secret],
        seen: Sighting,
    ) -> None:
        """See ``agent.change.workshop.Growth``."""
        with turn(self.runtime, record.volume):
            sizes = self.sizes(record)
            if sizes is None:
                raise KeybrokerError(Problem.NO_DEVICE, f"{record.name}: is not open on one disk")
            match layer:
                case "crypt":
                    _grow_crypt(record, keys, seen)
                case "linear" if sizes.linear < sizes.crypt:
                    standing = stable.needed(record)
                    table = LinearTable(sizes.crypt // SECTOR, standing.nodes[0])
                    devicemapper.exchange(standing.top.name, table.line)
                case "filesystem":
                    _grow_filesystem(record)


def _size(name: str) -> int:
    blocks = Blocks(devicemapper.device(name))
    try:
        return blocks.size_bytes
    finally:
        blocks.close()


def _grow_crypt(record: Record, keys: Keys[KeyVersion, Secret], seen: Sighting) -> None:
    """Have the dm-crypt device reach to the end of its disk.

    The kernel does not give the volume key back, so a keyslot is opened once more: from the checked copy of
    the header, as at the opening.
    """
    if seen.copy is None:
        raise KeybrokerError(Problem.HEADER_REFUSED, f"{record.name}: no copy of its header can be made")
    image = copy.unpack(seen.copy)
    header = read_header(image.read, image.total)
    accept(header, record.profile, record.pin)
    name = names.crypt_name(record.name, record.luks_uuid)
    fd = copy.memfd(image)
    try:
        for version, keyslot in opening.attempts(record, header, keys):
            if cryptsetup.resize(name, header_fd=fd, keyslot=keyslot, key=keys[version]):
                return
    finally:
        os.close(fd)
    raise KeybrokerError(Problem.LOCKED_OUT, f"{record.name}: no key opens it; nothing was changed")


def _grow_filesystem(record: Record) -> None:
    device = devicemapper.device(names.mapper_name(record.name))
    if record.filesystem == "ext4":
        run("resize2fs", device, timeout_seconds=GROW_SECONDS)
    elif (point := _point(stable.needed(record).top.node)) is not None:
        run("xfs_growfs", "-d", point, timeout_seconds=GROW_SECONDS)


def _point(node: str) -> str | None:
    return next((mount.point for mount in mounts() if mount.node == node), None)


def _filesystem(record: Record, node: str) -> int | None:
    """Return how large a mounted filesystem is, None where none of ours is mounted."""
    point = _point(node)
    if point is None or record.filesystem not in ("ext4", "xfs"):
        return None
    if record.filesystem == "xfs":
        fd = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            said = fcntl.ioctl(fd, _GEOMETRY, bytes(112))
        finally:
            os.close(fd)
        (unit,), (count,) = struct.unpack_from("=I", said), struct.unpack_from("=Q", said, 32)
        return int(unit) * int(count)
    # Through the cache, in which a mounted ext4 keeps its superblock.
    with devicemapper.device(names.mapper_name(record.name)).open("rb") as device:
        device.seek(_SUPERBLOCK)
        block = device.read(1024)
    (count,), (log,) = struct.unpack_from("<I", block, 4), struct.unpack_from("<I", block, 24)
    (features,), (high,) = struct.unpack_from("<I", block, 96), struct.unpack_from("<I", block, 336)
    count += high << 32 if features & _EXT4_64BIT else 0
    return int(count) << 10 + int(log)
