"""What is known of a volume that is in use, at one moment: all that a planner of changes looks at, as values.

Made anew before each step (``agent.change.course``): nothing in it is remembered from the step before, so
that a planner cannot tell the first run from the one after a power cut.

Who adds a planner adds what it looks at at the end of ``Survey``, with a default, and has ``Course`` look.
"""

from __future__ import annotations

from agent.plan.keyslots import Keyslots
from agent.plan.situation import Ground, Mapping
from keybroker.wire.records import Grant, Observation, Record
from keybroker.wire.values import dataclass


@dataclass(frozen=True, slots=True)
class Survey:
    """One volume.

    Attributes:
        grant: the broker's record, and the keys that it gave last.
        mapping: how far the volume is open.
        seen: what is on its disk.
        told: what the broker had been told when it gave those keys; None where it gave none yet.
        keyslots: of the header on the disk, each of the grant's keys tried on each; None where they were not
            tried: without a key, without a header, or in the middle of a re-encryption.
        ground: the plain disk; None where it is not to be encrypted in place, or is not plain any more.
    """

    grant: Grant
    mapping: Mapping
    seen: Observation
    told: Observation | None
    keyslots: Keyslots | None
    ground: Ground | None = None

    @property
    def record(self) -> Record:
        """What the broker says of it."""
        return self.grant.record

    @property
    def fresh(self) -> bool:
        """Say whether the keys were fetched after the header's last change.

        What a key that is promoted, or that a keyslot is cleared by, has to be: then it was the broker's
        stored key that opened the header as it is, not one that only this process ever had.
        """
        return self.told == self.seen

    @property
    def is_backed_up(self) -> bool:
        """Say whether the broker's newest copy is of the header as it is on the disk."""
        return self.seen.header is None or self.seen.header.sequence == self.record.sequence
