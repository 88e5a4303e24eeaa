"""Every step there is. One step is one effect, and says why it is taken.

``STEPS`` lists them all; the crash tests cut each one before, during and after, and a test holds that
no class of this module is missing from the list.
"""

from __future__ import annotations

from typing import Literal, get_args

from keybroker.wire.names import KeyVersion
from keybroker.wire.records import Device
from keybroker.wire.values import dataclass

Layer = Literal["crypt", "linear", "filesystem"]
"""Of an open volume, from the bottom up."""


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


@dataclass(frozen=True, slots=True)
class Stage:
    """Have the broker mint the wanted key version; the current one stays what it is."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fill:
    """Add a keyslot that ``version`` opens, by means of a key that opens one already."""

    version: KeyVersion
    by: KeyVersion
    reason: str


@dataclass(frozen=True, slots=True)
class Tag:
    """Have our token say which keyslot was filled with which key version."""

    reason: str


@dataclass(frozen=True, slots=True)
class Enclose:
    """Have our token carry the passphrase, encrypted to the offline recovery key."""

    reason: str


@dataclass(frozen=True, slots=True)
class Backup:
    """Leave the broker a copy of the header as it is on the disk now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Have the broker make ``version`` the current one, on the proof that it opens the header."""

    version: KeyVersion
    reason: str


@dataclass(frozen=True, slots=True)
class Clear:
    """Kill a keyslot, while the key ``by`` opens another one."""

    keyslot: int
    by: KeyVersion
    reason: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Tell the broker that ``version`` opens nothing on the disk any more."""

    version: KeyVersion
    reason: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the broker that the order begins, or which volume key it leads to."""

    order: int
    digest: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Begin:
    """Write a re-encryption into the header, and encrypt nothing yet."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reencrypt:
    """Re-encrypt all that is left; long, and may be cut anywhere."""

    reason: str


@dataclass(frozen=True, slots=True)
class Shelve:
    """Keep the beginning of a plain filesystem at the end of its disk, in room that it does not use."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unlink:
    """Take the stable device away, which nothing uses."""

    reason: str


@dataclass(frozen=True, slots=True)
class Mirror:
    """Have every write to the stable device go to both disks, and the kernel copy the rest; reads go on."""

    reason: str


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy the volume to its successor while nothing uses it, or wait until the mirror has; long."""

    reason: str


@dataclass(frozen=True, slots=True)
class Verify:
    """Compare what both disks hold; long."""

    reason: str


@dataclass(frozen=True, slots=True)
class Raise:
    """Write the successor's header anew, so that its sequence tells it from all that were there before."""

    reason: str


@dataclass(frozen=True, slots=True)
class Switch:
    """Have the broker make the successor the holder: the commit point of a migration."""

    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Have the stable device stand on the holder's disk alone."""

    reason: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close a volume's dm-crypt device that nothing stands on."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wipe:
    """Overwrite a header and every keyslot, or all of a plain disk, and read back that it is gone; long."""

    reason: str


@dataclass(frozen=True, slots=True)
class Erased:
    """Tell the broker that a disk has no header any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Grow:
    """Let one layer of an open volume take all of the one below it."""

    layer: Layer
    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Tell the broker that an order is done."""

    order: int
    reason: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """Tell the broker that our key opens a header that somebody else made, and leave it the header's copy."""

    reason: str


@dataclass(frozen=True, slots=True)
class Detach:
    """Take a token of another tool's out of the header."""

    token: int
    reason: str


@dataclass(frozen=True, slots=True)
class Evict:
    """Kill a keyslot that is not ours, as an operator asked, while the key ``by`` opens another one."""

    keyslot: int
    by: KeyVersion
    reason: str


Step = Ask | Claim | Deposit | Inscribe | Open | Link | MakeFilesystem | Ready | Mount | Mark | SwapOn
"""Of a boot (``agent.plan.provision``)."""

Change = (
    Stage | Fill | Tag | Enclose | Backup | Promote | Clear | Retire  # rotation
    | Announce | Evict | Begin | Reencrypt | Finish  # re-encryption
    | Shelve  # encryption in place, which also takes steps of a boot
    | Unlink | Mirror | Copy | Verify | Raise | Switch | Drop | Close  # migration
    | Wipe | Erased | Grow  # erasure, resizing
)  # fmt: skip
"""Of a volume that is in use; a migration also takes steps of a boot, for its successor."""

Adoption = Ask | Fill | Tag | Adopt | Detach | Evict | Backup
"""Of a volume that somebody else formatted (``agent.plan.adoption``)."""

BOOT_STEPS: tuple[type, ...] = get_args(Step)
CHANGE_STEPS: tuple[type, ...] = get_args(Change)
ADOPTION_STEPS: tuple[type, ...] = (Adopt, Detach)
STEPS: tuple[type, ...] = BOOT_STEPS + CHANGE_STEPS + ADOPTION_STEPS
