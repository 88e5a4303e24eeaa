"""What is known of a volume at one moment: all that a planner looks at, as values.

Nothing here is remembered from one run to the next. The broker's record and what stands on the disk are
durable already; a journal of our own would be a third thing to disagree with them (DESIGN section 2).
"""

from __future__ import annotations

from typing import Literal

from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Observation
from keybroker.wire.values import dataclass

Reach = Literal["closed", "crypt", "open"]
"""How far the way in is built: ``crypt`` is the dm-crypt device alone, ``open`` is all of it.

For a data volume ``open`` means the stable name leads to the data; for swap, that the kernel pages to it.
"""


@dataclass(frozen=True, slots=True)
class Mapping:
    """What stands under the volume's names in /dev/mapper.

    Attributes:
        reach: counts only devices that are exactly what is meant: table, device below, and dm UUID.
        obstacle: why what stands there is not ours to use, in words; empty where nothing is in the way.
    """

    reach: Reach = "closed"
    obstacle: str = ""

    def check(self, name: str) -> None:
        """Check that nothing is in a volume's way.

        Raises:
            KeybrokerError: WRONG_DEVICE.
        """
        if self.obstacle:
            raise KeybrokerError(
                Problem.WRONG_DEVICE,
                f"{name}: {self.obstacle}",
                hint="look with: dmsetup table; dmsetup info -c",
            )


@dataclass(frozen=True, slots=True)
class Stable:
    """What stands under a stable name, during a migration.

    Attributes:
        legs: the volumes on whose disks it stands; of a mirror's two, first the one that is copied. Empty
            where there is no such device.
        in_sync: both legs of a mirror hold everything.
        failure: which leg of a mirror failed at what, in words; empty where none did.
        used_by: who has it mounted, mapped or open, in words; empty where nobody has.
        size_bytes: 0 where there is no such device.
    """

    legs: tuple[VolumeId, ...] = ()
    in_sync: bool = False
    failure: str = ""
    used_by: str = ""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Content:
    """What is inside an opened volume, as far as anybody can recognise it.

    Attributes:
        kind: what ``blkid -p`` calls it (``ext4``, ``xfs``, anything); empty where it recognises nothing.
        untouched: the ends of the data area and samples between are zero on the device *below* the
            encryption: nothing was ever written through it.
        unfinished: our own mark says that a filesystem was being made and that it was not finished.
    """

    kind: str
    untouched: bool
    unfinished: bool


@dataclass(frozen=True, slots=True)
class Ground:
    """A plain disk that is to be encrypted in place.

    Attributes:
        kind: what ``blkid -p`` calls what is on it.
        size_bytes: of the disk.
        taken_bytes: how much of it, from its start, the filesystem takes; None where nothing says so.
        is_shelved: the filesystem's beginning is kept at the disk's end, as it is now.
    """

    kind: str
    size_bytes: int
    taken_bytes: int | None
    is_shelved: bool


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything the planner may know, besides the grant.

    Attributes:
        mapping: how far the volume is open.
        seen: what is on the disk; None where it was not looked at, because the volume is open already.
        told: what the broker had been told when it made the grant; None where that is not known.
        content: None where it was not looked at.
        mounted: None where mounting is not the agent's business (it is systemd's).
    """

    mapping: Mapping
    seen: Observation | None
    told: Observation | None
    content: Content | None = None
    mounted: bool | None = None
