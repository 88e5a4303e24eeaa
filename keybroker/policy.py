"""May this peer do this, now; and may the keys of this volume leave. Pure: all facts come in as values.

What ``release`` decides, by what stands at the volume's place and by the volume's stage:

| sight | new | claimed | deposited | ready |
|---|---|---|---|---|
| absent | no device | no device | no device | no device |
| blank | – | keys | – | refused: header lost |
| luks2, the pinned one | not blank | not blank | keys | keys |
| luks2, the pinned one, with requirements | not blank | not blank | – | refused |
| luks2, another one | not blank | not blank | refused | refused |
| other, or a swap mark | not blank | not blank | – | refused |

``–``: neither keys nor a refusal, the agent has a step to do first; so it is for a volume that is not in the
request. A device of another serial, or too small, is refused before anything else. A swap volume has no keys:

| sight | new | claimed | ready |
|---|---|---|---|
| blank | – | – | refused: its mark is lost |
| swap mark | – | – | – |
| luks2, other | not blank | not blank | refused |
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from keybroker.model import Keyring, Volume
from keybroker.wire.names import Identity, KeyVersion, Kind
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin
from keybroker.wire.records import Observation, Refusal, SeenHeader

Verb = Literal[
    "unlock",
    "claim",
    "deposit",
    "header.read",
    "ready",
    "renew",
    "addon.add",
    "addon.read",
    "volume.add",
    "volume.read",
    "host.invite",
    "host.read",
    "host.revoke",
    "audit.read",
]

_HOSTS_MAY = frozenset({"unlock", "claim", "deposit", "header.read", "ready", "renew"})


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, as its TLS layer proved it.

    Attributes:
        identity: from the certificate's one URI SAN.
        fingerprint: SHA-256 of the certificate's DER, 64 lower-case hex digits.
        address: IP address, or ``local``; for the record, never for a decision.
    """

    identity: Identity
    fingerprint: str
    address: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What the store knows of a certificate and of the one it was issued to.

    Attributes:
        kind, name: of the identity that it was issued to.
        not_before, not_after: its lifetime.
        revoked: when the host or operator was turned away; None while it is welcome.
    """

    kind: Kind
    name: str
    not_before: datetime
    not_after: datetime
    revoked: datetime | None


def may(
    peer: Peer, verb: Verb, standing: Standing | None, trust_domain: str, now: datetime
) -> KeybrokerError | None:
    """Say why ``peer`` may not do ``verb``; None where it may.

    That TLS took the certificate is not enough: it must be one that the store knows to be issued to this very
    identity, whose lifetime is not over by our own clock, and the identity must not be revoked.

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
    if standing.revoked is not None:
        return KeybrokerError(Problem.REVOKED, f"{who.uri}: is revoked")
    if not standing.not_before <= now < standing.not_after:
        return KeybrokerError(Problem.CERTIFICATE, f"{who.uri}: the certificate's lifetime is not now")
    if (verb in _HOSTS_MAY) != (who.kind == "host"):
        return KeybrokerError(Problem.NOT_ALLOWED, f"{who.uri}: may not {verb}")
    return None


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
    if seen.device is None:
        return Refusal(Problem.NO_DEVICE, f"no device with serial {volume.serial}")
    wrong = volume.wrong_device(seen.device)
    if wrong is not None:
        return Refusal(Problem.WRONG_DEVICE, wrong)
    keys = volume.keyring
    if keys is None:
        return _swap(volume, seen)
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
    differs = _differs(volume.pin, seen.header.pin)
    if differs is not None:
        return Refusal(Problem.HEADER_REFUSED, differs)
    if seen.header.requirements:
        if volume.stage == "deposited":
            return None
        asks = ", ".join(seen.header.requirements)
        return Refusal(Problem.HEADER_REFUSED, f"the header has requirements that nobody asked for: {asks}")
    return Release(keys.live, _notes(volume, seen.header))


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
