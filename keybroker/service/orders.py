"""Orders: an operator gives or cancels one, the host begins and finishes it; and the wish for a new key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from keybroker.model import Volume, moving, orders, rotation
from keybroker.policy import Peer
from keybroker.service import setback
from keybroker.service.admission import Caller, perform
from keybroker.service.broker import Broker
from keybroker.service.custody import done, mint, own, save
from keybroker.service.directory import lasting_volume, view
from keybroker.service.endings import forget
from keybroker.service.moving import part
from keybroker.service.offline import entrust
from keybroker.service.sentry import attend
from keybroker.service.views import OrderSpec, VolumeSpec, VolumeView
from keybroker.service.volumes import FIRST, SMALLEST_DATA, check_room, new_volume
from keybroker.store import Writing
from keybroker.store.rows import VolumeRow
from keybroker.wire import names
from keybroker.wire.changes import PhaseRequest
from keybroker.wire.fields import LARGEST_INTEGER
from keybroker.wire.names import VolumeId
from keybroker.wire.orders import SLOWEST, Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import CIPHERS, MIB
from keybroker.wire.records import Record

HEADER_ROOM = 4 * MIB
"""What a header takes of a disk, in bytes; the successor of a plain disk must be larger by this."""


def rotate(
    broker: Broker, peer: Peer, addon: str, name: str, *, compromised: bool = False
) -> tuple[VolumeView, bool]:
    """Ask for a new key of a volume.

    Args:
        compromised: the old one may be known to others; a header from before is not opened any more.

    Returns:
        The volume, and whether that changed anything; False while a rotation is under way already.

    Raises:
        KeybrokerError: as ``inventory.put_addon`` for the peer; UNKNOWN; CONFLICT where the volume has no
            keys or is not in use.
    """

    def work(writing: Writing, caller: Caller) -> tuple[VolumeView, bool]:
        row = lasting_volume(writing, addon, name)
        changed = rotation.want(row.volume, compromised=compromised)
        if changed is row.volume:
            return view(writing, row), False
        row = save(writing, caller, row, changed)
        keys = changed.keyring
        facts: dict[str, Any] = {"wanted": keys and keys.wanted, "compromised": compromised}
        writing.append(caller.about("done", addon=addon, volume=changed.id, **facts))
        return view(writing, row), True

    return perform(broker, peer, "volume.rotate", work)


def order(broker: Broker, peer: Peer, addon: str, name: str, spec: OrderSpec) -> tuple[VolumeView, bool]:
    """Have something done to a volume; a migration makes its successor here, with a key of its own.

    A disk that is said to be gone is the one that the volume has left, as long as there is one that was not
    wiped: the one that holds the data is not given up for it.

    Returns:
        The volume, and whether the order is new; False where just this is ordered already.

    Raises:
        KeybrokerError: as ``inventory.put_addon`` for the peer; UNKNOWN; MALFORMED; CONFLICT where another
            order is open, or this one does not fit; EXISTS for a serial that is another volume's.
    """

    def work(writing: Writing, caller: Caller) -> tuple[VolumeView, bool]:
        row = lasting_volume(writing, addon, name)
        wish = _read(spec, row.volume)
        if spec.kind == "erase":
            setback.check_free(writing, row)
        if left := _left(writing, row.volume) if spec.disk_gone else []:
            return [_given_up(broker, writing, caller, each) for each in left][-1], True
        placed = orders.place(row.volume, wish)
        if placed is row.volume:
            _same_successor(writing, row.volume, spec)
            return view(writing, row), False
        return _placed(broker, writing, caller, row, placed, spec), True

    return perform(broker, peer, "volume.order", work)


def _read(spec: OrderSpec, volume: Volume) -> Order:
    kind = spec.kind
    if kind == "encrypt" and (spec.serial is not None or spec.size_bytes is not None):
        if volume.stage != "plain":
            raise KeybrokerError(
                Problem.CONFLICT,
                f"volume {volume.addon}/{volume.name}: is encrypted already",
                hint="another disk: keybroker volume migrate; a new volume key: keybroker volume reencrypt",
            )
        kind = "migrate"
    if kind != "migrate" and (spec.serial is not None or spec.size_bytes is not None):
        raise _malformed("size_bytes", f"is of a successor, and to {kind} takes none")
    if spec.disk_gone and kind != "erase":
        raise _malformed("disk_gone", "is said of an erasure")
    if spec.rate is not None and not SLOWEST <= spec.rate <= LARGEST_INTEGER:
        raise _malformed("rate", f"must be {SLOWEST} bytes a second at least")
    if spec.serial is not None and names.SERIAL.fullmatch(spec.serial) is None:
        raise _malformed("serial", f"must match {names.SERIAL.pattern}")
    return Order(
        number=1,
        kind=kind,
        rate=spec.rate,
        at_boot=spec.at_boot,
        offline=spec.offline,
        drop_foreign=spec.drop_foreign,
        backed_up=spec.backed_up,
    )


def _placed(
    broker: Broker, writing: Writing, caller: Caller, row: VolumeRow, placed: Volume, spec: OrderSpec
) -> VolumeView:
    before = row.volume
    assert placed.order is not None, "it was placed just now"  # noqa: S101
    facts: dict[str, Any] = {"kind": placed.order.kind, "number": placed.order.number}
    if placed.order.kind == "erase" and (spec.disk_gone or before.stage in moving.UNTOUCHED):
        method = "the operator says that the disk is gone" if spec.disk_gone else "nothing was written"
        gone = moving.give_up(before, caller.now + broker.settings.retention)
        gone = replace(gone, last_order=placed.last_order)
        row = save(writing, caller, row, gone)
        facts["statement"] = forget(broker, writing, caller.now, gone, method=method, wiped=None)
    elif placed.order.kind == "migrate":
        successor = _successor(broker, writing, caller, before, spec)
        row = save(writing, caller, row, replace(placed, partner=successor.volume.id))
        writing.add_volume(successor)
        entrust(broker, writing, successor, successor.wrapped, caller.now)
        facts["successor"] = successor.volume.id
    else:
        is_new = before.keyring is None and placed.keyring is not None
        minted = mint(broker, writing, placed, FIRST) if is_new else {}
        row = save(writing, caller, row, placed, minted)
        row = entrust(broker, writing, row, minted, caller.now) if minted else row
    writing.append(caller.about("done", addon=before.addon, volume=before.id, **facts))
    return view(writing, row)


def _left(writing: Writing, volume: Volume) -> list[VolumeRow]:
    """Return the disks that a volume has left and that nobody has wiped yet."""
    rows = [row for row in writing.volumes(volume.addon) if row.volume.name == volume.name]
    return [row for row in rows if row.volume.role == "former" and row.volume.stage != "erased"]


def _given_up(broker: Broker, writing: Writing, caller: Caller, row: VolumeRow) -> VolumeView:
    """Erase what there is at the broker of a disk that was left, and that is gone."""
    before = row.volume
    gone = moving.give_up(before, caller.now + broker.settings.retention)
    row = save(writing, caller, row, gone)
    if before.partner is not None:
        part(writing, caller, before.partner, before.id)
    method = "the operator says that the disk is gone"
    number = forget(broker, writing, caller.now, gone, method=method, wiped=None)
    facts: dict[str, Any] = {"kind": "erase", "role": before.role, "statement": number}
    writing.append(caller.about("done", addon=before.addon, volume=before.id, **facts))
    return view(writing, row)


def _successor(
    broker: Broker, writing: Writing, caller: Caller, holder: Volume, spec: OrderSpec
) -> VolumeRow:
    """Make the volume that a migration goes to."""
    check_room(writing.volumes(holder.addon), holder.addon, spec.serial)
    least = max(holder.size_bytes, holder.device.size_bytes if holder.device else 0, SMALLEST_DATA)
    if holder.stage == "plain":
        least += HEADER_ROOM
    size = least if spec.size_bytes is None else spec.size_bytes
    if not least <= size <= LARGEST_INTEGER:
        raise _malformed("size_bytes", f"must be {least} at least, or the data has no room")
    cipher = holder.profile.cipher if holder.profile.cipher in CIPHERS else next(iter(CIPHERS))
    made = new_volume(
        broker,
        writing.addon_keys(holder.addon),
        holder.addon,
        holder.name,
        VolumeSpec(size, cipher, holder.mount, holder.filesystem, spec.serial),
        caller.now,
    )
    # A filesystem takes its block size for granted; a disk of larger sectors below it would not do.
    sector = 512 if holder.pin is None else holder.pin.sector_size
    volume = replace(
        made.volume,
        role="successor",
        partner=holder.id,
        profile=replace(made.volume.profile, sector_sizes=(sector,)),
    )
    return replace(made, volume=volume)


def _same_successor(writing: Writing, holder: Volume, spec: OrderSpec) -> None:
    """Check that a repeated order means the successor that is there (CONFLICT otherwise)."""
    row = None if holder.partner is None else writing.volume(holder.partner)
    if row is None:
        return
    serial, size = spec.serial or row.volume.serial, spec.size_bytes or row.volume.size_bytes
    if (serial, size) != (row.volume.serial, row.volume.size_bytes):
        raise KeybrokerError(
            Problem.CONFLICT,
            f"volume {holder.addon}/{holder.name}: is being migrated to {row.volume.serial},"
            f" {row.volume.size_bytes} bytes",
            hint=f"keybroker volume cancel {holder.addon} {holder.name}",
        )


def cancel(broker: Broker, peer: Peer, addon: str, name: str) -> tuple[VolumeView, bool]:
    """Take an order back, where nothing irreversible has begun; a migration's successor is dropped.

    Returns:
        The volume, and whether there was an order.

    Raises:
        KeybrokerError: as ``inventory.put_addon`` for the peer; UNKNOWN; CONFLICT.
    """

    def work(writing: Writing, caller: Caller) -> tuple[VolumeView, bool]:
        row = lasting_volume(writing, addon, name)
        before = row.volume
        changed = orders.cancel(before)
        if changed is before:
            return view(writing, row), False
        row = save(writing, caller, row, changed)
        if before.order is not None and before.order.kind == "migrate" and before.partner is not None:
            _drop(broker, writing, caller, before.partner)
        facts: dict[str, Any] = {"kind": before.order and before.order.kind, "number": before.last_order}
        writing.append(caller.about("done", addon=addon, volume=before.id, **facts))
        return view(writing, row), True

    return perform(broker, peer, "volume.cancel", work)


def _drop(broker: Broker, writing: Writing, caller: Caller, successor: VolumeId) -> None:
    row = writing.volume(successor)
    assert row is not None, "a partner is never deleted"  # noqa: S101
    dropped = moving.drop(row.volume, caller.now + broker.settings.retention)
    save(writing, caller, row, dropped)
    if dropped.stage == "erased":
        forget(broker, writing, caller.now, dropped, method="nothing was written", wiped=None)


def announce(broker: Broker, peer: Peer, volume: VolumeId, request: PhaseRequest) -> Record:
    """Take note that an order begins, before the first write to the header, or which volume key it leads to.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN; CONFLICT for another order or revision.
    """

    def work(writing: Writing, caller: Caller) -> Record:
        row = own(writing, caller, volume)
        changed = orders.announce(row.volume, request.revision, request.number, request.digest)
        if changed is not row.volume and row.volume.begun is None:
            setback.check_free(writing, row)
        save(writing, caller, row, changed)
        writing.append(done(caller, changed, order=request.number, digest=request.digest))
        return changed.record

    return attend(broker, peer, "announce", work)


def finish(broker: Broker, peer: Peer, volume: VolumeId, number: int) -> Record:
    """Take note that an order is done.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN; CONFLICT where it is not.
    """

    def work(writing: Writing, caller: Caller) -> Record:
        row = own(writing, caller, volume)
        changed = orders.finish(row.volume, number)
        save(writing, caller, row, changed)
        writing.append(done(caller, changed, order=number))
        return changed.record

    return attend(broker, peer, "finish", work)


def _malformed(field: str, what: str) -> KeybrokerError:
    return KeybrokerError(Problem.MALFORMED, f"{field}: {what}")
