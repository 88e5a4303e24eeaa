"""What an operator wants done to a volume, from the wish to its end: pure.

| transition | who | the volume before | after |
|---|---|---|---|
| place | operator | no order is open | ordered; a re-encryption also wants a new key first |
| announce | host | ordered, or begun; not rotating | begun, and then with the new volume key's digest |
| prepare | host | plain; an encryption in place has begun | its header is pinned, the order has its digest |
| finish | host | what the order is for has come true | no order |
| cancel | operator | nothing was done that cannot be left as it is | no order |

An encryption in place mints the volume's first key with the order. Until ``prepare`` nothing of it is on
the disk, and it can be taken back; from then on the disk may hold parts of that header.

A migration's order ends with Switch, an erasure's with Erased (``moving``). A repeated transition returns
the very volume it was given.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from keybroker.model.keyring import Keyring
from keybroker.model.rotation import want
from keybroker.model.volume import Volume, conflict, not_ready
from keybroker.wire.orders import ONGOING, Order, OrderKind
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import SeenHeader

_FROM: Final[dict[OrderKind, tuple[str, ...]]] = {
    "reencrypt": ("ready",),
    "migrate": ("ready", "plain"),
    "encrypt": ("plain",),
    "resize": ("ready",),
    "erase": ("new", "claimed", "deposited", "ready", "foreign", "plain"),
}
"""The stages at which an order makes sense."""


def place(volume: Volume, wish: Order) -> Volume:
    """Order something.

    Args:
        wish: its number does not count: the next one is taken.

    Returns:
        The very volume where just this is ordered already.

    Raises:
        KeybrokerError: CONFLICT where another order is open, or this one does not fit the volume's stage or
            role, or asks for an encryption in place without a filesystem or a backup.
    """
    if volume.order is not None:
        if _alike(volume.order, wish):
            return volume
        raise KeybrokerError(
            Problem.CONFLICT,
            f"volume {volume.addon}/{volume.name}: order {volume.order.number} ({volume.order.kind}) is open",
            hint=f"keybroker volume show {volume.addon} {volume.name}, or: cancel",
        )
    if volume.role != "holder" or volume.stage not in _FROM[wish.kind]:
        raise not_ready(volume, f"there is nothing to {wish.kind}")
    if volume.is_swap and wish.kind != "erase":
        raise conflict(volume, f"is swap, and has nothing to {wish.kind}")
    if wish.kind == "encrypt":
        volume = _in_place(volume, wish)
    if wish.kind == "reencrypt":
        volume = want(volume)
    number = volume.last_order + 1
    return replace(
        volume,
        order=replace(wish, number=number, phase="ordered", digest=None),
        last_order=number,
        revision=volume.revision + 1,
    )


def _in_place(volume: Volume, wish: Order) -> Volume:
    """Return the volume with the key that it is to be encrypted under."""
    name = f"{volume.addon} {volume.name}"
    if volume.filesystem == "none":
        raise KeybrokerError(
            Problem.CONFLICT,
            f"volume {volume.addon}/{volume.name}: has no filesystem that says what is free on its disk",
            hint=f"move it to a new disk: keybroker volume encrypt {name} --size SIZE [--serial SERIAL]",
        )
    if not wish.backed_up:
        raise KeybrokerError(
            Problem.CONFLICT,
            f"volume {volume.addon}/{volume.name}: is encrypted in place only if there is a backup: a disk"
            " that fails meanwhile leaves nothing to go back to",
            hint=f"say so with --backed-up, or move it to a new disk: keybroker volume encrypt {name}"
            " --size SIZE [--serial SERIAL]",
        )
    return volume if volume.keyring is not None else replace(volume, keyring=Keyring.first())


def _alike(open_order: Order, wish: Order) -> bool:
    return replace(open_order, number=1, phase="ordered", digest=None) == replace(
        wish, number=1, phase="ordered", digest=None
    )


def announce(volume: Volume, revision: int, number: int, digest: str | None) -> Volume:
    """Take note that an order begins, or which volume key it leads to.

    Returns:
        The very volume where that is known already.

    Raises:
        KeybrokerError: CONFLICT for another order or revision, one that has no such phase, or while the key
            is being rotated.
    """
    order = _open(volume, number)
    if order.phase == "begun" and digest in (None, order.digest):
        return volume
    if order.kind not in ("reencrypt", "encrypt"):
        raise conflict(volume, f"order {number} ({order.kind}) has no beginning to be announced")
    if order.kind == "encrypt" and digest is not None:
        raise conflict(
            volume, f"order {number} ({order.kind}) gets its digest with the header, by a copy of it"
        )
    if volume.rotating:
        raise conflict(volume, "its key is being rotated; that comes first")
    volume.expect(revision)
    return replace(volume, order=replace(order, phase="begun", digest=digest), revision=revision + 1)


def prepare(volume: Volume, revision: int, header: SeenHeader) -> Volume:
    """Pin the header of an encryption in place, before any of it is on the disk.

    Returns:
        The very volume where that is so already.

    Raises:
        KeybrokerError: CONFLICT for another revision, without such an order, or where another header is
            pinned; HEADER_REFUSED for one that the profile does not allow, or that is of nothing under way.
    """
    if (volume.pin, volume.sequence) == (header.pin, header.sequence):
        return volume
    order = volume.begun
    if volume.stage != "plain" or order is None or order.kind != "encrypt":
        raise conflict(volume, "no encryption in place has begun")
    if order.digest is not None:
        raise conflict(volume, f"order {order.number} has another header already")
    volume.expect(revision)
    wrong = volume.misfit(header)
    if len(header.requirements) != 1 or not ONGOING.issuperset(header.requirements):
        wrong = wrong or f"its requirements are {', '.join(header.requirements) or 'none'}"
    if wrong is not None:
        raise KeybrokerError(Problem.HEADER_REFUSED, f"volume {volume.id}: {wrong}")
    return replace(
        volume,
        pin=header.pin,
        sequence=header.sequence,
        order=replace(order, digest=header.pin.digest),
        revision=revision + 1,
    )


def finish(volume: Volume, number: int) -> Volume:
    """Take note that an order is done.

    Returns:
        The very volume where that order is done already.

    Raises:
        KeybrokerError: CONFLICT where what it is for has not come true; UNKNOWN for an order that never was.
    """
    if number > volume.last_order or number < 1:
        raise KeybrokerError(Problem.UNKNOWN, f"volume {volume.id}: there is no order {number}")
    if volume.order is None or volume.order.number > number:
        return volume
    order = volume.order
    if order.kind in ("migrate", "erase"):
        raise conflict(volume, f"order {number} ({order.kind}) is done by what it is for")
    if order.kind != "resize":
        # A rotation that is wanted meanwhile waits for this very moment: nothing was staged since it began.
        if volume.stage != "ready" or order.digest is None or volume.pin is None:
            raise conflict(volume, f"order {number}: its volume key is not known yet")
        if volume.pin.digest != order.digest:
            raise conflict(volume, f"order {number}: the newest header copy has the old volume key")
    return replace(volume, order=None, revision=volume.revision + 1)


def cancel(volume: Volume) -> Volume:
    """Take an order back; with it, for a re-encryption, a rotation that nothing was done about.

    Returns:
        The very volume where no order is open. Of a migration, the successor is dropped by ``moving.drop``.

    Raises:
        KeybrokerError: CONFLICT where the disk may have been changed on the order's account already.
    """
    order = volume.order
    if order is None:
        return volume
    if order.phase == "begun" and (order.kind != "encrypt" or order.digest is not None):
        raise KeybrokerError(
            Problem.CONFLICT,
            f"volume {volume.addon}/{volume.name}: order {order.number} ({order.kind}) has begun, and is"
            " only ever finished",
        )
    if order.kind == "erase" and volume.role == "former":
        raise conflict(volume, "its data has moved away; it can only be wiped")
    keys = volume.keyring
    if order.kind == "reencrypt" and keys is not None and keys.staged is None:
        keys = keys.unwant()
    partner = None if order.kind == "migrate" else volume.partner
    return replace(volume, keyring=keys, order=None, partner=partner, revision=volume.revision + 1)


def _open(volume: Volume, number: int) -> Order:
    if volume.order is None or volume.order.number != number:
        raise conflict(volume, f"order {number} is not open")
    return volume.order
