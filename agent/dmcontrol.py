"""What the kernel says of its mapped devices, asked through /dev/mapper/control.

    devices()         ->  [Mapped("kb-data", "KEYBROKER-data", "254:1"), …]
    table("kb-data")  ->  "0 40960 linear 254:0 0"; None where there is no such device

One ioctl(2) instead of a ``dmsetup`` process or a walk over sysfs: with eight volumes those were half of the
agent's time. ``agent.dmlinear`` commands it, too; nothing here changes a device.

Source: linux/dm-ioctl.h, version 4.0.0 of the interface, which every kernel with device-mapper answers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.values import dataclass

CONTROL: Final = "/dev/mapper/control"
DRIVER: Final = "/sys/class/misc/device-mapper"

_VERSION: Final = (4, 0, 0)
# version[3] data_size data_start target_count open_count flags event_nr padding dev name uuid data
_HEAD: Final = struct.Struct("=3I3Ii3IQ128s129s7s")
# sector_start length status next target_type
TARGET: Final = struct.Struct("=QQiI16s")
# dev next; then the name, and event_nr flags, and the UUID, each from a multiple of 8 on
_LISTED: Final = struct.Struct("=QI")
_AFTER_NAME: Final = struct.Struct("=II")

REQUEST: Final = 3 << 30 | _HEAD.size << 16 | 0xFD << 8
"""_IOWR(0xfd, command, struct dm_ioctl), without the command."""

_LIST_DEVICES: Final = REQUEST | 2
_DEV_STATUS: Final = REQUEST | 7
_TABLE_STATUS: Final = REQUEST | 12

_SUSPEND_FLAG: Final = 1 << 1
_STATUS_TABLE_FLAG: Final = 1 << 4
_INACTIVE_PRESENT_FLAG: Final = 1 << 6
_BUFFER_FULL_FLAG: Final = 1 << 8
_UUID_FLAG: Final = 1 << 14
_SECURE_DATA_FLAG: Final = 1 << 15

_HAS_UUID: Final = 1
_HAS_NO_UUID: Final = 2

_ROOM: Final = 16 << 10
"""Bytes for an answer at first. Above 1024 fcntl.ioctl works in place, and no copy of a key stays behind."""

_LITTLE_ROOM: Final = 2 << 10
"""For an answer that is only the head."""

_MOST_ROOM: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Mapped:
    """One device of device-mapper.

    Attributes:
        uuid: the DM UUID, by which a device says whose it is; empty where its maker gave none.
        node: ``major:minor``.
    """

    name: str
    uuid: str
    node: str


def devices() -> list[Mapped]:
    """Return every device there is at one moment.

    Raises:
        KeybrokerError: TOOL_FAILED where the kernel cannot be asked.
    """
    said = _ask(_LIST_DEVICES, "", _UUID_FLAG)
    found: list[Mapped] = []
    at = 0 if said is None else _HEAD.unpack_from(said)[4]
    while said is not None:
        dev, following = _LISTED.unpack_from(said, at)
        if dev == 0:  # the list is empty
            break
        name, end = _word(said, at + _LISTED.size)
        _, flags = _AFTER_NAME.unpack_from(said, aligned(end))
        uuid = ""
        if flags & _HAS_UUID:
            uuid, _ = _word(said, aligned(end) + _AFTER_NAME.size)
        elif not flags & _HAS_NO_UUID:  # a kernel before 5.12 does not list UUIDs
            there = device(name)
            uuid = there.uuid if there else ""
        found.append(Mapped(name, uuid, f"{os.major(dev)}:{os.minor(dev)}"))
        if following == 0:
            break
        at += following
    return found


def device(name: str) -> Mapped | None:
    """Return the device of that name, None where there is none.

    Raises:
        KeybrokerError: TOOL_FAILED where the kernel cannot be asked.
    """
    said = _ask(_DEV_STATUS, name, 0, _LITTLE_ROOM)
    return None if said is None else Mapped(name, _text(_HEAD.unpack_from(said)[12]), node_of(said))


def open_count(name: str) -> int:
    """Return by how many a device is open, mounts and devices over it included; 0 where there is none.

    Raises:
        KeybrokerError: TOOL_FAILED where the kernel cannot be asked.
    """
    said = _ask(_DEV_STATUS, name, 0, _LITTLE_ROOM)
    return 0 if said is None else int(_HEAD.unpack_from(said)[6])


def is_suspended(name: str) -> bool:
    """Say whether what is written to a device waits until it is resumed.

    Raises:
        KeybrokerError: TOOL_FAILED where the kernel cannot be asked.
    """
    return bool(_flags(name) & _SUSPEND_FLAG)


def has_inactive_table(name: str) -> bool:
    """Say whether a device has a second table, loaded and not live: the next ``resume`` would make it so.

    Raises:
        KeybrokerError: TOOL_FAILED where the kernel cannot be asked.
    """
    return bool(_flags(name) & _INACTIVE_PRESENT_FLAG)


def _flags(name: str) -> int:
    said = _ask(_DEV_STATUS, name, 0)
    return 0 if said is None else int(_HEAD.unpack_from(said)[7])


def table(name: str) -> str | None:
    """Return the live table as ``dmsetup table`` prints it, keys as zeros; None where there is no device.

    Raises:
        KeybrokerError: TOOL_FAILED where the kernel cannot be asked.
    """
    return _lines(name, _STATUS_TABLE_FLAG | _SECURE_DATA_FLAG)


def status(name: str) -> str | None:
    """Return what a device's targets say of themselves, a line each; None where there is no device.

    Raises:
        KeybrokerError: TOOL_FAILED where the kernel cannot be asked.
    """
    return _lines(name, _SECURE_DATA_FLAG)


def _lines(name: str, flags: int) -> str | None:
    said = _ask(_TABLE_STATUS, name, flags)
    if said is None:
        return None
    try:
        return "\n".join(_targets(said, hide=bool(flags & _STATUS_TABLE_FLAG)))
    finally:
        said[:] = bytes(len(said))


def _targets(said: bytearray, *, hide: bool) -> list[str]:
    _, _, _, _, data_start, count, *_ = _HEAD.unpack_from(said)
    lines, at = [], data_start
    for _ in range(count):
        start, length, _, following, kind = TARGET.unpack_from(said, at)
        begin = at + TARGET.size
        end = said.index(0, begin)
        if hide and kind.rstrip(b"\0") == b"crypt":
            _hide_key(said, begin, end)
        lines.append(f"{start} {length} {_text(kind)} {said[begin:end].decode(errors='replace')}".rstrip())
        at = data_start + following
    return lines


def _hide_key(said: bytearray, begin: int, end: int) -> None:
    """Overwrite the second word with zeros, unless it only describes a key that is in a keyring."""
    first = said.index(b" ", begin, end) + 1
    last = said.find(b" ", first, end)
    last = end if last < 0 else last
    if said[first] != ord(":"):
        said[first:last] = b"0" * (last - first)


def _ask(request: int, name: str, flags: int, room: int = _ROOM) -> bytearray | None:
    """Return the kernel's answer, None where it has no such device."""
    try:
        said = command(request, name, flags=flags, room=room)
    except OSError as error:
        if error.filename is None and error.errno == errno.ENXIO:
            return None
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO) and not os.path.exists(DRIVER):
            return None  # a kernel without device-mapper has mapped nothing
        raise _unanswered(error) from error
    if _HEAD.unpack_from(said)[7] & _BUFFER_FULL_FLAG:
        said[:] = bytes(room)
        if room >= _MOST_ROOM:
            raise KeybrokerError(Problem.TOOL_FAILED, f"{CONTROL}: {name}: the answer has no end")
        return _ask(request, name, flags, room * 8)
    return said


def command(
    request: int,
    name: str,
    *,
    uuid: str = "",
    flags: int = 0,
    event: int = 0,
    target: bytes = b"",
    room: int = _ROOM,
) -> bytearray:
    """Give the kernel one command and return its answer, all of the buffer.

    Args:
        request: ``REQUEST`` with the command.
        event: what the uevent that follows carries.
        target: the one line of a table, in the kernel's form.
        room: bytes for the answer.

    Raises:
        OSError: as ioctl(2) fails; with a file name where the control node cannot be opened.
    """
    said = bytearray(room)
    _HEAD.pack_into(
        said, 0, *_VERSION, room, _HEAD.size, 1 if target else 0, 0, flags, event, 0, 0,
        name.encode(), uuid.encode(), b"",
    )  # fmt: skip
    said[_HEAD.size : _HEAD.size + len(target)] = target
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(control, request, said)
    finally:
        os.close(control)
    return said


def node_of(said: bytearray) -> str:
    """Return ``major:minor`` of the device that an answer is about."""
    dev = _HEAD.unpack_from(said)[10]
    return f"{os.major(dev)}:{os.minor(dev)}"


def _word(said: bytearray, at: int) -> tuple[str, int]:
    """Return the text from ``at`` up to the next NUL, and where what follows that begins."""
    end = said.index(0, at)
    return said[at:end].decode(errors="replace"), end + 1


def aligned(at: int) -> int:
    """Return the next multiple of 8."""
    return -(-at // 8) * 8


def _text(padded: bytes) -> str:
    return padded.split(b"\0", 1)[0].decode(errors="replace")


def _unanswered(error: OSError) -> KeybrokerError:
    return KeybrokerError(
        Problem.TOOL_FAILED, f"{CONTROL}: {error.strerror}", hint="dmsetup version; modprobe dm-mod"
    )
