"""What stands on a volume's disk: looked at once, without a write, and kept as the copy that is opened from.

A data volume's disk shows a LUKS2 header, or is blank, or is something else. There is no fourth: a header
that cannot be read, for whatever reason, is *something else*, and never blank.
"""

from __future__ import annotations

import os

from agent import blank, swap
from agent.devices import OpenDevice
from agent.luks import copy
from agent.luks.header import Header, NotLuks, read_header
from agent.world import Sighting
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.records import Device, Observation, Record, Sight

_LONGEST_DETAIL = 1000


def look(record: Record, disk: OpenDevice) -> Sighting:
    """Say what stands on a disk that is held open for reading.

    Raises:
        KeybrokerError: NO_DEVICE where it cannot be read at all, TOOL_FAILED where blkid cannot be asked.
    """
    return _swap(record, disk) if record.is_swap else _data(record, disk)


def absent(record: Record) -> Sighting:
    """Return what is seen where there is no disk."""
    return Sighting(Observation(record.volume, "absent"))


def _data(record: Record, disk: OpenDevice) -> Sighting:
    def read(offset: int, length: int) -> bytes:
        # not OpenDevice.read: a sector that cannot be read must not hide a whole second copy
        return os.pread(disk.fd, length, offset)

    try:
        header = read_header(read, disk.device.size_bytes)
    except NotLuks:
        return _blank_or_other(record, disk)
    except KeybrokerError as error:
        return _other(record, disk, f"LUKS2 header: {error.detail}")
    seen = Observation(record.volume, "luks2", _device(disk), header.seen())
    named, carried = _told(record, header)
    try:
        return Sighting(seen, copy.hold(header, read), named, carried)
    except KeybrokerError:  # of no use for opening; what is wrong with it is in its requirements
        return Sighting(seen, None, named, carried)


def _told(record: Record, header: Header) -> tuple[KeyVersion | None, str | None]:
    """Return what our token says: the highest key version that it names, and the recovery ciphertext."""
    token = header.token
    if token is None or token.volume != record.volume:
        return None, None
    versions = [token.version(keyslot) for keyslot in header.keyslots]
    named = max((version for version in versions if version is not None), default=None)
    return None if named is None else KeyVersion(named), token.recovery


def _swap(record: Record, disk: OpenDevice) -> Sighting:
    if swap.read_mark(disk) is None:
        return _blank_or_other(record, disk)
    try:
        swap.check(disk, record.volume)
    except KeybrokerError as error:
        return _other(record, disk, error.detail)
    return Sighting(Observation(record.volume, "swap-mark", _device(disk)))


def _blank_or_other(record: Record, disk: OpenDevice) -> Sighting:
    reason = blank.look(disk)
    if reason is not None:
        return _other(record, disk, reason)
    return Sighting(Observation(record.volume, "blank", _device(disk)))


def _other(record: Record, disk: OpenDevice, detail: str) -> Sighting:
    sight: Sight = "other"
    return Sighting(Observation(record.volume, sight, _device(disk), detail=detail[:_LONGEST_DETAIL]))


def _device(disk: OpenDevice) -> Device:
    return Device(disk.device.serial, disk.device.size_bytes)
