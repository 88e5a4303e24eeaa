"""A new volume key for a volume in use: ordered, written into the header, carried through. Pure.

| order | header on the disk | step |
|---|---|---|
| ordered; the keys are as wanted | pinned, and backed up | **Announce**: it begins |
| begun | pinned; keyslots of a key without a segment: the beginning was cut | Ask, then **Clear** |
| begun | pinned; keyslots of somebody else's, which the order lets go | Ask, then **Evict** |
| begun | pinned | Ask, then **Begin** |
| begun, no digest | midway | **Announce**: the new volume key's digest |
| begun, digest | midway | **Reencrypt** |
| begun, digest | under the announced key; our token does not name its keyslot's version | **Tag** |
| begun, digest | under the announced key | Ask, then **Backup**: the announced digest is the pin now |
| begun, digest | pinned, under the announced key | **Finish** |

An encryption in place comes in at **Reencrypt** (``agent.plan.encryption`` leads to there).

The broker is told before the header is written, so that a header in between is either announced or a forgery;
and it is told the new key's digest before anything is encrypted under it. Some keyslot is opened by the
current key throughout: cryptsetup makes the new key's keyslot by the same passphrase, and takes the old key's
keyslots away in the write that ends it all.

As long as the header is midway nothing else is done to it: no key is rotated, no copy is made.
"""

from __future__ import annotations

from agent.plan.keyslots import Keyslots, numbers
from agent.plan.provision import PLAINTEXT, no_key
from agent.plan.rotation import pinned_header
from agent.plan.steps import Announce, Ask, Backup, Begin, Clear, Evict, Finish, Reencrypt, Tag
from agent.plan.survey import Survey
from keybroker.wire.names import KeyVersion
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin
from keybroker.wire.records import Record, SeenHeader

Reencrypting = Ask | Announce | Clear | Evict | Begin | Reencrypt | Tag | Backup | Finish


def underway(survey: Survey) -> Reencrypting | None:
    """Name the next step of a re-encryption that was announced; None where there is none.

    Raises:
        KeybrokerError: what the broker refused the keys for; NO_DEVICE, WRONG_DEVICE, HEADER_REFUSED,
            LOCKED_OUT, FOREIGN_KEYSLOTS; CONFLICT where the disk is an older snapshot.
    """
    record, order = survey.record, survey.record.order
    if order is None or not order.is_reencrypting:
        return None
    pin, header, current = _look(survey)
    if current not in survey.grant.keys:
        return _ask(survey, "the broker has not been asked for the volume's keys")
    if header.requirements:
        return _midway(survey, order, pin, header)
    if survey.keyslots is None:
        raise KeybrokerError(Problem.INTERNAL, f"{record.name}: nobody looked at its keyslots")
    if not survey.keyslots.opened_by(current):
        raise KeybrokerError(
            Problem.LOCKED_OUT,
            f"{record.name}: key version {current}, the current one, opens no keyslot; nothing was changed",
        )
    if order.digest is not None and header.pin.digest == order.digest:
        return _done(survey, survey.keyslots, order, pin)
    return _untouched(survey, survey.keyslots, order, current)


def ordered(survey: Survey) -> Announce | None:
    """Name the first step of a re-encryption that is ordered; None where there is none.

    To be asked after rotation, which has then nothing left to do.

    Raises:
        KeybrokerError: FOREIGN_KEYSLOTS; CONFLICT where the volume is not open.
    """
    record, order = survey.record, survey.record.order
    if order is None or order.kind != "reencrypt" or record.stage != "ready" or record.role != "holder":
        return None
    _check_open(survey)
    if survey.keyslots is not None:
        _check_foreign(record, order, survey.keyslots)
    return Announce(
        order.number, None, "a re-encryption is ordered; the broker hears of it before the disk does"
    )


def _look(survey: Survey) -> tuple[Pin, SeenHeader, KeyVersion]:
    pin, header = pinned_header(survey)
    if survey.record.current is None:
        raise KeybrokerError(Problem.CORRUPT, f"{survey.record.name}: the broker's record has no key")
    return pin, header, survey.record.current


def _untouched(survey: Survey, keyslots: Keyslots, order: Order, current: KeyVersion) -> Reencrypting:
    record = survey.record
    if order.digest is not None:
        raise KeybrokerError(
            Problem.CONFLICT,
            f"{record.name}: the re-encryption that began is not in the header any more; nothing was changed",
            hint="the disk is an older snapshot: bring the newer one back, or restore the broker with it",
        )
    if not survey.fresh:
        return _ask(survey, "the header is changed only by a key that was fetched anew")
    unbound = [each for each in keyslots.all if not each.bound]
    if unbound:
        reason = "it belongs to a volume key that encrypts nothing: the beginning was cut"
        return Clear(unbound[0].number, current, reason)
    _check_open(survey)
    _check_foreign(record, order, keyslots)
    if keyslots.foreign:
        # Midway cryptsetup tries each keyslot: one that wants 1 GiB would keep a small VM from booting.
        number = keyslots.foreign[0].number
        return Evict(number, current, f"keyslot {number} is somebody else's, and the order lets it go")
    return Begin("the broker knows that a re-encryption begins, and the header does not have it yet")


def _midway(survey: Survey, order: Order, pin: Pin, header: SeenHeader) -> Reencrypting:
    if order.digest is None:
        new = next(digest for digest in (header.pin.digest, *header.others) if digest != pin.digest)
        return Announce(
            order.number, new, "the header leads to a new volume key that the broker does not know"
        )
    _check_open(survey)
    if order.kind == "encrypt":
        return Reencrypt(f"part of the data is still in the clear: {PLAINTEXT}")
    return Reencrypt("part of the data is still under the old volume key")


def _done(survey: Survey, keyslots: Keyslots, order: Order, pin: Pin) -> Reencrypting:
    if not keyslots.is_tagged():
        return Tag("all is under the new volume key, and our token does not name its keyslot")
    if survey.seen.header is not None and survey.seen.header.degraded:
        return Tag("one of the header's two copies is damaged, and any write makes both of them anew")
    if not survey.is_backed_up or pin.digest != order.digest:
        if not survey.fresh:
            return _ask(survey, "a copy is left with the proof of a key that was fetched anew")
        return Backup("all data is under the volume key, and the broker's copy is of the header before")
    return Finish(order.number, "all data is under the volume key, and the broker has the header's copy")


def _check_open(survey: Survey) -> None:
    if survey.mapping.reach == "closed":
        raise KeybrokerError(
            Problem.CONFLICT,
            f"{survey.record.name}: is closed, and a re-encryption goes on under the open volume only",
            hint="keybroker-agent unlock",
        )


def _check_foreign(record: Record, order: Order, keyslots: Keyslots) -> None:
    if keyslots.foreign and not order.drop_foreign:
        raise KeybrokerError(
            Problem.FOREIGN_KEYSLOTS,
            f"{record.name}: keyslot {numbers(keyslots.foreign)} is somebody else's, and would not open the"
            " volume any more under a new volume key",
            hint="take it out (cryptsetup luksKillSlot), or order it anew with --drop-foreign",
        )


def _ask(survey: Survey, reason: str) -> Ask:
    if survey.fresh:  # it has been asked, and told all there is to tell
        raise no_key(survey.record)
    return Ask(reason)
