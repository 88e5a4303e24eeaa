"""May this peer do this, now; and may the keys of this volume leave. Pure: all facts come in as values.

What ``release`` decides, by what stands at the volume's place and by the volume's stage:

| sight | new | claimed | deposited | ready |
|---|---|---|---|---|
| absent | no device | no device | no device | no device |
| blank | – | keys | – | refused: header lost |
| luks2, the pinned one | not blank | not blank | keys | keys |
| luks2, the pinned one, with requirements | not blank | not blank | – | refused, but see below |
| luks2, another one | not blank | not blank | refused | refused, but see below |
| luks2, the pinned one, beside a second volume key | not blank | not blank | refused | refused |
| other, or a swap mark | not blank | not blank | – | refused |

``–``: neither keys nor a refusal, the agent has a step to do first; so it is for a volume that is not in the
request. A device of another serial, or too small, is refused before anything else. Volumes that others made:

| sight | foreign | plain | plain, and its encryption in place has begun | erased |
|---|---|---|---|---|
| absent | no device | no device | no device | refused |
| blank | refused | – | refused: its data is lost | refused |
| luks2 with the volume's UUID | keys | refused | keys, by the table below | refused |
| luks2, another one | refused | refused | refused | refused |
| other, or a swap mark | refused | – | keys, for there is no header yet | refused |

A data volume whose destruction is pending gets no keys, whatever its stage and whatever is seen of it.

A successor goes by its own stage. A former volume gets no keys and no refusal: its disk is to be wiped, which
takes none. Once a re-encryption (ready) or an encryption in place (plain) has begun, a header in between is
expected; its UUID, data offset and sector size are what they were, or what the profile allows:

| digests in the header | requirement | decision |
|---|---|---|
| the pinned one, the announced one, or both, and no other | one of ``ONGOING`` alone | keys |
| the pinned one and any other, while none is announced yet | one of ``ONGOING`` alone | keys |
| the announced one alone | none | keys: it is done |
| the pinned one alone | none | keys: it was not begun on the disk yet |
| any other | any | refused |

A header at a lower sequence than the one from which the disk had all of the data is refused, whatever else is
so: it is of a snapshot that was taken in the middle of the move to it. Of a disk that nothing was ever moved
to, or that was moved to before brokers kept that sequence, there is no such snapshot to be known.

Any other header at a lower sequence than the one known, with the same digest, is of a restored snapshot: the
retired keys that are still there may leave too, and that is noted; where the volume blocks older headers,
because its last rotation answered a compromise, it is refused. A swap volume has no keys:

| sight | new | claimed | ready |
|---|---|---|---|
| blank | – | – | refused: its mark is lost |
| swap mark | – | – | – |
| luks2, other | not blank | not blank | refused |
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from keybroker.model import Keyring, Volume
from keybroker.rights import MAY
from keybroker.rights import Verb as Verb
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.names import Identity, KeyVersion, Kind, Role
from keybroker.wire.orders import ONGOING
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin
from keybroker.wire.records import Observation, Refusal, SeenHeader


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, as its TLS layer proved it.

    Attributes:
        identity: from the certificate's one URI SAN.
        fingerprint: SHA-256 of the certificate's DER, 64 lower-case hex digits.
        address: IP address that the connection comes from, or ``local``.
        boot: which boot of the host the request says that it is of; that is its word alone.
    """

    identity: Identity
    fingerprint: str
    address: str
    boot: AskingBoot | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What the store knows of a certificate and of the one it was issued to.

    Attributes:
        kind, name: of the identity that it was issued to.
        not_before, not_after: its lifetime.
        revoked: when the host or operator was turned away, or this certificate of it replaced; None while it
            is welcome.
        roles: an operator's; a host has none.
        lock: whether a host that was turned away is to close what it has open.
    """

    kind: Kind
    name: str
    not_before: datetime
    not_after: datetime
    revoked: datetime | None
    roles: frozenset[Role] = frozenset()
    lock: bool = False


def may(
    peer: Peer, verb: Verb, standing: Standing | None, trust_domain: str, now: datetime
) -> KeybrokerError | None:
    """Say why ``peer`` may not do ``verb``; None where it may.

    That TLS took the certificate is not enough: it must be one that the store knows to be issued to this very
    identity, whose lifetime is not over by our own clock, and the identity must not be revoked. What it may
    do then is in ``rights.MAY``; a verb that is not in there is nobody's.

    Args:
        standing: what the store has under the peer's fingerprint, looked up for this request.
    """
    who = peer.identity
    if (
        standing is None
        or who.trust_domain != trust_domain
        or (standing.kind, standing.name) != (who.kind, who.name)
    ):
        return KeybrokerError(Problem.NO_IDENTITY, f"{who.uri}: this certificate was not issued here")
    if standing.lock and verb == "report":
        return KeybrokerError(Problem.LOCK, f"{who.uri}: is revoked, and is to close its volumes")
    if standing.revoked is not None:
        return KeybrokerError(Problem.REVOKED, f"{who.uri}: is revoked")
    if not standing.not_before <= now < standing.not_after:
        return KeybrokerError(Problem.CERTIFICATE, f"{who.uri}: the certificate's lifetime is not now")
    wanted = MAY.get(verb, frozenset())
    if who.kind == "host":
        allowed, hint = "host" in wanted, None
    else:
        allowed, hint = not wanted.isdisjoint(standing.roles), _roles_hint(wanted - {"host"})
    return None if allowed else KeybrokerError(Problem.NOT_ALLOWED, f"{who.uri}: may not {verb}", hint=hint)


def _roles_hint(wanted: frozenset[str]) -> str | None:
    """Say which roles would do, to an operator who has none of them."""
    if not wanted:
        return None
    return f"that takes the role {' or '.join(sorted(wanted))}; yours: keybroker operator show"


@dataclass(frozen=True, slots=True)
class Release:
    """These keys may leave.

    Attributes:
        notes: what is odd, for the record; it does not keep the volume from booting.
    """

    versions: tuple[KeyVersion, ...]
    notes: tuple[str, ...] = ()


def release(volume: Volume, seen: Observation | None) -> Release | Refusal | None:
    """Decide whether the volume's keys may leave, by what the agent saw (the table above).

    Returns:
        None where neither keys nor a refusal are called for.
    """
    if seen is None:
        return None
    if volume.stage == "erased":
        return Refusal(Problem.HEADER_REFUSED, "the volume is erased")
    if volume.deletion is not None and not volume.is_swap:
        return Refusal(
            Problem.DELETED,
            f"the volume is to be destroyed after {volume.deletion.due:%F %T}Z, so its keys stay at the"
            f" broker; an operator can still call that off: keybroker volume undelete {volume.addon}"
            f" {volume.name}",
        )
    if volume.role == "former":
        return None
    if seen.device is None:
        return Refusal(Problem.NO_DEVICE, f"no device with serial {volume.serial}")
    wrong = volume.wrong_device(seen.device)
    if wrong is not None:
        return Refusal(Problem.WRONG_DEVICE, wrong)
    if volume.is_swap:
        return _swap(volume, seen)
    keys = volume.keyring
    if volume.stage == "plain":
        return _plain(volume, keys, seen)
    if keys is None:
        return Refusal(Problem.CORRUPT, "the volume has no keys")
    if volume.stage == "foreign":
        return _foreign(volume, keys, seen)
    if volume.stage in ("new", "claimed"):
        if seen.sight != "blank":
            return _not_blank(seen)
        return Release(keys.live) if volume.stage == "claimed" else None
    return _formatted(volume, keys, seen)


def _swap(volume: Volume, seen: Observation) -> Refusal | None:
    if seen.sight == "swap-mark":
        return None
    if volume.stage == "ready":
        what = "is blank" if seen.sight == "blank" else f"holds something else: {_words(seen)}"
        return Refusal(Problem.WRONG_DEVICE, f"the device has lost its swap mark and {what}")
    return None if seen.sight == "blank" else _not_blank(seen)


def _formatted(volume: Volume, keys: Keyring, seen: Observation) -> Release | Refusal | None:
    if seen.header is None:
        return None if volume.stage == "deposited" else Refusal(Problem.HEADER_REFUSED, _lost(seen))
    if volume.begun is not None:
        return _in_between(volume, keys, seen.header)
    differs = _differs(volume.pin, seen.header.pin) or volume.incomplete(seen.header)
    if differs is not None:
        return Refusal(Problem.HEADER_REFUSED, differs)
    if seen.header.requirements:
        if volume.stage == "deposited":
            return None
        return _unasked(seen.header)
    return _whole(volume, keys, seen.header)


def _whole(volume: Volume, keys: Keyring, header: SeenHeader) -> Release | Refusal:
    """Decide on a header that is the volume's own, and at rest."""
    if header.others:
        return Refusal(Problem.HEADER_REFUSED, "the header has two volume keys, and is at rest")
    if volume.sequence is None or header.sequence >= volume.sequence:
        return Release(keys.live, _notes(volume, header))
    if volume.block_older:
        return Refusal(
            Problem.HEADER_REFUSED,
            f"the header is an older one: sequence {header.sequence}, known is {volume.sequence}; the last"
            " rotation answered a compromise",
        )
    return Release(keys.kept, _notes(volume, header))


def _foreign(volume: Volume, keys: Keyring, seen: Observation) -> Release | Refusal:
    if seen.header is None:
        return Refusal(Problem.HEADER_REFUSED, f"the device has no LUKS2 header: {_words(seen)}")
    if seen.header.pin.uuid != volume.luks_uuid:
        what = f"the header's UUID is {seen.header.pin.uuid}, not {volume.luks_uuid}"
        return Refusal(Problem.HEADER_REFUSED, what)
    if seen.header.requirements:
        return _unasked(seen.header)
    return Release(keys.live, _notes(volume, seen.header))


def _plain(volume: Volume, keys: Keyring | None, seen: Observation) -> Release | Refusal | None:
    if volume.begun is None or keys is None:
        if seen.header is None:
            return None
        return Refusal(Problem.HEADER_REFUSED, "the device has a LUKS2 header that nobody asked for")
    if seen.header is not None:
        return _in_between(volume, keys, seen.header)
    if seen.sight == "blank":
        return Refusal(Problem.HEADER_REFUSED, "the device is blank: its data is lost")
    return Release(keys.live)


def _in_between(volume: Volume, keys: Keyring, header: SeenHeader) -> Release | Refusal:
    """Decide on a header while a re-encryption that has begun is on record."""
    misplaced = _misplaced(volume, header.pin) or volume.incomplete(header)
    if misplaced is not None:
        return Refusal(Problem.HEADER_REFUSED, misplaced)
    if header.requirements and not (len(header.requirements) == 1 and set(header.requirements) <= ONGOING):
        return _unasked(header)
    announced = volume.begun and volume.begun.digest
    pinned = volume.pin and volume.pin.digest
    known = {digest for digest in (announced, pinned) if digest is not None}
    there = {header.pin.digest, *header.others}
    # As long as the new volume key's digest is not announced, the header may hold one that nobody knows yet,
    # beside the pinned one; of a disk that was plain there is none to be beside.
    open_end = announced is None and bool(header.requirements)
    strangers = there - known
    if (strangers and not open_end) or not (there & known or (open_end and pinned is None)):
        named = ", ".join(sorted(strangers)) or "none"
        return Refusal(Problem.HEADER_REFUSED, f"the header has a volume key that nobody announced: {named}")
    if header.requirements:
        return Release(keys.live, ("a re-encryption is in progress", *_notes(volume, header)))
    if header.pin.digest == announced and not header.others:
        return Release(keys.live, _notes(volume, header))
    return _whole(volume, keys, header)


def _misplaced(volume: Volume, seen: Pin) -> str | None:
    """Say in what a header in between is not where the volume's is, its digest apart."""
    pin = volume.pin
    if pin is not None:
        return _differs(pin, Pin(seen.uuid, pin.digest, seen.data_offset, seen.sector_size))
    if seen.uuid != volume.luks_uuid:
        return f"the header's UUID is {seen.uuid}, not {volume.luks_uuid}"
    least, most = volume.profile.data_offsets
    if not least <= seen.data_offset <= most:
        return f"the header's data offset {seen.data_offset} is not from {least} to {most}"
    if seen.sector_size not in volume.profile.sector_sizes:
        return f"the header's sector size {seen.sector_size} is not allowed"
    return None


def _unasked(header: SeenHeader) -> Refusal:
    asks = ", ".join(header.requirements)
    return Refusal(Problem.HEADER_REFUSED, f"the header has requirements that nobody asked for: {asks}")


def _not_blank(seen: Observation) -> Refusal:
    return Refusal(Problem.NOT_BLANK, f"the device is not blank: {_words(seen)}")


def _words(seen: Observation) -> str:
    return seen.detail or seen.sight


def _lost(seen: Observation) -> str:
    return f"the header is lost, the device shows: {_words(seen)}; restore it from the broker's copy"


def _differs(pin: Pin | None, seen: Pin) -> str | None:
    """Say in what the header seen is not the pinned one."""
    if pin is None:
        return "no header is pinned"
    named = (
        ("UUID", pin.uuid, seen.uuid),
        ("volume key's digest", pin.digest, seen.digest),
        ("data offset", pin.data_offset, seen.data_offset),
        ("sector size", pin.sector_size, seen.sector_size),
    )
    wrong = [f"{what} is {there}, not {ours}" for what, ours, there in named if ours != there]
    return f"the header's {', '.join(wrong)}" if wrong else None


def _notes(volume: Volume, header: SeenHeader) -> tuple[str, ...]:
    notes = []
    if volume.sequence is not None and header.sequence < volume.sequence:
        notes.append(f"older header: sequence {header.sequence}, known is {volume.sequence}")
    if header.degraded:
        notes.append("one copy of the header is damaged")
    return tuple(notes)
