"""Rows of the offline recovery key: read and written, as parts of ``SqlReading`` and ``SqlWriting``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy import delete as sql_delete

from keybroker.store.recoveryrows import RecoveryCheckRow, RecoveryKeyRow, RecoveryRow, RevealRow
from keybroker.store.recoverytables import RECOVERIES, RECOVERY_CHECKS, RECOVERY_KEYS, REVEALS
from keybroker.store.rows import from_text, to_text
from keybroker.store.tables import KEYS, VOLUMES
from keybroker.wire.names import KeyVersion, VolumeId

WITH_KEYS: Final = VOLUMES.outerjoin(KEYS, VOLUMES.c.id == KEYS.c.volume).outerjoin(
    RECOVERIES, (RECOVERIES.c.volume == KEYS.c.volume) & (RECOVERIES.c.version == KEYS.c.version)
)
"""Volumes with their keys, and those with what they are as encrypted to the offline recovery key."""

_RECOVERY_KEY: Final = select(RECOVERY_KEYS).order_by(RECOVERY_KEYS.c.number.desc()).limit(1)
_RECOVERY: Final = select(RECOVERIES).where(
    RECOVERIES.c.volume == bindparam("volume"), RECOVERIES.c.version == bindparam("version")
)
_UNRECOVERABLE: Final = (
    select(KEYS.c.volume)
    .where(
        KEYS.c.state.in_(("current", "staged")),
        ~select(RECOVERIES.c.key)
        .where(
            RECOVERIES.c.volume == KEYS.c.volume,
            RECOVERIES.c.version == KEYS.c.version,
            RECOVERIES.c.key == bindparam("key"),
        )
        .exists(),
    )
    .distinct()
    .order_by(KEYS.c.volume)
)
_REVEALS: Final = select(REVEALS).order_by(REVEALS.c.volume, REVEALS.c.number)
_RECOVERY_CHECKS: Final = select(RECOVERY_CHECKS)


class RecoveryReading:
    """The part of ``Reading`` that is about the offline recovery key."""

    _connection: Connection

    def recovery_key(self) -> RecoveryKeyRow | None:
        """Return the offline recovery key that counts."""
        row = self._connection.execute(_RECOVERY_KEY).one_or_none()
        if row is None:
            return None
        return RecoveryKeyRow(row.number, row.recipients, row.wrapped, row.master, from_text(row.created))

    def recovery(self, volume: VolumeId, version: KeyVersion) -> RecoveryRow | None:
        """Return what a key version is as encrypted to an offline recovery key."""
        row = self._connection.execute(_RECOVERY, {"volume": volume, "version": version}).one_or_none()
        if row is None:
            return None
        made = from_text(row.created)
        return RecoveryRow(volume, version, row.key, row.ciphertext, row.wrapped, made)

    def unrecoverable(self, key: int) -> list[VolumeId]:
        """Return the volumes with a current or staged key that is not encrypted to that recovery key."""
        return [VolumeId(row.volume) for row in self._connection.execute(_UNRECOVERABLE, {"key": key})]

    def recovery_checks(self) -> dict[VolumeId, RecoveryCheckRow]:
        """Return when the offline key was last seen to open each volume's ciphertext."""
        rows = [
            RecoveryCheckRow(
                VolumeId(row.volume), KeyVersion(row.version), row.digest, from_text(row.at), row.operator
            )
            for row in self._connection.execute(_RECOVERY_CHECKS)
        ]
        return {row.volume: row for row in rows}

    def reveals(self, volume: VolumeId | None = None) -> list[RevealRow]:
        """Return the passphrases that were shown to operators, the newest last; of one volume or of all."""
        asked = _REVEALS if volume is None else _REVEALS.where(REVEALS.c.volume == volume)
        return [
            RevealRow(
                volume=VolumeId(row.volume),
                number=row.number,
                version=KeyVersion(row.version),
                at=from_text(row.at),
                operator=row.operator,
                reason=row.reason,
                rotate_after=from_text(row.rotate_after),
                rotated=row.rotated and from_text(row.rotated),
            )
            for row in self._connection.execute(asked)
        ]


class RecoveryWriting(RecoveryReading):
    """The part of ``Writing`` that is about the offline recovery key."""

    def add_recovery_key(self, row: RecoveryKeyRow) -> None:
        """Add an offline recovery key, which counts from here on."""
        self._connection.execute(insert(RECOVERY_KEYS), _columns(row))

    def put_recovery(self, row: RecoveryRow) -> None:
        """Keep what a key version is as encrypted, instead of what was kept before."""
        self.forget_recovery(row.volume, row.version)
        self._connection.execute(insert(RECOVERIES), _columns(row))

    def forget_recovery(self, volume: VolumeId, version: KeyVersion) -> None:
        """Forget what a key version is as encrypted, with the key itself."""
        self._connection.execute(
            sql_delete(RECOVERIES).where(RECOVERIES.c.volume == volume, RECOVERIES.c.version == version)
        )

    def put_reveal(self, row: RevealRow) -> None:
        """Keep that a passphrase was shown, or that it was rotated for that."""
        self._connection.execute(
            sql_delete(REVEALS).where(REVEALS.c.volume == row.volume, REVEALS.c.number == row.number)
        )
        self._connection.execute(insert(REVEALS), _columns(row))

    def put_recovery_check(self, row: RecoveryCheckRow) -> None:
        """Keep that a ciphertext was opened, instead of the check before."""
        self._connection.execute(sql_delete(RECOVERY_CHECKS).where(RECOVERY_CHECKS.c.volume == row.volume))
        self._connection.execute(insert(RECOVERY_CHECKS), _columns(row))


def _columns(row: Any) -> dict[str, Any]:
    return {
        name: to_text(value) if isinstance(value, datetime) else value for name, value in asdict(row).items()
    }
