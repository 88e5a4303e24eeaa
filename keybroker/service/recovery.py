"""The offline recovery key: set, shown, and proven to open what it is to open. No key leaves by this door."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from keybroker.age import read_recipients
from keybroker.audit import AuditEvent, rfc3339
from keybroker.model import rotation
from keybroker.policy import Peer
from keybroker.service.admission import Caller, consult, perform
from keybroker.service.broker import Broker
from keybroker.service.custody import save, unwrap
from keybroker.service.directory import lasting_volume
from keybroker.service.keys import AddonKeys, passphrase_context
from keybroker.service.offline import catch_up, check_seal, entrust, new_recovery_key, recovery_key
from keybroker.store import Reading, Writing
from keybroker.store.recoveryrows import RecoveryCheckRow, RecoveryKeyRow
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.recovery import Recovery, digest, prove
from keybroker.wire.secret import Secret


@dataclass(frozen=True, slots=True)
class RecoveryKeyView:
    """The recovery key, and how far it reaches.

    Attributes:
        number: which one it is; 0 where there is none.
        waiting: volumes with a key that is not encrypted to it yet.
    """

    number: int
    recipients: tuple[str, ...]
    created: datetime | None
    waiting: int

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "number": self.number,
            "recipients": list(self.recipients),
            "created": self.created and rfc3339(self.created),
            "waiting": self.waiting,
        }


@dataclass(frozen=True, slots=True)
class RecoveryView:
    """What of a volume is encrypted to the recovery key, and what is known of it.

    Attributes:
        on_disk: digest of what its host last reported to be in our token; None where nothing is known.
        checked: when the offline key was last seen to open a ciphertext, and whether it was this one.
    """

    addon: str
    name: str
    volume: str
    recovery: Recovery | None
    on_disk: str | None
    checked: RecoveryCheckRow | None

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        sealed, checked = self.recovery, self.checked
        return {
            "addon": self.addon,
            "name": self.name,
            "volume": self.volume,
            "recovery": sealed and {**sealed.as_json(), "digest": sealed.digest},
            "on_disk": self.on_disk,
            "checked": checked
            and {
                "at": rfc3339(checked.at),
                "version": checked.version,
                "operator": checked.operator,
                "current": sealed is not None and checked.digest == sealed.digest,
            },
        }


def set_key(broker: Broker, peer: Peer, recipients: list[str]) -> tuple[RecoveryKeyView, bool]:
    """Have all passphrases encrypted to these recipients from here on; those that there are, by ``renew``.

    Returns:
        The key, and whether it is new; False where these very recipients are set already.

    Raises:
        KeybrokerError: as ``inventory.put_addon`` for the peer; MALFORMED recipients; CORRUPT.
    """

    def work(writing: Writing, caller: Caller) -> tuple[RecoveryKeyView, bool]:
        wanted = read_recipients(recipients)
        before = recovery_key(broker, writing)
        if before is not None and before.recipients == "\n".join(wanted):
            return _view(writing, before), False
        number = 1 if before is None else before.number + 1
        row = new_recovery_key(broker.masterkey, wanted, number, caller.now, broker.entropy)
        writing.add_recovery_key(row)
        writing.append(caller.about("done", number=row.number, recipients=list(wanted)))
        return _view(writing, row), True

    return perform(broker, peer, "recovery.set", work)


def renew(broker: Broker, peer: Peer) -> tuple[int, int]:
    """Encrypt to the recovery key what is not yet, of some volumes.

    Returns:
        How many volumes that was, and how many are left: call again.

    Raises:
        KeybrokerError: as ``set_key``.
    """

    def work(writing: Writing, caller: Caller) -> tuple[int, int]:
        renewed, left = catch_up(broker, writing, caller.now)
        if renewed:
            writing.append(caller.about("done", renewed=renewed, left=left))
        return renewed, left

    return perform(broker, peer, "recovery.set", work)


def renew_all(broker: Broker) -> int:
    """Encrypt to the recovery key whatever is not yet; for the hourly sweep, so there is no peer.

    Raises:
        KeybrokerError: UNAVAILABLE, CORRUPT; what was done until then stays so.
    """
    total = 0
    key = broker.store.read(lambda reading: reading.recovery_key())
    while key is not None and broker.store.read(lambda reading: reading.unrecoverable(key.number)):
        now = broker.clock()

        def work(writing: Writing, now: datetime = now) -> int:
            renewed, left = catch_up(broker, writing, now)
            facts = {"renewed": renewed, "left": left}
            event = AuditEvent(now, "broker", "", "local", "recovery.set", "done", detail=facts)
            writing.append(event)
            return renewed

        renewed = broker.store.write(work)
        if not renewed:
            break
        total += renewed
    return total


def import_key(
    broker: Broker, peer: Peer, addon: str, name: str, version: KeyVersion, passphrase: Secret
) -> bool:
    """Bring a key back that this database does not know, because it was set back to before it was minted.

    The offline key found it in the header of the volume's disk. It becomes the current one; whether it opens
    the header, its host shows at its next run. Every other key is kept, and none of them is destroyed.

    Args:
        version: the highest that the header names, as its host has reported.

    Returns:
        Whether it is new; False where it was brought back already.

    Raises:
        KeybrokerError: as ``inventory.put_addon`` for the peer; UNKNOWN; CONFLICT where the volume is not
            ahead of this database by that very version.
    """

    def work(writing: Writing, caller: Caller) -> bool:
        row = lasting_volume(writing, addon, name)
        known = writing.ahead().get(row.volume.id)
        if known is None or known.named != version:
            raise KeybrokerError(
                Problem.CONFLICT,
                f"volume {addon}/{name}: no host has reported a header that names key version {version}",
                hint="keybroker restore --check",
            )
        changed = rotation.bring_back(row.volume, version, known.revision or 0)
        if changed is row.volume:
            return False
        keys = AddonKeys(broker.masterkey, writing.addon_keys(row.volume.addon))
        wrapped = keys.wrap(passphrase, passphrase_context(row.volume, version), broker.entropy)
        row = save(writing, caller, row, changed, {version: wrapped})
        entrust(broker, writing, row, (version,), caller.now)
        writing.put_ahead(replace(known, accepted=caller.now, accepted_by=caller.peer.identity.name))
        writing.append(caller.about("done", addon=addon, volume=row.volume.id, version=version))
        return True

    return perform(broker, peer, "recovery.import", work)


def show(broker: Broker, peer: Peer) -> RecoveryKeyView:
    """Return the recovery key that counts.

    Raises:
        KeybrokerError: as ``inventory.put_addon`` for the peer; CORRUPT.
    """
    return consult(
        broker, peer, "recovery.read", lambda reading: _view(reading, recovery_key(broker, reading))
    )


def _view(reading: Reading, row: RecoveryKeyRow | None) -> RecoveryKeyView:
    if row is None:
        return RecoveryKeyView(0, (), None, 0)
    waiting = len(reading.unrecoverable(row.number))
    return RecoveryKeyView(row.number, tuple(row.recipients.split("\n")), row.created, waiting)


def volumes(broker: Broker, peer: Peer) -> tuple[RecoveryView, ...]:
    """Return what there is of every volume that has a key, by add-on and name.

    Raises:
        KeybrokerError: as ``inventory.put_addon`` for the peer.
    """

    def work(reading: Reading) -> tuple[RecoveryView, ...]:
        checks, reports = reading.recovery_checks(), reading.reports()
        deleting = {row.name for row in reading.addons() if row.deletion is not None}
        return tuple(
            RecoveryView(
                addon=row.volume.addon,
                name=row.volume.name,
                volume=row.volume.id,
                recovery=row.volume.recovery,
                on_disk=reports[row.volume.id].report.recovery if row.volume.id in reports else None,
                checked=checks.get(row.volume.id),
            )
            for row in reading.volumes()
            if row.volume.keyring is not None and row.volume.keyring.current is not None
            # nothing of what is to be destroyed leaves, not even encrypted
            if row.volume.deletion is None and row.volume.addon not in deleting
        )

    return consult(broker, peer, "recovery.read", work)


def check(
    broker: Broker, peer: Peer, addon: str, name: str, version: KeyVersion, called: str, proof: str
) -> bool:
    """Say whether what an operator found in a ciphertext is the volume's key; both answers are on record.

    Args:
        called: digest of the ciphertext that was decrypted.
        proof: made with what was in it (``wire.recovery.prove``).

    Returns:
        False for a proof that is none: the offline key opens the ciphertext, and what is inside is another
        passphrase.

    Raises:
        KeybrokerError: as ``inventory.put_addon`` for the peer; UNKNOWN; CONFLICT where the ciphertext is
            another one by now; CORRUPT where it is not the one that was made for this volume.
    """

    def work(writing: Writing, caller: Caller) -> bool:
        row = lasting_volume(writing, addon, name)
        volume = row.volume
        kept = writing.recovery(volume.id, version)
        if kept is None or digest(kept.ciphertext) != called or version not in row.wrapped:
            raise KeybrokerError(
                Problem.CONFLICT, f"volume {addon}/{name}: its recovery ciphertext is another one by now"
            )
        check_seal(broker, writing, row, kept)
        key = unwrap(broker, writing, row, (version,))[version]
        made = prove(key, volume=volume.id, version=version, ciphertext=kept.ciphertext)
        good = hmac.compare_digest(made, proof)
        if good:
            who = caller.peer.identity.name
            writing.put_recovery_check(RecoveryCheckRow(volume.id, version, called, caller.now, who))
        writing.append(caller.about("done", addon=addon, volume=volume.id, version=version, opens=good))
        return good

    return perform(broker, peer, "recovery.check", work)
