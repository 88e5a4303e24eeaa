"""What the driver acts on, as Protocols: the broker, the disks, the mappings over them, what is inside.

``agent/machine.py`` is the real thing; tests/crash has one in memory and one on files, and holds all of
them to the same contract. Every method may be repeated: what is so already stays so.
"""

from __future__ import annotations

from collections.abc import Mapping as Keys
from collections.abc import Sequence
from typing import Protocol

from agent.luks.copy import Held
from agent.plan.situation import Content, Mapping
from keybroker.wire.messages import (
    ClaimRequest,
    DepositRequest,
    HeaderCopy,
    ReadyRequest,
    UnlockReply,
    UnlockRequest,
)
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.records import Grant, Observation, Record, SeenHeader
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass


@dataclass(frozen=True, slots=True)
class Sighting:
    """What stands on a disk, and the bytes of its header as they were read, once.

    Attributes:
        held: the header, in KBH1 form or not yet (``agent.luks.copy``), from which the volume is opened: what
            was checked is what is used, whatever the disk says a moment later. None where there is no header.
        named: highest key version that our token names for a keyslot; None where it names none.
        carried: the recovery ciphertext in our token; None where it carries none.
    """

    observation: Observation
    held: Secret | Held | None = None
    named: KeyVersion | None = None
    carried: str | None = None

    @property
    def copy(self) -> Secret | None:
        """The header in KBH1 form, None where there is none."""
        return self.held.packed() if isinstance(self.held, Held) else self.held


@dataclass(frozen=True, slots=True)
class Composed:
    """A header that exists nowhere but in memory."""

    header: SeenHeader
    copy: Secret


class Broker(Protocol):
    """The calls of a host, each with the errors that ``keybroker.wire.problems`` lists."""

    def unlock(self, request: UnlockRequest) -> UnlockReply:
        """Tell what stands at each volume's place, and get every volume's record, with keys where it fits."""

    def claim(self, volume: VolumeId, request: ClaimRequest) -> Grant:
        """Tie a new volume to a blank disk."""

    def deposit(self, volume: VolumeId, request: DepositRequest) -> Record:
        """Leave a header with the broker before it touches the disk."""

    def header_copy(self, volume: VolumeId) -> HeaderCopy:
        """Fetch the header that was left."""

    def ready(self, volume: VolumeId, request: ReadyRequest) -> Record:
        """Say that the volume is whole."""


class Disks(Protocol):
    """The disks themselves, below any encryption."""

    def wait(self, records: Sequence[Record]) -> None:
        """Return when one of their disks is there, or when waiting has lasted as long as it may."""

    def look(self, record: Record) -> Sighting:
        """Look at a volume's disk, without writing; trouble with reading it is a sight like any other."""

    def compose(self, record: Record, key: Secret, sector_size: int | None = None) -> Composed:
        """Make a header for the volume's disk in memory.

        Args:
            sector_size: of the encryption, in bytes: that of the volume whose data is to come here, because a
                filesystem is made for one; None for the best that the disk can do.

        Raises:
            KeybrokerError: NO_DEVICE, TOOL_FAILED; HEADER_REFUSED if it is not what the profile asks for;
                WRONG_DEVICE for a disk whose blocks are larger than ``sector_size``.
        """

    def inscribe(self, record: Record, copied: Secret) -> None:
        """Write a header to the disk, over zeros or parts of itself only.

        Raises:
            KeybrokerError: NO_DEVICE, WRONG_DEVICE, or NOT_BLANK (and nothing was written).
        """

    def mark(self, record: Record) -> None:
        """Write a swap volume's identity block to its blank disk.

        Raises:
            KeybrokerError: NO_DEVICE, WRONG_DEVICE, or NOT_BLANK (and nothing was written).
        """


class Mappings(Protocol):
    """The device-mapper devices of a volume."""

    def look(self, record: Record) -> Mapping:
        """Say how far the volume is open; what is not exactly as meant is an obstacle."""

    def open(self, record: Record, keys: Keys[KeyVersion, Secret], seen: Sighting) -> tuple[str, ...]:
        """Make the dm-crypt device from the sighting's copy, after the copy was checked.

        Returns:
            What an operator should hear though nothing stopped.

        Raises:
            KeybrokerError: HEADER_REFUSED, LOCKED_OUT, WRONG_DEVICE; then nothing is left open.
        """

    def link(self, record: Record) -> None:
        """Make the linear device with the stable name.

        Raises:
            KeybrokerError: WRONG_DEVICE where the name is taken by something else.
        """

    def swap_on(self, record: Record) -> None:
        """Map a marked swap disk under a new random key and have the kernel page to it.

        Raises:
            KeybrokerError: WRONG_DEVICE where the mark is not this volume's; TOOL_FAILED.
        """


class Filesystems(Protocol):
    """What is inside an opened volume."""

    def look(self, record: Record) -> Content:
        """Say what is recognised inside, without writing."""

    def make(self, record: Record) -> None:
        """Make the declared filesystem; again looks itself before it writes.

        Raises:
            KeybrokerError: NOT_BLANK (and nothing was written); TOOL_FAILED.
        """

    def mounted(self, record: Record) -> bool | None:
        """Say whether it is mounted where it must be; None where that is somebody else's business."""

    def mount(self, record: Record) -> None:
        """Check the filesystem and mount it.

        Raises:
            KeybrokerError: TOOL_FAILED, or NOT_BLANK for a mount point that is not an empty directory.
        """


@dataclass(frozen=True, slots=True)
class World:
    """All that the driver may touch."""

    broker: Broker
    disks: Disks
    mappings: Mappings
    filesystems: Filesystems
