"""Taking the keys of a disk away for good: close it, overwrite the header and every keyslot, say so. Pure.

| of the disk | step |
|---|---|
| somebody uses it | none: IN_USE, with who |
| its stable device stands, unused (an order to erase) | Unlink |
| its dm-crypt device stands | Close |
| it is there, whatever its header looks like by now; of a plain disk, all of it | Wipe |
| this process has wiped it and read that back | Erased |

Only what the broker says is to be erased gets here: an order, or the role ``former``. That a wipe was done is
known to the process that did it, and to nobody else until the broker was told: after a crash it is done
again, and a header of which half is gone is no reason to stop, as it would be anywhere else.
"""

from __future__ import annotations

from typing import Final

from agent.plan.situation import Situation, Stable
from agent.plan.steps import Close, Erased, Unlink, Wipe
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Device, Record

NOTHING_WRITTEN: Final = frozenset({"new", "claimed"})
"""The stages before a header touches a disk: nothing of ours is on it, and it may be somebody else's."""


def is_wanted(record: Record) -> bool:
    """Say whether the broker wants the disk's keys gone."""
    ordered = record.order is not None and record.order.kind == "erase"
    return record.stage != "erased" and (record.role == "former" or (record.role == "holder" and ordered))


def next_step(
    record: Record, here: Situation, stable: Stable, *, wiped: int | None
) -> Unlink | Close | Wipe | Erased | None:
    """Name the step that brings the disk closer to being erased; None where that is not wanted, or done.

    Args:
        stable: what stands under the volume's stable name; of a former volume it is another one's.
        wiped: bytes that this process has overwritten and read back; None before.

    Raises:
        KeybrokerError: IN_USE; NO_DEVICE or WRONG_DEVICE where its disk is not there.
    """
    if not is_wanted(record):
        return None
    if record.volume in stable.legs:
        if record.role == "former":
            raise KeybrokerError(
                Problem.IN_USE, f"{record.name}: its stable device still stands on the disk that it left"
            )
        if stable.used_by:
            raise KeybrokerError(
                Problem.IN_USE,
                f"{record.name}: is used by {stable.used_by}; nothing was erased",
                hint=f"stop what uses it: fuser --verbose --mount /dev/mapper/kb-{record.name}",
            )
        return Unlink("nothing uses the volume, and it is to be erased")
    here.mapping.check(record.name)
    if here.mapping.reach != "closed":
        return Close("nothing stands on the encrypted device any more")
    if record.stage in NOTHING_WRITTEN:
        return Erased("nothing was ever written to a disk for it")
    _there(record, here)
    if wiped is None and record.stage == "plain":
        return Wipe("the disk holds plaintext: all of it is overwritten")
    if wiped is None:
        return Wipe("the broker says that nobody shall open this disk again")
    return Erased(f"{wiped} bytes were overwritten and read back")


def _there(record: Record, here: Situation) -> None:
    meant = record.device or Device(record.serial, record.size_bytes)
    device = here.seen.device if here.seen is not None else None
    if device is None:
        raise KeybrokerError(
            Problem.NO_DEVICE,
            f"{record.name}: the disk {meant.serial} is not there, so it cannot be erased",
            hint=f"attach it again; if it is lost: keybroker volume erase {record.addon} {record.name}"
            " --disk-gone, which gives up a disk that was left before the one that has the data",
        )
    if device.serial != meant.serial:
        raise KeybrokerError(
            Problem.WRONG_DEVICE, f"{record.name}: the disk's serial is {device.serial}, not {meant.serial}"
        )
