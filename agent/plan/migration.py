"""Moving a volume to another disk, under a new passphrase and a new volume key. Pure.

The *holder* has the data, its *successor* is to get it. Who holds it is the broker's word alone, changed by
Switch. Until then the holder's disk is right whatever happens to the other; from then on the successor's is.

| broker | under the stable name | step | a crash there, and the next run |
|---|---|---|---|
| successor | the holder, or both | Ask: whatever Switch was sent before is void | asks again |
| successor, not open | the holder | Claim, Deposit, Inscribe, Open | goes on, as a first boot does |
| successor, deposited | the holder | **Ready**: its header is never inscribed again | said again |
| successor | the holder | **Mirror** | a process: the mirror stands; a reboot: it begins anew |
| successor | both, not alike yet | **Copy** | waits again, or begins anew |
| successor | both, alike | **Verify** | verified again |
| successor | both, alike and compared | **Raise**: its header is written anew | verified and raised again |
| successor | both, and the broker's copy is of a header before | **Backup** | verified and raised again |
| successor | both, and the broker has that header | **Switch** | asks: it happened, or it did not |
| former | both | **Drop** | a process: still to be done; a reboot: the new holder is opened |
| former | the holder | **Close**, **Wipe**, **Erased** | done again |
| successor | both, and a leg failed | **Drop** onto the holder | nothing was acknowledged that it lacks |

A plain disk is moved like any other: its leg is the disk itself, and what it is moved to is encrypted. Only
from Drop on is nothing written in the clear, and Wipe overwrites all of the old disk.

``order.offline`` does the same without a mirror, while nothing uses the volume: Unlink takes the stable
device away first, so that nobody can come to use it, not even after a crash that follows Switch.

A snapshot of the new disk may have been taken before it had everything, with the very header that it has
then. So the header is raised once it has: Switch names its sequence, and the broker gives no key for a lower
one. Whatever this process raised it to is higher than all that a disk that was copied in part ever had; of
one that was raised before it began, nobody knows whether the disk lacked something since.

That the disks were compared is known to this process only. It holds as long as the mirror stands, because the
kernel acknowledges nothing that only one leg has; and offline as long as both are held exclusively.
"""

from __future__ import annotations

from agent.plan import erasure, growth, provision
from agent.plan.growth import Sizes
from agent.plan.situation import Situation, Stable
from agent.plan.steps import (
    Ask,
    Backup,
    Change,
    Close,
    Copy,
    Drop,
    Mirror,
    Raise,
    Ready,
    Step,
    Switch,
    Unlink,
    Verify,
)
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Grant, Record
from keybroker.wire.values import dataclass

KINDS = frozenset({"migrate", "encrypt"})
"""The orders that a successor is made for."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two volumes: what the broker says of it, and what is seen."""

    grant: Grant
    here: Situation

    @property
    def record(self) -> Record:
        """The broker's record."""
        return self.grant.record


@dataclass(frozen=True, slots=True)
class Seen:
    """What this process has done and seen itself; a restart forgets it, and it is done again.

    Attributes:
        asked: the broker has said, since this process began, who holds the data.
        copied: an offline copy came to its end.
        compared: bytes that both disks were seen to hold alike; None before.
        raised: sequence of the successor's header as it was written anew after that; None before.
        differs: where they were seen not to, while nothing wrote, in words; empty where they were not.
        failed: why the mirror was given up, in words; empty where it was not.
        wiped: bytes of the former disk that were overwritten and read back; None before.
    """

    asked: bool = False
    copied: bool = False
    compared: int | None = None
    raised: int | None = None
    differs: str = ""
    failed: str = ""
    wiped: int | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """A step, and the volume that takes it."""

    volume: VolumeId
    step: Step | Change


def next_step(
    holder: Side, partner: Side, stable: Stable, seen: Seen, sizes: Sizes | None = None
) -> Turn | None:
    """Name the step that brings the data closer to the successor's disk, and its old disk closer to its end.

    Args:
        partner: the successor, or the former holder.
        stable: what stands under the name that both have.
        sizes: of the holder's layers; None where it is not open on one disk.

    Returns:
        None where there is nothing to do: no order, or all of it is done.

    Raises:
        KeybrokerError: what keeps it from going on; MISMATCH where the disks differ, NO_DEVICE where one
            failed or is missing, WRONG_DEVICE, IN_USE, or as ``provision.next_step``.
    """
    if partner.record.stage == "erased":
        return None
    _check_pair(holder.record, partner.record, stable)
    if partner.record.role == "successor":
        return _towards(holder, partner, stable, seen)
    return _away(holder, partner, stable, seen, sizes)


def _check_pair(record: Record, partner: Record, stable: Stable) -> None:
    belong = record.partner == partner.volume and partner.partner == record.volume
    if partner.role == "former":
        # A successor that was given up, or the disk before, of a volume that has moved on since: nobody
        # wants either of them opened, and what the holder's partner is by now says nothing about that.
        belong = True
    if record.role != "holder" or partner.role == "holder" or not belong or record.name != partner.name:
        raise KeybrokerError(
            Problem.CORRUPT, f"{record.name}: {record.volume} and {partner.volume} are not two of a migration"
        )
    if stable.legs == (partner.volume,):
        # Only a Switch that came very late, or a broker that was restored, leads here; both disks may have
        # what the other lacks, so it is for people to decide.
        raise KeybrokerError(
            Problem.MISMATCH,
            f"{record.name}: the broker says that {record.volume} holds it, but it stands on"
            f" {partner.volume}; nothing was changed",
        )


def _towards(holder: Side, successor: Side, stable: Stable, seen: Seen) -> Turn | None:
    record, target = holder.record, successor.record
    is_mirrored = len(stable.legs) == 2
    if record.order is None or record.order.kind not in KINDS:
        return Turn(record.volume, Drop("nobody wants it moved any more")) if is_mirrored else None
    if not seen.asked:
        # By its reply the broker makes void what an agent before this one may have sent. A Switch that
        # arrived after the volume went back would leave the data to the disk that is written to no more.
        # At once, and not when a leg has failed: a database would wait for it.
        return Turn(target.volume, Ask("nothing moves before it is sure that no Switch is on its way"))
    if is_mirrored and (trouble := stable.failure or seen.differs):
        return Turn(record.volume, Drop(f"{trouble}; the volume goes on from {record.volume} alone"))
    if seen.differs:
        raise KeybrokerError(
            Problem.MISMATCH,
            f"{record.name}: {seen.differs}; it stays on {record.volume}, which was not touched",
            hint="the new disk does not keep what is written to it: take another, or look at dmesg",
        )
    if seen.failed:
        raise KeybrokerError(
            Problem.NO_DEVICE,
            f"{record.name}: moving it was given up: {seen.failed}; it stays on {record.volume}",
            hint="dmesg | tail",
        )
    if successor.here.mapping.reach == "closed" or successor.here.mapping.obstacle:
        _check_room(holder, successor, stable)
        step = provision.next_step(successor.grant, successor.here)
        return Turn(target.volume, step) if step is not None else None
    if target.stage == "deposited":
        return Turn(target.volume, Ready("the header is on the new disk, and the broker's key opened it"))
    if record.order.offline:
        return _offline(holder, stable, seen) or _compare(holder, successor, seen)
    return _live(record, stable) or _compare(holder, successor, seen)


def _check_room(holder: Side, successor: Side, stable: Stable) -> None:
    """Refuse a target that could not hold the data, before anything is claimed."""
    record, sight = holder.record, successor.here.seen
    device = sight.device if sight is not None else None
    source = record.device.serial if record.device is not None else record.serial
    if device is None:
        return  # what is said of a disk that is not there is provision's affair
    if device.serial == source:
        raise KeybrokerError(
            Problem.WRONG_DEVICE, f"{record.name}: the disk {source} cannot be moved to itself"
        )
    needs = stable.size_bytes or _data_bytes(record)
    if device.size_bytes < needs + provision.HEADER_BYTES:
        raise KeybrokerError(
            Problem.WRONG_DEVICE,
            f"{record.name}: the new disk has {device.size_bytes} bytes, too few for {needs} and a header",
        )


def _data_bytes(record: Record) -> int:
    size = record.device.size_bytes if record.device is not None else record.size_bytes
    return size - (record.pin.data_offset if record.pin is not None else 0)


def _live(record: Record, stable: Stable) -> Turn | None:
    if not stable.legs:
        raise KeybrokerError(
            Problem.NO_DEVICE,
            f"{record.name}: is not open, and only what is open is moved while it is in use",
            hint="keybroker-agent unlock; or order the migration with --offline",
        )
    if len(stable.legs) == 1:
        return Turn(record.volume, Mirror("the new disk is open, and the volume stands on the old one alone"))
    if not stable.in_sync:
        return Turn(record.volume, Copy("the kernel is copying; both disks get what is written meanwhile"))
    return None


def _offline(holder: Side, stable: Stable, seen: Seen) -> Turn | None:
    record = holder.record
    if stable.legs:
        if stable.used_by:
            raise KeybrokerError(
                Problem.IN_USE,
                f"{record.name}: is used by {stable.used_by}, and is to be copied while nothing uses it",
                hint="stop the database and unmount it; or order the migration without --offline",
            )
        return Turn(record.volume, Unlink("nobody shall come to use the volume while it is copied"))
    if holder.here.mapping.reach == "closed" and record.stage != "plain":
        step = provision.next_step(holder.grant, holder.here)
        return Turn(record.volume, step) if step is not None else None
    if not seen.copied:
        return Turn(record.volume, Copy("nothing uses the volume; what the new disk lacks is copied"))
    return None


def _compare(holder: Side, successor: Side, seen: Seen) -> Turn:
    if seen.compared is None:
        return Turn(holder.record.volume, Verify("both disks should hold the same by now"))
    record, here = successor.record, successor.here
    if seen.raised is None:
        return Turn(record.volume, Raise("an older snapshot of the new disk has the header that it has now"))
    header = here.seen.header if here.seen is not None else None
    if here.seen is None or header is None:
        raise KeybrokerError(Problem.INTERNAL, f"{record.name}: nobody read the new disk's header")
    if header.sequence != seen.raised:
        return Turn(record.volume, Raise("somebody else has written to the new disk's header since"))
    if record.sequence == seen.raised:
        return Turn(record.volume, Switch(f"both disks hold the same {seen.compared} bytes"))
    if record.current not in successor.grant.keys:
        if here.told != here.seen:
            return Turn(record.volume, Ask("a copy of the header is left with the proof of a key"))
        raise provision.no_key(record)
    return Turn(record.volume, Backup("the broker's copy of the new disk's header is from before"))


def _away(holder: Side, former: Side, stable: Stable, seen: Seen, sizes: Sizes | None) -> Turn | None:
    record, left = holder.record, former.record
    if len(stable.legs) == 2:
        return Turn(record.volume, Drop(f"{record.volume} holds the data, by the broker's word"))
    if holder.here.mapping.reach == "closed" and left.stage not in erasure.NOTHING_WRITTEN:
        raise KeybrokerError(
            Problem.NO_DEVICE,
            f"{record.name}: the disk that it left is not erased before {record.volume} is open",
            hint="keybroker-agent unlock",
        )
    # Before the old disk's end, because after that nothing says any more that the volume has moved.
    grown = growth.next_step(sizes) if sizes is not None else None
    if grown is not None and grown.layer != "crypt":
        return Turn(record.volume, grown)
    if former.here.mapping.reach == "crypt":
        return Turn(left.volume, Close("nothing stands on the disk that was left"))
    step = erasure.next_step(left, former.here, stable, wiped=seen.wiped)
    return Turn(left.volume, step) if step is not None else None
