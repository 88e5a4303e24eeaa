"""The real ``Shelving``, and the header of an encryption in place: composed, and written to its disk.

Everything that is written is written by ``agent.shelf``, to a disk that is held exclusively.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from agent import blank, plain, shelf
from agent.devices import OpenDevice
from agent.ground import SUPERBLOCK_BYTES, taken_bytes
from agent.inscription import forget_cache
from agent.luks import copy
from agent.luks.copy import HeaderImage
from agent.luks.header import read_header
from agent.luks.inplace import accept_in_place
from agent.luks.mould import compose_in_place
from agent.places import Places
from agent.plan import provision
from agent.plan.situation import Content, Ground
from agent.process import run
from agent.world import Composed
from keybroker.wire import names
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass

CHECK_SECONDS: Final = 12 * 3600.0
"""A check reads all that the filesystem knows of itself; of some terabytes that takes hours."""

_CHECKS: Final = {"ext4": ("e2fsck", "-f", "-n"), "xfs": ("xfs_repair", "-n")}
"""Neither writes (e2fsck(8), xfs_repair(8)); both say by a status other than 0 that all is not well."""

_MENDS: Final = {"ext4": "e2fsck -f DISK", "xfs": "xfs_repair DISK"}


@dataclass(frozen=True, slots=True)
class MachineShelving:
    """The plain disks of this machine."""

    places: Places

    def look(self, record: Record, *, in_use: bool) -> Ground:
        """See ``agent.change.workshop.Shelving``."""
        with self.places.open(record) as disk:
            if not in_use:
                _check_free(record, disk)
            forget_cache(disk.fd)
            size = disk.device.size_bytes
            return Ground(
                kind=plain.recognised(disk),
                size_bytes=size,
                taken_bytes=taken_bytes(disk.read(0, SUPERBLOCK_BYTES)),
                is_shelved=not in_use and shelf.is_shelved(disk.fd, size),
            )

    def check(self, record: Record) -> None:
        """See ``agent.change.workshop.Shelving``."""
        with self.places.open(record) as disk:
            _check_free(record, disk)
            words = _CHECKS[record.filesystem]
            done = run(
                *words, disk.path, pass_fds=[disk.fd], expect=range(256), timeout_seconds=CHECK_SECONDS
            )
        if done.status != 0:
            raise KeybrokerError(
                Problem.CONFLICT,
                f"{record.name}: {' '.join(words)} ended with status {done.status}: its filesystem is not"
                " clean, and is not encrypted as it is; nothing was changed",
                hint=f"keybroker-agent lock; {_MENDS[record.filesystem]}",
            )

    def shelve(self, record: Record) -> None:
        """See ``agent.change.workshop.Shelving``."""
        with self.places.open(record, writable=True) as disk:
            provision.check_plain(record, Content(plain.recognised(disk), untouched=False, unfinished=False))
            shelf.shelve(disk.fd, disk.device.size_bytes)


def _check_free(record: Record, disk: OpenDevice) -> None:
    if used := blank.used(disk):
        raise KeybrokerError(
            Problem.IN_USE,
            f"{record.name}: the plain disk is not free: {used}; it was left as it is",
            hint="unmount it, and take it out of /etc/fstab",
        )


def compose(record: Record, key: Secret, places: Places, *, runtime: Path) -> Composed:
    """Make the header that an encryption in place of a disk begins with (Raises: as ``compose_for``)."""
    with places.open(record) as disk:
        size, sector = disk.device.size_bytes, max(512, disk.device.logical_block)
    return compose_for(record, key, size, sector=sector, runtime=runtime)


def compose_for(record: Record, key: Secret, size_bytes: int, *, sector: int, runtime: Path) -> Composed:
    """Make the header that an encryption in place begins with, checked as it would be at each boot.

    Args:
        size_bytes: of the disk.
        sector: encryption sector size in bytes: the filesystem was made for the disk as it is.
        runtime: a directory on a tmpfs.

    Raises:
        KeybrokerError: TOOL_FAILED; HEADER_REFUSED if cryptsetup made other than what the profile asks for.
    """
    with tempfile.TemporaryDirectory(prefix="compose-", dir=runtime) as private:
        image = compose_in_place(
            Path(private), key,
            uuid=record.luks_uuid, label=names.luks_label(record.volume), profile=record.profile,
            sector_size=sector, size_bytes=size_bytes,
        )  # fmt: skip
    header = read_header(image.read, image.total)
    accept_in_place(header, record.profile, header.pin, size_bytes)
    return Composed(header.seen(), copy.packed(image))


def inscribe(record: Record, places: Places, image: HeaderImage) -> None:
    """Write the header that an encryption in place begins with over what is shelved of the filesystem.

    Args:
        image: the broker's copy.

    Raises:
        KeybrokerError: CONFLICT where no encryption in place is under way; HEADER_REFUSED for another header;
            as ``agent.shelf.inscribe``.
    """
    if record.is_bare or record.pin is None:
        raise KeybrokerError(Problem.CONFLICT, f"{record.name}: the broker has no header for its plain disk")
    header = read_header(image.read, image.total)
    with places.open(record, writable=True) as disk:
        # Whoever sent it, this is about to be written to a disk and opened with the key.
        accept_in_place(header, record.profile, record.pin, disk.device.size_bytes)
        is_known = plain.recognised(disk) == record.filesystem
        shelf.inscribe(disk.fd, disk.device.size_bytes, image, header, is_known=is_known)
