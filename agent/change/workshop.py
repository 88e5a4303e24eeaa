"""What a change acts on, as Protocols, beside what a boot does (``agent.world``).

``agent/change/headers.py`` and its neighbours are the real thing; tests/crash has them in memory and on
files, and holds all of them to the same contract. Every method may be repeated: what is so already stays so.
Each looks itself before it writes, and compares afterwards what it has done with what was meant.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as Keys
from contextlib import AbstractContextManager
from typing import Protocol

from agent.plan.growth import Sizes
from agent.plan.keyslots import Keyslots
from agent.plan.situation import Ground, Stable
from agent.plan.steps import Layer
from agent.world import Broker as BootBroker
from agent.world import Sighting, World
from keybroker.wire.changes import (
    AdoptionRequest,
    ErasedRequest,
    PhaseRequest,
    PromoteRequest,
    StageRequest,
    SwitchReply,
    SwitchRequest,
)
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.records import Grant, Record
from keybroker.wire.reports import Progress, ReportReply, ReportRequest
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass


class Broker(BootBroker, Protocol):
    """The calls of a host that changes its volumes, each with the errors of ``keybroker.wire.problems``."""

    def report(self, request: ReportRequest) -> ReportReply:
        """Say what is going on; hear what is wanted."""

    def stage(self, volume: VolumeId, request: StageRequest) -> Grant:
        """Have the wanted key version minted; get it, and the current one."""

    def promote(self, volume: VolumeId, request: PromoteRequest) -> Record:
        """Have the staged version made current."""

    def retire(self, volume: VolumeId, version: KeyVersion) -> Record:
        """Say that the retiring version opens nothing any more."""

    def announce(self, volume: VolumeId, request: PhaseRequest) -> Record:
        """Say that an order begins, and which volume key it leads to."""

    def finish(self, volume: VolumeId, order: int) -> Record:
        """Say that an order is done."""

    def switch(self, volume: VolumeId, request: SwitchRequest) -> SwitchReply:
        """Have a successor made the holder."""

    def erased(self, volume: VolumeId, request: ErasedRequest) -> Record:
        """Say that a disk has no header any more."""

    def adopt(self, volume: VolumeId, request: AdoptionRequest) -> Record:
        """Say that our key is in a header that somebody else made."""


class Headers(Protocol):
    """The LUKS2 header on a volume's disk, and its keyslots."""

    def probe(self, record: Record, keys: Keys[KeyVersion, Secret], seen: Sighting) -> Keyslots:
        """Say which keyslots the header has and which of the keys opens each; from the sighting's copy.

        Raises:
            KeybrokerError: HEADER_REFUSED where the copy is not what profile and pin allow; TOOL_FAILED.
        """

    def fill(
        self, record: Record, keys: Keys[KeyVersion, Secret], *, version: KeyVersion, by: KeyVersion
    ) -> None:
        """Add a keyslot that ``version`` opens, on the disk itself.

        Raises:
            KeybrokerError: HEADER_REFUSED (and nothing was written), LOCKED_OUT where ``by`` opens nothing,
                TOOL_FAILED.
        """

    def tag(self, record: Record, versions: Keys[int, KeyVersion], recovery: str | None = None) -> None:
        """Have our one token name these keyslots, each with its key version; it is replaced in place.

        Args:
            recovery: what it is to carry for a day without a broker; None leaves there what it carries.
        """

    def enclose(self, record: Record, recovery: str) -> None:
        """Have our token carry a recovery ciphertext, and say what it says otherwise."""

    def raise_sequence(self, record: Record) -> int:
        """Write our token anew, as it is, so that the header's sequence grows.

        Returns:
            The sequence that it has by now.
        """

    def clear(self, record: Record, keys: Keys[KeyVersion, Secret], *, keyslot: int, by: KeyVersion) -> None:
        """Kill a keyslot, after it was seen that ``by`` opens another one that keeps the data.

        Raises:
            KeybrokerError: LOCKED_OUT where ``by`` opens no other one, FOREIGN_KEYSLOTS where it is neither
                named by our token nor opened by a key; and nothing was written.
        """

    def evict(self, record: Record, keys: Keys[KeyVersion, Secret], *, keyslot: int, by: KeyVersion) -> None:
        """Kill a keyslot of somebody else's, after it was seen that ``by`` opens one that our token names.

        Raises:
            KeybrokerError: LOCKED_OUT where ``by`` opens no other one, and nothing was written.
        """

    def detach(self, record: Record, *, token: int) -> None:
        """Take a token of another tool's out of the header.

        Raises:
            KeybrokerError: CONFLICT where it is our own.
        """


Watch = Callable[[int, int], None]
"""Is told, again and again, how many bytes of how many long work has done; what it raises ends the work."""


class Legs(Protocol):
    """The stable device of a volume that moves, and the two disks that it stands on."""

    def alone(self, holder: Record) -> AbstractContextManager[None]:
        """Keep other agents of this machine from moving the volume meanwhile.

        Raises:
            KeybrokerError: BUSY where another one is at it.
        """

    def look(self, holder: Record, partner: Record) -> Stable:
        """Say what stands under the name of both.

        Raises:
            KeybrokerError: WRONG_DEVICE for what is not ours, or stands on neither of the two.
        """

    def mirror(self, holder: Record, successor: Record) -> None:
        """Have every write go to both disks, and the kernel copy the rest.

        Raises:
            KeybrokerError: IN_USE, WRONG_DEVICE (too small, too large blocks) for the target, and nothing was
                written; TOOL_FAILED.
        """

    def wait(self, holder: Record, watch: Watch) -> None:
        """Return when the mirror holds everything twice, or when one of its legs failed."""

    def copy(self, holder: Record, successor: Record, watch: Watch) -> None:
        """Copy what the target lacks, durably; both are held exclusively from here to ``release``.

        Raises:
            KeybrokerError: IN_USE where the stable device is there, or anything uses one of the two.
        """

    def verify(self, holder: Record, successor: Record, watch: Watch) -> tuple[int, str]:
        """Compare all of what both hold, past every cache.

        Returns:
            The bytes that are alike, 0 where that was not seen; and, in words, where they differ while
            nothing writes. Neither of them says that a leg failed meanwhile.
        """

    def drop(self, holder: Record, partner: Record) -> None:
        """Have the stable device stand on the holder's disk alone.

        Raises:
            KeybrokerError: MISMATCH where that disk does not have all that was acknowledged; nothing changed.
        """

    def unlink(self, record: Record) -> None:
        """Take the stable device away (IN_USE where somebody uses it)."""

    def close(self, record: Record) -> None:
        """Close a volume's dm-crypt device, on which nothing stands any more."""

    def release(self, *records: Record) -> None:
        """Let go of disks that are held; without an argument, of all."""


class Growth(Protocol):
    """The layers of an open volume."""

    def sizes(self, record: Record) -> Sizes | None:
        """Measure them; None where the volume is not open, or stands on two disks."""

    def grow(self, record: Record, layer: Layer, keys: Keys[KeyVersion, Secret], seen: Sighting) -> None:
        """Let one layer take all of the one below it.

        Args:
            keys: of use for dm-crypt only, as is the sighting's copy of the header.

        Raises:
            KeybrokerError: LOCKED_OUT, HEADER_REFUSED, TOOL_FAILED.
        """


class Wiping(Protocol):
    """The end of a disk's header."""

    def wipe(self, record: Record, watch: Watch) -> Wiped:
        """Overwrite the header and all keyslots of a volume's disk, and see that they are gone.

        Raises:
            KeybrokerError: WRONG_DEVICE where the disk is in use, another, or has something of another's on
                it, and nothing was written; CORRUPT where it keeps what was overwritten.
        """


@dataclass(frozen=True, slots=True)
class Wiped:
    """What was done to a disk.

    Attributes:
        length: bytes from its start that are gone.
        method: in words, for the record of destruction.
    """

    length: int
    method: str


class Reencryption(Protocol):
    """A new volume key, under a volume that is in use."""

    def check(self) -> None:
        """Refuse before anything is begun: what has begun is only ever finished (TOOL_FAILED)."""

    def begin(self, record: Record, keys: Keys[KeyVersion, Secret], *, by: KeyVersion) -> None:
        """Write a re-encryption into the header: the new volume key, under the passphrase ``by``.

        Raises:
            KeybrokerError: HEADER_REFUSED (and nothing was written); LOCKED_OUT where ``by`` opens nothing;
                TOOL_FAILED, also for a cryptsetup that corrupts data by it (``check``).
        """

    def run(
        self,
        record: Record,
        keys: Keys[KeyVersion, Secret],
        *,
        by: KeyVersion,
        progress: Callable[[Progress], None],
    ) -> None:
        """Re-encrypt all that is left, as fast as the order and the volume's users allow; long.

        Args:
            progress: is called every second or so; what it raises stops the work where it can go on.

        Raises:
            KeybrokerError: HEADER_REFUSED, TOOL_FAILED; WRONG_DEVICE where the volume has to be closed and
                opened before it can go on, because the tool was killed.
        """


class Shelving(Protocol):
    """A plain disk that is to be encrypted in place, before its header is on it."""

    def look(self, record: Record, *, in_use: bool) -> Ground:
        """Look at the disk, without writing.

        Args:
            in_use: the volume is open, so that the disk is held by us; else nobody may hold it.

        Raises:
            KeybrokerError: IN_USE; NO_DEVICE, TOOL_FAILED.
        """

    def check(self, record: Record) -> None:
        """Look at every part of the filesystem, before anything is begun; long; nothing is written.

        Raises:
            KeybrokerError: CONFLICT where it is not clean; IN_USE, TOOL_FAILED.
        """

    def shelve(self, record: Record) -> None:
        """Copy the filesystem's beginning to the disk's end, durably.

        Raises:
            KeybrokerError: WRONG_DEVICE where there is no room for it, or another filesystem, or somebody
                uses the disk, and nothing was written; CORRUPT where it is not there afterwards.
        """


@dataclass(frozen=True, slots=True)
class Workshop:
    """All that a change may touch.

    Attributes:
        world: what a boot touches, too; its broker is ``broker``.
    """

    world: World
    broker: Broker
    headers: Headers
    legs: Legs
    growth: Growth
    wiping: Wiping
    reencryption: Reencryption
    shelving: Shelving
