"""Every step there is. One step is one effect, and says why it is taken.

``STEPS`` lists them all; the crash tests cut each one before, during and after, and a test holds that
no class of this module is missing from the list.
"""

from __future__ import annotations

from typing import get_args

from keybroker.wire.names import KeyVersion
from keybroker.wire.records import Device
from keybroker.wire.values import dataclass


@dataclass(frozen=True, slots=True)
class Ask:
    """Tell the broker what is there now, and get the grant that fits it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    """Have the broker tie the volume to this one disk; nothing is written to it."""

    device: Device
    reason: str


@dataclass(frozen=True, slots=True)
class Deposit:
    """Make a header in memory and give the broker its copy; nothing is written to the disk."""

    version: KeyVersion
    reason: str


@dataclass(frozen=True, slots=True)
class Inscribe:
    """Write the broker's copy of the header to the disk, over zeros or its own remains only."""

    reason: str


@dataclass(frozen=True, slots=True)
class Open:
    """Make the dm-crypt device, from the checked copy of the header."""

    reason: str


@dataclass(frozen=True, slots=True)
class Link:
    """Make the linear device that carries the stable name."""

    reason: str


@dataclass(frozen=True, slots=True)
class MakeFilesystem:
    """Make the declared filesystem in the opened volume."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Tell the broker that the volume is whole; from then on nothing is ever formatted."""

    reason: str


@dataclass(frozen=True, slots=True)
class Mount:
    """Check the filesystem and mount it."""

    point: str
    reason: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Write a swap volume's identity block to its blank disk."""

    reason: str


@dataclass(frozen=True, slots=True)
class SwapOn:
    """Map the swap disk under a new random key and have the kernel page to it."""

    reason: str


Step = Ask | Claim | Deposit | Inscribe | Open | Link | MakeFilesystem | Ready | Mount | Mark | SwapOn

STEPS: tuple[type, ...] = get_args(Step)
