"""Passphrases, encrypted to the offline recovery key: made with each key version, within one transaction.

Two seals keep whoever can only write to the database from having passphrases encrypted to a key of his own,
or from exchanging ciphertexts: the master key wraps the recipients' hash, the add-on's key each ciphertext's.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Final

from keybroker import age
from keybroker.envelope import ENTROPY_BYTES, wrapped_by
from keybroker.masterkey import MasterKey
from keybroker.service.broker import Broker
from keybroker.service.custody import unwrap
from keybroker.service.keys import AddonKeys, recovery_context, recovery_key_context
from keybroker.store import Reading, Writing
from keybroker.store.recoveryrows import RecoveryKeyRow, RecoveryRow
from keybroker.store.rows import VolumeRow
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.recovery import Recovery
from keybroker.wire.secret import Secret

BATCH: Final = 100
"""Volumes whose passphrases are encrypted in one transaction."""


def recovery_key(broker: Broker, reading: Reading) -> RecoveryKeyRow | None:
    """Return the recovery key that counts, its seal checked; None where there is none.

    Raises:
        KeybrokerError: CORRUPT where its recipients are not the ones that were set.
    """
    row = reading.recovery_key()
    if row is not None:
        sealed = broker.masterkey.unwrap(row.wrapped, recovery_key_context(row.number))
        if sealed != _hash(row.recipients):
            raise KeybrokerError(
                Problem.CORRUPT, "recovery key: its recipients are not the ones that were set"
            )
    return row


def new_recovery_key(
    masterkey: MasterKey,
    recipients: Iterable[str],
    number: int,
    now: datetime,
    entropy: Callable[[int], bytes],
) -> RecoveryKeyRow:
    """Make a recovery key's row, not yet stored.

    Args:
        recipients: as ``age.read_recipients`` has checked them.
        number: one more than that of the recovery key before; 1 for the first.
    """
    text = "\n".join(recipients)
    seal = masterkey.wrap(_hash(text), recovery_key_context(number), entropy(ENTROPY_BYTES))
    return RecoveryKeyRow(number, text, seal, wrapped_by(seal).hex(), now)


def entrust(
    broker: Broker, writing: Writing, row: VolumeRow, versions: Iterable[KeyVersion], now: datetime
) -> VolumeRow:
    """Encrypt key versions of a volume to the recovery key, if there is one; return the volume with them.

    Args:
        row: as it is stored already.

    Raises:
        KeybrokerError: CORRUPT where a key does not open, or the recovery key is not the one that was set.
    """
    key = recovery_key(broker, writing)
    if key is None:
        return row
    keys = AddonKeys(broker.masterkey, writing.addon_keys(row.volume.addon))
    made = {each.version: each for each in row.volume.recoveries}
    for version, passphrase in unwrap(broker, writing, row, versions).items():
        sealed = age.encrypt(passphrase, key.recipients.split("\n"))
        ciphertext = base64.b64encode(sealed).decode()
        seal = keys.wrap(_hash(ciphertext), recovery_context(row.volume, version), broker.entropy)
        writing.put_recovery(RecoveryRow(row.volume.id, version, key.number, ciphertext, seal, now))
        made[version] = Recovery(version, ciphertext)
    return replace(row, volume=replace(row.volume, recoveries=tuple(made[each] for each in sorted(made))))


def check_seal(broker: Broker, reading: Reading, row: VolumeRow, kept: RecoveryRow) -> None:
    """Check that a ciphertext is the one that was made for this very volume and version.

    Raises:
        KeybrokerError: CORRUPT.
    """
    keys = AddonKeys(broker.masterkey, reading.addon_keys(row.volume.addon))
    if keys.unwrap(kept.wrapped, recovery_context(row.volume, kept.version)) != _hash(kept.ciphertext):
        raise KeybrokerError(
            Problem.CORRUPT, f"volume {row.volume.id}: its recovery ciphertext is not the one that was made"
        )


def catch_up(broker: Broker, writing: Writing, now: datetime, *, most: int = BATCH) -> tuple[int, int]:
    """Encrypt to the recovery key what is not, of so many volumes; return how many, and how many are left.

    No revision changes: each host sees the new ciphertext in its next record.
    """
    key = writing.recovery_key()
    waiting: list[VolumeId] = [] if key is None else writing.unrecoverable(key.number)
    for volume in waiting[:most]:
        row = writing.volume(volume)
        keys = None if row is None else row.volume.keyring
        if row is not None and keys is not None:
            live = [each for each in (keys.current, keys.staged) if each is not None]
            entrust(broker, writing, row, live, now)
    return len(waiting[:most]), len(waiting[most:])


def _hash(text: str) -> Secret:
    return Secret(hashlib.sha256(text.encode()).digest())
