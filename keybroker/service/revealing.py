"""Break-glass: a passphrase is shown to an operator, on record first, and rotated for that later."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from keybroker.audit import AuditEvent, rfc3339
from keybroker.model import rotation
from keybroker.policy import Peer
from keybroker.service.admission import Caller, perform
from keybroker.service.broker import Broker
from keybroker.service.custody import unwrap
from keybroker.service.directory import lasting_volume
from keybroker.service.reasons import check_reason
from keybroker.store import Writing
from keybroker.store.recoveryrows import RevealRow
from keybroker.store.rows import VolumeRow
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

DEFAULT_HOURS: Final = 24
MOST_HOURS: Final = 30 * 24


@dataclass(frozen=True, slots=True)
class Revealed:
    """A passphrase on its way to an operator."""

    volume: VolumeId
    version: KeyVersion
    passphrase: Secret = field(repr=False)
    rotate_after: datetime

    def as_json(self) -> dict[str, Any]:
        """Return the wire form; for operators, this is the one place where a passphrase becomes text."""
        return {
            "volume": self.volume,
            "version": self.version,
            "passphrase": self.passphrase.reveal().decode(),
            "rotate_after": rfc3339(self.rotate_after),
        }


def reveal(
    broker: Broker,
    peer: Peer,
    addon: str,
    name: str,
    reason: str,
    *,
    hours: int = DEFAULT_HOURS,
    version: KeyVersion | None = None,
) -> Revealed:
    """Show a volume's passphrase; who asked, and why, is durable before it leaves.

    Args:
        reason: 1 to 500 printable characters, for the record.
        hours: after which the volume gets another passphrase, from 0 to 720; the sweep comes every hour.
        version: any that is kept; None for the current one.

    Raises:
        KeybrokerError: as ``inventory.put_addon`` for the peer; UNKNOWN volume or version; MALFORMED reason
            or hours; CORRUPT where it does not open.
    """

    def work(writing: Writing, caller: Caller) -> Revealed:
        check_reason(reason)
        if not 0 <= hours <= MOST_HOURS:
            raise _malformed("hours", f"must be from 0 to {MOST_HOURS}")
        row = lasting_volume(writing, addon, name)
        keys = row.volume.keyring
        asked = version or (keys.current if keys is not None else None)
        if asked is None or asked not in row.wrapped:
            what = "has no key" if asked is None else f"has no key version {asked}"
            raise KeybrokerError(Problem.UNKNOWN, f"volume {addon}/{name}: {what}")
        passphrase = unwrap(broker, writing, row, (asked,))[asked]
        after = caller.now + timedelta(hours=hours)
        number = len(writing.reveals(row.volume.id)) + 1
        who = caller.peer.identity.name
        writing.put_reveal(RevealRow(row.volume.id, number, asked, caller.now, who, reason, after))
        facts: dict[str, Any] = {"versions": [asked], "reason": reason, "rotate_after": rfc3339(after)}
        writing.append(caller.about("released", addon=addon, volume=row.volume.id, **facts))
        return Revealed(row.volume.id, asked, passphrase, after)

    revealed = perform(broker, peer, "volume.reveal", work)
    broker.tally.delivered("reveal")
    return revealed


def sweep(broker: Broker) -> tuple[VolumeId, ...]:
    """Want another passphrase for each volume whose one was shown, once its time has come.

    Returns:
        The volumes for which one is wanted now. One that is on its way already, or that cannot get one now,
        is looked at again the next time.

    Raises:
        KeybrokerError: UNAVAILABLE, CORRUPT.
    """
    now = broker.clock()

    def due(rows: list[RevealRow]) -> list[RevealRow]:
        return [row for row in rows if row.rotated is None and row.rotate_after <= now]

    if not broker.store.read(lambda reading: due(reading.reveals())):
        return ()

    def work(writing: Writing) -> tuple[VolumeId, ...]:
        return tuple(row.volume for row in due(writing.reveals()) if _rotate(writing, row, now))

    return broker.store.write(work)


def _rotate(writing: Writing, shown: RevealRow, now: datetime) -> bool:
    """Want another passphrase for what was shown, if it is still the current one; say whether that is new."""
    row = writing.volume(shown.volume)
    keys = None if row is None else row.volume.keyring
    if row is not None and row.volume.deletion is not None:
        return False  # where that is called off, the next sweep sees to it
    if row is None or keys is None or keys.current != shown.version:
        writing.put_reveal(replace(shown, rotated=now))
        return False
    try:
        changed = rotation.want(row.volume)
    except KeybrokerError:
        return False  # not in use yet, or an order is in the way: the next sweep tries again
    if changed is row.volume:
        return False
    kept = VolumeRow(changed, row.created, row.wrapped, row.minted)
    writing.change_volume(kept, row.volume.revision, {}, now)
    wanted = changed.keyring and changed.keyring.wanted
    facts = {"wanted": wanted, "why": f"key {shown.version} was shown to {shown.operator}"}
    event = AuditEvent(now, "broker", "", "local", "volume.rotate", "done", detail=facts)
    writing.append(replace(event, addon=changed.addon, volume=changed.id))
    return True


def _malformed(field: str, what: str) -> KeybrokerError:
    return KeybrokerError(Problem.MALFORMED, f"{field}: {what}")
