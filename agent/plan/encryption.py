"""A plain disk on its way to be encrypted in place: until it is open by the header it begins with. Pure.

| order | the disk | step |
|---|---|---|
| ordered, or begun without a digest | plain, in use | refused where there is no room; else **Unlink** |
| ordered | plain, room at its end | **Announce**, after every part of the filesystem was checked |
| begun, no digest | plain | Ask: the key; then **Shelve**: its beginning is kept at its end |
| begun, no digest | plain, its beginning shelved | **Deposit**: the broker has the header and its digest |
| begun, digest | not yet the whole header | **Inscribe** |
| begun, digest | that header | Ask, **Open**, **Link** |
| begun, digest | open | ``agent.plan.reencryption``: Reencrypt, Tag, Backup, Finish |

Up to Deposit the disk is the plain filesystem and nothing else: a boot links it, and the order can be taken
back. From then on it is never linked as plain again, at no boot: what is not inscribed is inscribed first.
"""

from __future__ import annotations

from typing import Final

from agent.plan.provision import (
    HEADER_BYTES,
    PLAINTEXT,
    UNINSCRIBED,
    at_its_place,
    check_pinned,
    check_plain,
    is_uninscribed,
    no_key,
)
from agent.plan.situation import Content, Ground
from agent.plan.steps import Announce, Ask, Deposit, Inscribe, Link, Open, Shelve, Unlink
from agent.plan.survey import Survey
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Observation, Record

ROOM_BYTES: Final = 2 * HEADER_BYTES
"""At the end of the disk: what the header takes, and what is kept of what lay in its place."""

Encrypting = Ask | Announce | Deposit | Inscribe | Link | Open | Shelve | Unlink


def is_wanted(record: Record) -> bool:
    """Say whether a volume is to be encrypted in place."""
    is_ordered = record.order is not None and record.order.kind == "encrypt"
    return is_ordered and record.stage == "plain" and record.role == "holder"


def next_step(survey: Survey) -> Encrypting | None:
    """Name the next step; None where there is none, or the volume is open by its header.

    Raises:
        KeybrokerError: what the broker refused the keys for; NO_DEVICE, WRONG_DEVICE, HEADER_REFUSED;
            CONFLICT where there is no room.
    """
    record, order = survey.record, survey.record.order
    if order is None or not is_wanted(record):
        return None
    if survey.grant.refused is not None:
        raise survey.grant.refused.as_error()
    survey.mapping.check(record.name)
    seen = at_its_place(record, survey.seen)
    if record.is_bare:
        return _plain(survey, order, seen)
    if survey.mapping.reach == "open":
        return None
    if survey.mapping.reach == "crypt":
        return Link("the encrypted device is there and is what it must be; its stable name is missing")
    if is_uninscribed(record, seen):
        return Inscribe(UNINSCRIBED)
    return _inscribed(survey, seen)


def _inscribed(survey: Survey, seen: Observation) -> Ask | Open:
    record = survey.record
    if seen.header is None or record.pin is None:
        raise KeybrokerError(Problem.CORRUPT, f"{record.name}: the broker's record has no pin")
    check_pinned(record, record.pin, seen.header)
    if not survey.fresh or record.current not in survey.grant.keys:
        return _ask(survey, "the broker has not been told of the header that is on the disk")
    return Open(f"the header is the one that the broker has, and nothing is encrypted yet; {PLAINTEXT}")


def _plain(survey: Survey, order: Order, seen: Observation) -> Announce | Ask | Deposit | Shelve | Unlink:
    record, ground = survey.record, survey.ground
    if ground is None:
        raise KeybrokerError(Problem.INTERNAL, f"{record.name}: nobody looked at its plain disk")
    check_plain(record, Content(ground.kind, untouched=False, unfinished=False), seen)
    _check_room(record, ground)
    if survey.mapping.reach != "closed":
        return Unlink(f"nothing may write to the disk before its header is on it; {PLAINTEXT}")
    if order.phase == "ordered":
        return Announce(order.number, None, f"there is room for a header at the disk's end; {PLAINTEXT}")
    if not survey.fresh or record.current not in survey.grant.keys:
        return _ask(survey, "the broker has not been asked for the volume's key")
    if not ground.is_shelved:
        return Shelve("the header will lie where the filesystem begins, so that is kept at the disk's end")
    if record.current is None:
        raise KeybrokerError(Problem.CORRUPT, f"{record.name}: the record has no current key version")
    return Deposit(
        record.current, "the filesystem's beginning is kept; the broker has the header before the disk"
    )


def _check_room(record: Record, ground: Ground) -> None:
    most = ground.size_bytes - ROOM_BYTES
    if ground.taken_bytes is not None and ground.taken_bytes <= most:
        return
    said = (
        f"takes {ground.taken_bytes}" if ground.taken_bytes is not None else "does not say how many it takes"
    )
    shrink = f"stop its users; keybroker-agent lock; e2fsck -f DISK; resize2fs DISK {most >> 10}K"
    move = f"move it to a new disk: keybroker volume encrypt {record.addon} {record.name} --size SIZE"
    raise KeybrokerError(
        Problem.CONFLICT,
        f"{record.name}: the disk has {ground.size_bytes} bytes and its {ground.kind} {said}: to be encrypted"
        f" in place it must leave {ROOM_BYTES} at the end; nothing was changed",
        hint=f"{shrink}; or {move}" if ground.kind == "ext4" else f"{ground.kind} cannot shrink: {move}",
    )


def _ask(survey: Survey, reason: str) -> Ask:
    if survey.fresh:  # it has been asked, and told all there is to tell
        raise no_key(survey.record)
    return Ask(reason)
