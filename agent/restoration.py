"""The verb ``restore-header``: the broker's copy of a volume's header, back onto a disk that lost its own.

In this order, and each refusal leaves the disk as it is:

1. The broker names the volume; it must be ready, and no re-encryption of it may have begun: a header from
   before would undo part of what was encrypted since.
2. The broker's newest copy, against the volume's profile and pin.
3. The disk: the record's serial, not smaller, and nobody else's: it is claimed (open(2), O_EXCL).
4. What is on it now. A header that a key of the broker's opens is not written over; one that says that a
   re-encryption is in progress neither.
5. What is about to be written over is saved to a file; then ``agent.overwriting``.
6. The broker is told what is there now, and the key that it gives must open it.

Cut anywhere, the same command finishes it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from agent import layout, opening, overwriting, sighting
from agent.devices import OpenDevice
from agent.luks import copy, cryptsetup
from agent.luks.acceptance import accept
from agent.luks.copies import BINARY_BYTES
from agent.luks.copy import HeaderImage
from agent.luks.header import Header, read_header
from agent.passage import Boot
from agent.plan import relapse
from agent.turn import turn
from agent.world import Broker, Sighting
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Grant, Record
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass

LONGEST_TOLD: Final = 200


class Holder(Protocol):
    """What opens the disks; ``agent.places.Places`` is one."""

    def open(self, record: Record, *, writable: bool = False) -> AbstractContextManager[OpenDevice]:
        """Open a volume's disk and hold it; ``writable`` claims it."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of it.

    Attributes:
        version, keyslot: that were seen to open the header that is on the disk now.
        saved: what was written over; None where the header was good and nothing was written.
    """

    record: Record
    version: KeyVersion
    keyslot: int
    saved: Path | None


@dataclass(frozen=True, slots=True)
class Bench:
    """What restoring needs.

    Attributes:
        state, runtime: the agent's directories.
        now: seconds since 1970, for the name of the file.
    """

    broker: Broker
    places: Holder
    boot: Boot
    state: Path
    runtime: Path
    now: float


def restore(bench: Bench, name: str, *, sure: bool) -> Restored:
    """Bring a volume's header back.

    Args:
        name: of the volume.
        sure: write; otherwise everything is checked, and what would be written over is said.

    Raises:
        KeybrokerError: UNKNOWN; CONFLICT where the volume is not one to restore, or the broker is behind;
            HEADER_REFUSED, CORRUPT for the broker's copy, or what is on the disk; NO_DEVICE, WRONG_DEVICE;
            USAGE where ``sure`` is missing; LOCKED_OUT where the header that was restored is not opened by
            the broker's key.
    """
    record = _find(bench, name)
    _check_record(record)
    image, meant = _copy_of(bench, record)
    with turn(bench.runtime, record.volume), bench.places.open(record, writable=True) as disk:
        _check_disk(record, disk, image)
        seen = sighting.look(record, disk)
        way = _way_in(bench, record, seen)
        if way is not None and not _is_half(seen, meant):
            return Restored(record, *way, None)
        if not sure:
            raise KeybrokerError(
                Problem.USAGE,
                f"{name}: nothing was written; on {disk.device.path} now: {_told(record, seen)}",
                hint=f"to write the broker's copy there: keybroker-agent restore-header {name} --yes",
            )
        saved = overwriting.save(bench.state, record.volume, disk.fd, image, now=bench.now)
        overwriting.overwrite(disk.fd, image)
        way = _way_in(bench, record, sighting.look(record, disk))
    if way is None:
        raise KeybrokerError(
            Problem.LOCKED_OUT,
            f"{name}: the header is restored, but the broker's keys do not open it",
            hint=f"what was there before is in {saved}",
        )
    return Restored(record, *way, saved)


def _find(bench: Bench, name: str) -> Record:
    records = [grant.record for grant in bench.broker.unlock(bench.boot.request(())).grants]
    if name in relapse.names(layout.load(bench.state).records, records):
        raise relapse.error(name)
    for role in ("holder", "former"):  # a disk that was left has the name, too, until it is wiped
        for record in records:
            if (record.name, record.role) == (name, role):
                return record
    raise KeybrokerError(
        Problem.UNKNOWN,
        f"{name}: the broker knows no such volume of this machine",
        hint="keybroker-agent status",
    )


def _check_record(record: Record) -> None:
    if record.is_swap or record.stage != "ready" or record.pin is None:
        kind = "swap" if record.is_swap else record.stage
        hint = "keybroker-agent unlock writes it" if record.stage == "deposited" else None
        raise KeybrokerError(
            Problem.CONFLICT, f"{record.name}: is {kind}, so it has no header to restore", hint=hint
        )
    if record.role == "former":
        raise KeybrokerError(Problem.CONFLICT, f"{record.name}: its disk was moved from, and is to be wiped")
    order = record.order
    is_through = order is not None and order.digest == record.pin.digest  # the copy is of after it
    if order is not None and order.is_reencrypting and not is_through:
        raise KeybrokerError(
            Problem.CONFLICT,
            f"{record.name}: order {order.number} ({order.kind}) has begun; a header from before would make"
            " what was encrypted since unreadable",
            hint="take an image of the disk, and keep it, before anything else is tried",
        )


def _copy_of(bench: Bench, record: Record) -> tuple[HeaderImage, Header]:
    """Fetch the broker's copy, and hold it to what a disk's own header is held to."""
    image = copy.unpack(bench.broker.header_copy(record.volume).copy)
    header = read_header(image.read, image.total)
    accept(header, record.profile, record.pin)
    return image, header


def _check_disk(record: Record, disk: OpenDevice, image: HeaderImage) -> None:
    least = max(record.device.size_bytes if record.device else record.size_bytes, image.total)
    if disk.device.size_bytes < least:
        raise KeybrokerError(
            Problem.WRONG_DEVICE,
            f"{record.name}: {disk.device.path} has {disk.device.size_bytes} bytes, fewer than {least}",
        )


def _way_in(bench: Bench, record: Record, seen: Sighting) -> tuple[KeyVersion, int] | None:
    """Say which key version opens which keyslot of the header on the disk; None where it is no good."""
    found = seen.observation.header
    if found is None:
        return None
    if found.requirements:
        raise KeybrokerError(
            Problem.HEADER_REFUSED,
            f"{record.name}: the header on the disk requires {', '.join(found.requirements)}; a header from"
            " before would undo part of that, so it is not written over",
        )
    if seen.copy is None:
        return None
    image = copy.unpack(seen.copy)
    header = read_header(image.read, image.total)
    try:
        accept(header, record.profile, record.pin)
    except KeybrokerError:
        return None
    grant = _tell(bench, record, seen)
    return opened(grant.record, header, image, grant.keys)


def _tell(bench: Bench, record: Record, seen: Sighting) -> Grant:
    """Tell the broker what is on the disk, and get the keys for it."""
    for grant in bench.broker.unlock(bench.boot.request([seen.observation])).grants:
        if grant.record.volume == record.volume:
            if grant.refused is not None:
                raise grant.refused.as_error()
            return grant
    raise KeybrokerError(Problem.UNKNOWN, f"{record.name}: the broker does not name it any more")


def opened(
    record: Record, header: Header, image: HeaderImage, keys: Mapping[KeyVersion, Secret]
) -> tuple[KeyVersion, int] | None:
    """Say which key version opens which keyslot; None where none does."""
    fd = copy.memfd(image)
    try:
        for version, keyslot in opening.attempts(record, header, keys):
            if cryptsetup.opens(fd, keyslot=keyslot, key=keys[version]):
                return version, keyslot
    finally:
        os.close(fd)
    return None


def _is_half(seen: Sighting, meant: Header) -> bool:
    """Say whether this is the very header that is to be written, one of its copies not whole."""
    if seen.copy is None or seen.observation.header is None or not seen.observation.header.degraded:
        return False
    image = copy.unpack(seen.copy)
    found = read_header(image.read, image.total)
    return found.sequence == meant.sequence and found.first[BINARY_BYTES:] == meant.first[BINARY_BYTES:]


def _told(record: Record, seen: Sighting) -> str:
    """Say in words what is on the disk."""
    header = seen.observation.header
    if header is None:
        return (seen.observation.detail or seen.observation.sight)[:LONGEST_TOLD]
    if header.pin == record.pin and header.degraded:
        return "this volume's header, one of its two copies damaged"
    if header.pin == record.pin:
        return "this volume's header, but it is not acceptable, or no key of the broker's opens it"
    return f"another LUKS2 header, {header.pin.uuid}"


def told(done: Restored) -> list[str]:
    """Return what the verb prints."""
    opens = f"key version {done.version} opens its keyslot {done.keyslot}"
    if done.saved is None:
        return [f"{done.record.name}: the header on the disk is good: {opens}; nothing was written"]
    return [
        f"{done.record.name}: the header is restored: {opens}",
        f"what was written over is in {done.saved}; delete it once the data is back",
        "open the volume now: keybroker-agent unlock",
    ]
