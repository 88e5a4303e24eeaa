"""Overwriting a LUKS2 header and its keyslots, so that no passphrase opens the data any more.

1. The disk is held exclusively: nobody has it mounted or mapped, and nobody can come to.
2. Its first bytes, up to where the data begins, are overwritten with chance and then with zeros, each flushed
   to the medium. ``luksErase`` would leave both signatures and the metadata.
3. It is told to discard them, if it can: on flash the old blocks are still there, and only it can reach them.
4. They are read again past the cache: zeros, where any copy of a header could be and in between.

A plain disk is its data: all of it is overwritten, once, with zeros, and what is zero already is left as it
is; so a wipe that was cut goes on where it was, by reading. What a disk keeps aside (spare blocks of flash,
remapped sectors) is out of reach for anyone but its maker; what it holds opens nothing once the keys are
destroyed. Of a plain disk it may be plaintext, and the statement says so: no key's end would help.

Source: cryptsetup FAQ 5.19; NIST SP 800-88, "cryptographic erase".
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from agent import devicemapper, inscription
from agent.change.blocks import CHUNK, Blocks
from agent.change.workshop import Watch, Wiped
from agent.devices import OpenDevice
from agent.luks.header import read_header
from agent.places import Places
from agent.process import run
from keybroker.wire import names
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.values import dataclass

_BLKDISCARD: Final = 0x1277
"""linux/fs.h"""

_NO_DISCARD: Final = (
    *(errno.EOPNOTSUPP, errno.EINVAL, errno.EIO, errno.EREMOTEIO, errno.EPERM),
    errno.ENOTTY,  # a file that stands for a disk
)
_AMBIVALENT: Final = 8
"""blkid(8), "EXIT STATUS"."""

_MAGIC: Final = (b"LUKS\xba\xbe", b"SKUL\xba\xbe")
_PLACES: Final = (0, *(0x4000 << power for power in range(9)))
"""Where cryptsetup looks for a second copy: 16 KiB to 4 MiB (LUKS2 specification, "Binary Header")."""


@dataclass(frozen=True, slots=True)
class MachineWiping:
    """Wipes this machine's disks: see ``agent.change.workshop.Wiping``."""

    places: Places

    def wipe(self, record: Record, watch: Watch) -> Wiped:
        """See ``agent.change.workshop.Wiping``."""
        with self.places.open(record, writable=True) as disk:
            check(record, disk, kept=_kept_filesystems(record))
            if record.stage == "plain":
                return wipe_all(disk, watch=watch)
            return wipe(disk, _length(record), watch=watch)


def check(record: Record, disk: OpenDevice, *, kept: Collection[str] = ()) -> None:
    """Refuse a disk that has something of another's on it: somebody may have taken it into use again.

    What is left of this volume's own header may look like anything but a whole header of another volume, or
    something that blkid knows. A plain disk has the very filesystem that the volume has by now: another one
    of the same kind is somebody's, be it that two disks were exchanged.

    Args:
        kept: the UUID of the volume's filesystem; none where that is not known.

    Raises:
        KeybrokerError: WRONG_DEVICE, and nothing was written; TOOL_FAILED.
    """
    inscription.forget_cache(disk.fd)
    try:
        header = read_header(disk.read, disk.device.size_bytes)
    except (KeybrokerError, OSError):  # torn, half wiped, or none
        header = None
    if header is not None and header.uuid != record.luks_uuid:
        raise _anothers(record, f"the LUKS2 header {header.uuid}")
    found, uuid = signature(disk.path, pass_fds=[disk.fd])
    if record.stage == "plain" and uuid and kept and uuid not in kept:
        raise _anothers(record, f"the filesystem {uuid} and not {', '.join(sorted(kept))}, the volume's,")
    if found not in ("", "crypto_LUKS", record.filesystem if record.stage == "plain" else ""):
        raise _anothers(record, found)


def _kept_filesystems(record: Record) -> frozenset[str]:
    """Return the UUIDs of the filesystem that a plain volume has on another disk by now; none if not open."""
    if record.stage != "plain":
        return frozenset()
    name = names.mapper_name(record.name)
    own = re.compile(re.escape(name) + "-[0-9a-f]{8}")  # after an offline move it is not linked yet
    there = [
        each
        for each in devicemapper.mapped().values()
        if each.name == name or (own.fullmatch(each.name) and each.uuid.startswith("CRYPT-LUKS2-"))
    ]
    return frozenset(signature(str(devicemapper.device(each.name)))[1] for each in there) - {""}


def signature(path: str, *, pass_fds: Sequence[int] = ()) -> tuple[str, str]:
    """Return what ``blkid`` calls what is on a disk, and its UUID; empty where it knows nothing."""
    done = run("blkid", "--probe", "--output", "export", path, pass_fds=pass_fds, expect=(0, 2, 8))
    if done.status == _AMBIVALENT:
        return "several things at once", ""
    said = dict(
        line.split("=", 1) for line in done.output.decode(errors="replace").splitlines() if "=" in line
    )
    return said.get("TYPE") or said.get("PTTYPE") or "", said.get("UUID", "")


def _length(record: Record) -> int:
    if record.pin is None:
        raise KeybrokerError(Problem.CORRUPT, f"{record.name}: the broker's record has no pin")
    return record.pin.data_offset


def _anothers(record: Record, what: str) -> KeybrokerError:
    return KeybrokerError(
        Problem.WRONG_DEVICE,
        f"{record.name}: {what} is on the disk that was to be erased; nothing was written",
        hint="if nobody wants it, wipe it yourself: wipefs --all; and erase again",
    )


def wipe(disk: OpenDevice, length: int, *, watch: Watch) -> Wiped:
    """Overwrite the first ``length`` bytes of a disk, and read back that they are gone.

    Args:
        disk: writable, and so exclusive.
        length: in bytes, a multiple of 4096.

    Raises:
        KeybrokerError: CORRUPT where the disk still has what was overwritten.
        OSError: it cannot be read or written.
    """
    if not disk.exclusive or length <= 0 or length % 4096 or length > disk.device.size_bytes:
        raise ValueError(f"{disk.device.path}: {length} bytes of it are not wiped")
    # Opened once more by the descriptor, because a descriptor that is not O_DIRECT goes through the cache.
    blocks = Blocks(Path(disk.path), writable=True)
    try:
        _overwrite(blocks, length, watch, 0)
        _overwrite(blocks, length, watch, length, zeros=True)
        _look(blocks, length)
        discarded = _discard(blocks, length)
        if not _is_zero(blocks, length):  # what is read of a discarded block is the disk's own affair
            _overwrite(blocks, length, watch, length, zeros=True)
            _look(blocks, length)
        inscription.forget_cache(disk.fd)
    finally:
        blocks.close()
    return Wiped(length, "overwritten with random bytes, then zeros" + (", discarded" if discarded else ""))


def wipe_all(disk: OpenDevice, *, watch: Watch) -> Wiped:
    """Overwrite all of a disk with zeros, and read back that nothing else is left on it.

    Args:
        disk: writable, and so exclusive.

    Raises:
        KeybrokerError: CORRUPT where the disk still has what was overwritten.
        OSError: it cannot be read or written.
    """
    if not disk.exclusive:
        raise ValueError(f"{disk.device.path}: is not held, and so not wiped")
    length = disk.device.size_bytes
    blocks = Blocks(Path(disk.path), writable=True)
    try:
        for offset in range(0, length, CHUNK):
            size = min(CHUNK, length - offset)
            if any(blocks.read(offset, size)):
                blocks.write(offset, bytes(size))
            watch(offset + size, 2 * length)
        blocks.flush()
        discarded = _discard(blocks, length)
        for offset in range(0, length, CHUNK):
            size = min(CHUNK, length - offset)
            if any(blocks.read(offset, size)):
                if not discarded:
                    raise _kept(blocks, offset, "something")
                blocks.write(
                    offset, bytes(size)
                )  # what is read of a discarded block is the disk's own affair
            watch(length + offset + size, 2 * length)
        blocks.flush()
        inscription.forget_cache(disk.fd)
    finally:
        blocks.close()
    return Wiped(length, "all of it overwritten with zeros" + (", discarded" if discarded else ""))


def _overwrite(blocks: Blocks, length: int, watch: Watch, before: int, *, zeros: bool = False) -> None:
    for offset in range(0, length, CHUNK):
        size = min(CHUNK, length - offset)
        blocks.write(offset, bytes(size) if zeros else os.urandom(size))
        watch(before + offset + size, 2 * length)
    blocks.flush()


def _discard(blocks: Blocks, length: int) -> bool:
    try:
        fcntl.ioctl(blocks.fd, _BLKDISCARD, struct.pack("=QQ", 0, length))
    except OSError as error:
        # Many disks have no such thing, and some refuse it: overwritten is what they are in any case.
        if error.errno not in _NO_DISCARD:
            raise
        return False
    return True


def _is_zero(blocks: Blocks, length: int) -> bool:
    return not any(
        any(blocks.read(offset, min(CHUNK, length - offset))) for offset in range(0, length, CHUNK)
    )


def _look(blocks: Blocks, length: int) -> None:
    """Hold that nothing is left, wherever a header may be looked for and in between."""
    for offset in range(0, length, CHUNK):
        held = blocks.read(offset, min(CHUNK, length - offset))
        for place in _PLACES:
            if offset <= place < offset + len(held) and held[place - offset :][:6] in _MAGIC:
                raise _kept(blocks, place, "a LUKS header")
        if any(held):
            raise _kept(blocks, offset, "something")


def _kept(blocks: Blocks, offset: int, what: str) -> KeybrokerError:
    return KeybrokerError(
        Problem.CORRUPT, f"{blocks.path}: {what} at {offset}, after it was overwritten; the disk keeps it"
    )
