"""LUKS1: recognised, and converted to LUKS2 where an operator asks for that, after its header was saved.

``cryptsetup convert`` moves the keyslots and then writes the new header: a cut in between leaves neither.
So the header is in a file first, in the form that ``cryptsetup luksHeaderRestore`` reads, and without a file
nothing is converted; nor while anybody has the volume open.

Source: LUKS On-Disk Format Specification 1.2.3, figure 1; cryptsetup-convert(8).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

from agent import layout
from agent.devicemapper import SECTOR
from agent.devices import OpenDevice
from agent.luks.copies import LUKS1
from agent.process import run
from agent.restoration import Holder
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record

CONVERT_SECONDS: Final = 120.0
LARGEST_HEADER: Final = 64 << 20
"""In bytes; a LUKS1 header has 2 MiB at most, unless its data was aligned to something."""

_CIPHER_AT: Final = 8
_CIPHER_BYTES: Final = 32
"""Of its name, and then of its mode."""

_PAYLOAD_AT: Final = 104
_UUID_AT: Final = 168
_UUID_BYTES: Final = 40


def is_luks1(disk: OpenDevice) -> bool:
    """Say whether a disk begins with a LUKS1 header."""
    return disk.read(0, len(LUKS1)) == LUKS1


def refusal(record: Record, disk: OpenDevice) -> KeybrokerError:
    """Return the error of a volume that has to be converted first, with the way to do it."""
    return KeybrokerError(
        Problem.HEADER_REFUSED,
        f"{record.name}: {disk.device.path} has a LUKS1 header, and only LUKS2 can be adopted",
        hint="close it, then adopt it with --convert --header-backup FILE, which saves its header and runs:"
        f" cryptsetup convert {disk.device.path} --type luks2",
    )


def convert(record: Record, places: Holder, backup: Path) -> None:
    """Save a LUKS1 header to a file and convert it; where it is LUKS2 already nothing is done.

    Args:
        backup: a file that is not there yet, or that holds this very header from a run that was cut.

    Raises:
        KeybrokerError: WRONG_DEVICE where somebody has the disk; HEADER_REFUSED where it is another volume's;
            EXISTS where the file holds something else; CONFIGURATION where it cannot be written; TOOL_FAILED.
    """
    with places.open(record, writable=True) as disk:  # claimed: nobody has it open
        if not is_luks1(disk):
            return
        _check_uuid(record, disk)
        _check_cipher(record, disk)
        _save(backup, _header(record, disk))
    with places.open(record) as disk:  # not claimed: cryptsetup claims it itself
        run(
            "cryptsetup", "convert", "--batch-mode", "--type", "luks2", disk.path,
            pass_fds=[disk.fd], timeout_seconds=CONVERT_SECONDS,
        )  # fmt: skip


def _check_uuid(record: Record, disk: OpenDevice) -> None:
    found = disk.read(_UUID_AT, _UUID_BYTES).partition(b"\0")[0].decode("ascii", "replace")
    if found != record.luks_uuid:
        raise KeybrokerError(
            Problem.HEADER_REFUSED,
            f"{record.name}: the header's UUID is {found[:40]!a}, declared is {record.luks_uuid}",
        )


def _check_cipher(record: Record, disk: OpenDevice) -> None:
    name, mode = (_text(disk, at) for at in (_CIPHER_AT, _CIPHER_AT + _CIPHER_BYTES))
    found = f"{name}-{mode}"
    if found != record.profile.cipher:
        raise KeybrokerError(
            Problem.HEADER_REFUSED,
            f"{record.name}: its cipher is {found[:80]!a}, declared is {record.profile.cipher}",
            hint="of one that LUKS2 has no name for (cryptctl's), move the data: keybroker volume add",
        )


def _text(disk: OpenDevice, at: int) -> str:
    return disk.read(at, _CIPHER_BYTES).partition(b"\0")[0].decode("ascii", "replace")


def _header(record: Record, disk: OpenDevice) -> bytes:
    (payload,) = struct.unpack(">I", disk.read(_PAYLOAD_AT, 4))
    size = payload * SECTOR
    if not 0 < size <= min(LARGEST_HEADER, disk.device.size_bytes):
        raise KeybrokerError(Problem.HEADER_REFUSED, f"{record.name}: its data is said to begin at {size}")
    return disk.read(0, size)


def _save(backup: Path, held: bytes) -> None:
    try:
        if os.path.lexists(backup):
            if backup.read_bytes() == held:
                return
            raise KeybrokerError(Problem.EXISTS, f"{backup}: is there already, and holds something else")
        layout.replace(backup, held, mode=0o600)
    except OSError as error:
        raise KeybrokerError(Problem.CONFIGURATION, f"{backup}: {error.strerror}") from error
