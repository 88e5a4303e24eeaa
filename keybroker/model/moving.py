"""Two volumes that stand for the same data, and the end of one: pure.

    holder ── Switch ──▶ former ── Erased ──▶ erased
    successor ── Switch ──▶ holder
        └── drop ──▶ former, or erased at once where nothing was written for it
    any ── pend ──▶ the same, with a deletion ── ending, destroyed ──▶ erased, and without any key

Until Switch the holder has the data, afterwards its successor; there is no moment with two or none.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from keybroker.model.deletion import Deletion
from keybroker.model.volume import Volume, conflict
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Device

_SECTOR: Final = 4096
"""In bytes; what is compared ends with a whole one."""

UNTOUCHED: Final = ("new", "claimed")
"""Stages at which nothing was ever written to a disk: the header is deposited before it is inscribed."""


def switch(
    successor: Volume, holder: Volume, revision: int, holder_revision: int, compared: int, sequence: int
) -> tuple[Volume, Volume]:
    """Let the successor hold the data from now on.

    A header of the successor from before is of a disk that was copied in part, and gets no key any more.

    Args:
        compared: bytes that both disks were seen to hold alike.
        sequence: of the successor's header, which was written to after they were.

    Returns:
        The new holder and the former one; the very same two where that is so already.

    Raises:
        KeybrokerError: CONFLICT for another revision, stage, role or partner, or without a migration;
            MISMATCH where not all of the data was compared, or the newest header copy is of another sequence.
    """
    if (successor.partner, holder.partner) != (holder.id, successor.id):
        raise conflict(successor, "is nobody's successor")
    if (successor.role, holder.role) == ("holder", "former"):
        return successor, holder
    if (successor.role, holder.role) != ("successor", "holder"):
        raise conflict(successor, f"is {successor.role}, and its partner {holder.role}")
    if holder.order is None or holder.order.kind != "migrate":
        raise conflict(holder, "no migration is ordered")
    if successor.stage != "ready" or holder.stage not in ("ready", "plain"):
        raise conflict(successor, f"is {successor.stage}, and its partner {holder.stage}")
    if holder.rotating:
        raise conflict(holder, "its key is being rotated; that comes first")
    successor.expect(revision)
    holder.expect(holder_revision)
    data = (holder.size_bytes - (holder.pin.data_offset if holder.pin else 0)) // _SECTOR * _SECTOR
    if compared < data:
        raise KeybrokerError(
            Problem.MISMATCH, f"volume {successor.id}: {compared} bytes were compared, and must be {data}"
        )
    if sequence != successor.sequence:
        raise KeybrokerError(
            Problem.MISMATCH,
            f"volume {successor.id}: its newest header copy has sequence {successor.sequence}, not"
            f" {sequence}",
        )
    now_holder = replace(successor, role="holder", order=None, complete_from=sequence, revision=revision + 1)
    number = holder.last_order + 1
    former = replace(
        holder,
        role="former",
        order=Order(number, "erase"),
        last_order=number,
        revision=holder_revision + 1,
    )
    return now_holder, former


def outdate(holder: Volume) -> Volume:
    """Make void whatever Switch was sent before now: its host is about to write to the holder's disk alone.

    A request may be on its way for longer than a machine takes to boot. Were it to arrive then, the successor
    would hold the data and lack what was written since.

    Returns:
        The very volume where none can be under way.
    """
    is_moving = holder.role == "holder" and holder.order is not None and holder.order.kind == "migrate"
    return replace(holder, revision=holder.revision + 1) if is_moving else holder


def drop(successor: Volume, destroy_after: datetime) -> Volume:
    """Give a successor up, because its migration was cancelled: it will not become the holder any more."""
    if successor.role != "successor":
        raise conflict(successor, f"is {successor.role}, and not a successor")
    dropped = replace(successor, role="former", partner=None, revision=successor.revision + 1)
    if successor.stage in UNTOUCHED:
        return _ended(dropped, destroy_after)
    number = successor.last_order + 1
    return replace(dropped, order=Order(number, "erase"), last_order=number)


def erased(volume: Volume, revision: int, device: Device, wiped: int, destroy_after: datetime) -> Volume:
    """Take note that a disk has no keyslot and no header any more.

    Returns:
        The very volume where it is erased already.

    Raises:
        KeybrokerError: CONFLICT for another revision, or where nobody ordered it; WRONG_DEVICE; MISMATCH
            where less than the header, or than all of a plain disk, was wiped.
    """
    if volume.stage == "erased":
        return volume
    if volume.role != "former" and (volume.order is None or volume.order.kind != "erase"):
        raise conflict(volume, "nobody ordered that it be erased")
    volume.expect(revision)
    wrong = volume.wrong_device(device)
    if wrong is not None:
        raise KeybrokerError(Problem.WRONG_DEVICE, f"volume {volume.id}: {wrong}")
    if volume.pin is not None and wiped < volume.pin.data_offset:
        raise KeybrokerError(
            Problem.MISMATCH,
            f"volume {volume.id}: {wiped} bytes were wiped, and its header has {volume.pin.data_offset}",
        )
    if volume.stage == "plain" and wiped < volume.size_bytes:
        raise KeybrokerError(
            Problem.MISMATCH,
            f"volume {volume.id}: {wiped} bytes were wiped, and its plaintext has {volume.size_bytes}",
        )
    ended = replace(volume, device=volume.device or device, revision=revision + 1)
    return _ended(ended, destroy_after)


def give_up(volume: Volume, destroy_after: datetime) -> Volume:
    """Erase what there is of a volume at the broker: nothing was written to its disk, or the disk is gone."""
    if volume.stage == "erased":
        return volume
    return _ended(replace(volume, revision=volume.revision + 1), destroy_after)


def pend(volume: Volume, deletion: Deletion) -> Volume:
    """Let a volume's destruction be pending.

    Returns:
        The very volume where that is so already.

    Raises:
        KeybrokerError: CONFLICT where it is erased already.
    """
    if volume.deletion == deletion:
        return volume
    if volume.stage == "erased":
        raise conflict(volume, "is erased")
    return replace(volume, deletion=deletion, revision=volume.revision + 1)


def call_off(volume: Volume, waited: timedelta) -> Volume:
    """Take back that a volume is to be destroyed; retired keys wait for as long again (``postpone``).

    Args:
        waited: as ``deletion.waited`` has it.
    """
    kept = postpone(volume, waited)
    if kept.deletion is None:
        return kept
    return replace(kept, deletion=None, revision=volume.revision + 1)


def postpone(volume: Volume, waited: timedelta) -> Volume:
    """Let a volume's retired keys wait for so much longer: meanwhile no host could show that it needs one.

    An old snapshot of its disk may. Whether the volume itself is to be destroyed stays what it is.
    """
    keys = None if volume.keyring is None else volume.keyring.postponed(waited)
    return volume if keys is volume.keyring else replace(volume, keyring=keys, revision=volume.revision + 1)


def ending(volume: Volume, now: datetime) -> Volume:
    """Return a volume that is being destroyed: erased, and with all of its keys retired."""
    ended = replace(
        volume,
        role="former" if volume.role == "successor" else volume.role,
        deletion=None,
        revision=volume.revision + 1,
    )
    return _ended(ended, now)


def destroyed(volume: Volume) -> Volume:
    """Return what is left of a volume that is ending: no key opens its disk any more.

    Raises:
        KeybrokerError: CONFLICT where it is not ending.
    """
    return volume if volume.keyring is None else replace(volume, keyring=volume.keyring.destroy_all())


def _ended(volume: Volume, destroy_after: datetime) -> Volume:
    keys = volume.keyring
    return replace(
        volume,
        stage="erased",
        order=None,
        partner=None,
        keyring=None if keys is None else keys.end(destroy_after),
    )
