"""What a change acts on, as Protocols, beside what a boot does (``agent.world``).

``agent/change/headers.py`` and its neighbours are the real thing; tests/crash has them in memory and on
files, and holds all of them to the same contract. Every method may be repeated: what is so already stays so.
Each looks itself before it writes, and compares afterwards what it has done with what was meant.
"""

from __future__ import annotations

from collections.abc import Mapping as Keys
from typing import Protocol

from agent.plan.keyslots import Keyslots
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
from keybroker.wire.reports import ReportReply, ReportRequest
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

    def tag(self, record: Record, versions: Keys[int, KeyVersion]) -> None:
        """Have our one token name these keyslots, each with its key version; it is replaced in place."""

    def clear(self, record: Record, keys: Keys[KeyVersion, Secret], *, keyslot: int, by: KeyVersion) -> None:
        """Kill a keyslot, after it was seen that ``by`` opens another one that keeps the data.

        Raises:
            KeybrokerError: LOCKED_OUT where ``by`` opens no other one, FOREIGN_KEYSLOTS where it is neither
                named by our token nor opened by a key; and nothing was written.
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
