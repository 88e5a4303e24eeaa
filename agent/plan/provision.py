"""From what the broker knows and what is seen, the one next step. Pure; the driver loops over it.

Rules, in the order in which the code follows them:

1. What the broker refuses stays refused, and what stands under our names without being ours is left alone.
2. An open volume is not looked at from below; only what is inside it, and only until it is ready.
3. No step on another disk than the record's: same serial, not smaller.
4. A grant counts only for what the broker had been told; anything else is asked first.
5. Before ``deposited`` a disk must be blank. At ``deposited`` it may be written, but by Inscribe and
   MakeFilesystem only, which write over nothing that they do not recognise as nothing or as their own.
6. At ``ready`` there is no step that writes: a header that is not the pinned one is refused, and *could not
   open* or *could not recognise* is never a reason to format.

| stage | on the disk | step |
|---|---|---|
| new | blank | Claim |
| claimed | blank | Deposit (swap: Mark, then Ready) |
| deposited | not yet the whole header | Inscribe |
| deposited, ready | the pinned header | Open, Link |
| deposited | open, nothing ever written in it | MakeFilesystem |
| deposited | open, the declared filesystem | Ready |
| ready | open | Mount (swap: SwapOn) |
| plain | the declared filesystem in the clear, and nobody uses the disk | Link, straight over the disk |
| plain | open | Mount |
| plain, and the broker has its header | not yet the whole header | Inscribe |
| plain, and the broker has its header | that header, in the middle | Open, Link, Mount |
"""

from __future__ import annotations

from typing import Final

from agent.plan.situation import Content, Situation
from agent.plan.steps import (
    Ask,
    Claim,
    Deposit,
    Inscribe,
    Link,
    MakeFilesystem,
    Mark,
    Mount,
    Open,
    Ready,
    Step,
    SwapOn,
)
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin
from keybroker.wire.records import Device, Grant, Observation, Record, Refusal, SeenHeader

HEADER_BYTES: Final = 4 << 20
"""Of a header that we make: where the data begins on a new disk (``agent.luks.cryptsetup.DATA_OFFSET``)."""

PLAINTEXT: Final = "plaintext until it is encrypted"
"""What is said of a plain disk wherever its state is."""

UNINSCRIBED: Final = (
    "the broker has the header, the disk does not have all of it; what lies there is kept at its end"
)

REENCRYPTING: Final = "online-reencrypt-v2"
"""The requirement of a header in the middle of a re-encryption."""


def next_step(grant: Grant, here: Situation) -> Step | None:
    """Name the step that brings the volume closer to being open and in use; None when it is there.

    Raises:
        KeybrokerError: going on could cost data or hand a key to the wrong disk. WRONG_DEVICE, NO_DEVICE,
            NOT_BLANK, HEADER_REFUSED, LOCKED_OUT, or what the broker refused it for.

    Source: DESIGN sections 4 ("First format") and 5; ARCHITECTURE, "A first boot".
    """
    record = grant.record
    if grant.refused is not None:
        raise _refused(grant, grant.refused, here)
    here.mapping.check(record.name)
    if record.is_swap:
        return _swap(record, here)
    if here.mapping.reach == "open":
        return _inside(record, here)
    if here.mapping.reach == "crypt" and record.role == "successor":
        return None  # the stable name is the holder's; what goes in is copied from there
    if here.mapping.reach == "crypt":
        return Link("the encrypted device is there and is what it must be; its stable name is missing")
    return _closed(grant, here)


def _closed(grant: Grant, here: Situation) -> Step:
    if grant.record.stage == "foreign":  # no key is asked for: none of ours opens it yet
        raise KeybrokerError(
            Problem.CONFLICT,
            f"{grant.record.name}: somebody else formatted it, and it was not adopted yet",
            hint=f"keybroker-agent adopt {grant.record.name} --key-file FILE",
        )
    record, seen = grant.record, at_its_place(grant.record, here.seen)
    if record.is_bare:
        check_plain(record, here.content, seen)
    if here.told != seen:
        return Ask("the broker has not been told what is on the disk now")
    match record.stage:
        case "plain" if record.is_bare:
            return Link(f"the declared filesystem is there, in the clear; {PLAINTEXT}")
        case "new":
            return Claim(_blank(record, seen), "the volume has no disk yet, and this one is blank")
        case "claimed":
            _blank(record, seen)
            if record.current is None or record.current not in grant.keys:
                raise no_key(record)
            return Deposit(record.current, "the disk is claimed and blank, and no header was made yet")
        case "deposited":
            if seen.header is None or _is_torn(seen.header, record):
                return Inscribe("the broker has the header, the disk does not have all of it")
        case "plain":
            if is_uninscribed(record, seen):
                return Inscribe(UNINSCRIBED)
        case "ready":
            if seen.header is None:
                raise no_header(record, seen)
    if seen.header is None or record.pin is None:
        raise KeybrokerError(Problem.CORRUPT, f"{record.name}: the broker's record has no pin")
    check_pinned(record, record.pin, seen.header)
    if not grant.keys:
        raise no_key(record)
    if seen.header.requirements and record.stage == "plain":
        return Open(f"the header is in the middle of the encryption that was announced; {PLAINTEXT}")
    if seen.header.requirements:
        return Open(
            "the header is in the middle of the re-encryption that was announced; there is a key for it"
        )
    return Open("the header is the one that the broker pinned, and there is a key for it")


def _inside(record: Record, here: Situation) -> Step | None:
    if record.stage in ("ready", "plain"):
        if here.mounted is False and record.mount is not None:
            return Mount(record.mount, "the volume is open and not mounted")
        return None
    if record.stage != "deposited":  # no pin, so nothing of ours can be open
        raise KeybrokerError(
            Problem.CONFLICT, f"{record.name}: open, but the broker has it as {record.stage}"
        )
    if record.filesystem == "none":
        return Ready("the volume is open, and is wanted without a filesystem")
    if here.content is None:
        raise KeybrokerError(Problem.INTERNAL, f"{record.name}: nobody looked at what is inside")
    return _filled(record, here.content)


def check_plain(record: Record, content: Content | None, seen: Observation | None = None) -> None:
    """Refuse a plain disk on which anything but the declared filesystem is.

    Args:
        content: of the disk itself; None where nobody looked.
        seen: on the disk, where that was looked at too.

    Raises:
        KeybrokerError: WRONG_DEVICE, with what is there; HEADER_REFUSED for LUKS; CONFLICT in the middle of
            its encryption, when only part of the disk is plain.
    """
    if not record.is_bare:
        raise KeybrokerError(
            Problem.CONFLICT,
            f"{record.name}: its encryption in place has begun; it is no plain disk any more",
        )
    if seen is not None and seen.header is not None:
        raise KeybrokerError(
            Problem.HEADER_REFUSED,
            f"{record.name}: a LUKS2 header is on the disk that was declared plain; nothing was changed",
            hint="declare it without --plain, and adopt it: keybroker-agent adopt",
        )
    if content is None:
        raise KeybrokerError(Problem.INTERNAL, f"{record.name}: nobody looked at what is on the disk")
    declared = "" if record.filesystem == "none" else record.filesystem
    if content.kind != declared:
        raise KeybrokerError(
            Problem.WRONG_DEVICE,
            f"{record.name}: {content.kind or 'nothing that anybody recognises'} is on the plain disk, where"
            f" {declared or 'nothing recognisable'} was declared; nothing was changed",
            hint="look with: blkid --probe; wipefs --no-act",
        )


def _filled(record: Record, content: Content) -> Step:
    if content.unfinished:
        return MakeFilesystem(record.filesystem, "making it was begun and cut short; our own mark says so")
    if content.kind == record.filesystem:
        return Ready(f"the {content.kind} is made")
    if content.kind == "" and content.untouched:
        return MakeFilesystem(record.filesystem, "nothing was ever written through the encryption")
    found = content.kind or "something that nobody recognises"
    raise KeybrokerError(
        Problem.NOT_BLANK,
        f"{record.name}: {found} is inside where {record.filesystem} was to be made; nothing was changed",
        hint=f"if it is not wanted, wipe it yourself: wipefs --all /dev/mapper/kb-{record.name}",
    )


def _swap(record: Record, here: Situation) -> Step | None:
    if record.stage == "ready" and here.mapping.reach == "open":
        return None
    seen = at_its_place(record, here.seen)
    marked = seen.sight == "swap-mark"
    match record.stage:
        case "new":
            device = seen.device if marked and seen.device is not None else _blank(record, seen)
            return Claim(device, "the swap volume has no disk yet")
        case "claimed" if not marked:
            _blank(record, seen)
            return Mark("the disk is claimed for swap and blank")
        case "claimed":
            return Ready("the disk bears our mark")
        case "ready" if marked:
            return SwapOn("the disk bears our mark, and swap is not on")
        case "ready":
            raise KeybrokerError(
                Problem.WRONG_DEVICE,
                f"{record.name}: the disk does not bear this swap volume's mark: {seen.detail or seen.sight}",
            )
        case _:
            raise KeybrokerError(Problem.CORRUPT, f"{record.name}: a swap volume is never {record.stage}")


def at_its_place(record: Record, seen: Observation | None) -> Observation:
    """Return what is seen, if it is on the record's own disk.

    Raises:
        KeybrokerError: NO_DEVICE, WRONG_DEVICE.
    """
    if seen is None or seen.volume != record.volume:
        raise KeybrokerError(Problem.INTERNAL, f"{record.name}: nobody looked at its disk")
    meant = record.device or Device(record.serial, record.size_bytes)
    if seen.device is None:
        raise KeybrokerError(Problem.NO_DEVICE, f"{record.name}: no disk with serial {meant.serial} appeared")
    if seen.device.serial != meant.serial:
        raise KeybrokerError(
            Problem.WRONG_DEVICE,
            f"{record.name}: the disk's serial is {seen.device.serial}, not {meant.serial}",
        )
    if seen.device.size_bytes < meant.size_bytes:
        raise KeybrokerError(
            Problem.WRONG_DEVICE,
            f"{record.name}: the disk has {seen.device.size_bytes} bytes, fewer than {meant.size_bytes}",
        )
    return seen


def _blank(record: Record, seen: Observation) -> Device:
    if seen.sight != "blank" or seen.device is None:
        raise KeybrokerError(
            Problem.NOT_BLANK,
            f"{record.name}: the disk is not blank: {seen.detail or seen.sight}; nothing was changed",
            hint="a new volume wants a disk without signatures, its first and last MiB zero",
        )
    return seen.device


def _is_torn(header: SeenHeader, record: Record) -> bool:
    """Say whether this may be what a cut inscription left: ours, with one copy not whole."""
    return header.degraded and header.pin == record.pin


def is_uninscribed(record: Record, seen: Observation) -> bool:
    """Say whether a disk that is to be encrypted in place does not have all of the header it begins with."""
    return seen.header is None or (_is_torn(seen.header, record) and seen.header.sequence == record.sequence)


def check_pinned(record: Record, pin: Pin, header: SeenHeader) -> None:
    """Refuse a header that is not the pinned one, is too old, or requires what nobody announced.

    A re-encryption that was announced leads from the pinned volume key to another one, by way of both.

    Raises:
        KeybrokerError: HEADER_REFUSED, with what differs.
    """
    begun = record.order if record.order is not None and record.order.is_reencrypting else None
    keys = {header.pin.digest, *header.others}
    known = {pin.digest, begun.digest if begun is not None and begun.digest is not None else pin.digest}
    names = ("uuid", "data_offset", "sector_size")
    differs = [name for name in names if getattr(header.pin, name) != getattr(pin, name)]
    if begun is not None and begun.kind == "encrypt":
        is_other = keys != {pin.digest}
    elif header.requirements and begun is not None:
        is_other = pin.digest not in keys or len(keys) != 2 or (begun.digest is not None and keys != known)
    else:
        is_other = not keys <= known or len(keys) != 1
    if is_other:
        differs.append("digest")
    if differs:
        raise KeybrokerError(
            Problem.HEADER_REFUSED,
            f"{record.name}: the header is not the pinned one: other {', '.join(differs)}",
        )
    if record.complete_from is not None and header.sequence < record.complete_from:
        raise KeybrokerError(
            Problem.HEADER_REFUSED,
            f"{record.name}: the header's sequence is {header.sequence}, and the disk had all of the data"
            f" from {record.complete_from} on: it is a snapshot from the middle of the move to it",
            hint="bring the newer disk back; the disk that was left then may have the data too: keep it",
        )
    if header.requirements and (begun is None or header.requirements != (REENCRYPTING,)):
        raise KeybrokerError(
            Problem.HEADER_REFUSED,
            f"{record.name}: the header requires {', '.join(header.requirements)}, unknown to the broker",
        )


def no_header(record: Record, seen: Observation) -> KeybrokerError:
    """Return the error of a volume with data whose header cannot be read."""
    return KeybrokerError(
        Problem.HEADER_REFUSED,
        f"{record.name}: no LUKS2 header can be read where there must be one: {seen.detail or seen.sight}",
        hint=_back(record),
    )


def _refused(grant: Grant, refused: Refusal, here: Situation) -> KeybrokerError:
    """Return what the broker refused it for; where that is a lost header, with the way back to it."""
    is_lost = here.seen is not None and here.seen.device is not None and here.seen.header is None
    hint = _back(grant.record) if is_lost and grant.record.stage == "ready" else None
    return KeybrokerError(refused.problem, refused.detail, hint=hint)


def _back(record: Record) -> str | None:
    if record.is_swap:
        return None
    if record.role == "successor":
        return (
            f"nothing is lost: keybroker volume cancel {record.addon} {record.name}, and order the move anew"
        )
    return f"the broker has a copy of the header: keybroker-agent restore-header {record.name}"


def no_key(record: Record) -> KeybrokerError:
    """Return the error of a broker that gives no key where there must be one."""
    return KeybrokerError(Problem.LOCKED_OUT, f"{record.name}: the broker gave no key for it")
