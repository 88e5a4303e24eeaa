"""The part of the store's Protocols that is about the day when something is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from keybroker.store.recoveryrows import (
    AheadRow,
    RecoveryCheckRow,
    RecoveryKeyRow,
    RecoveryRow,
    RestoreRow,
    RevealRow,
)
from keybroker.wire.names import KeyVersion, VolumeId


class RecoveringReading(Protocol):
    """What is read."""

    def recovery_key(self) -> RecoveryKeyRow | None:
        """Return the offline recovery key that counts."""
        ...

    def recovery(self, volume: VolumeId, version: KeyVersion) -> RecoveryRow | None:
        """Return what a key version is as encrypted to an offline recovery key."""
        ...

    def unrecoverable(self, key: int) -> list[VolumeId]:
        """Return the volumes with a current or staged key that is not encrypted to that recovery key."""
        ...

    def recovery_checks(self) -> dict[VolumeId, RecoveryCheckRow]:
        """Return when the offline key was last seen to open each volume's ciphertext."""
        ...

    def reveals(self, volume: VolumeId | None = None) -> list[RevealRow]:
        """Return the passphrases that were shown to operators, the newest last; of one volume or of all."""
        ...

    def restore(self) -> RestoreRow | None:
        """Return the last time that the database was set back, as far as is known."""
        ...

    def ahead(self) -> dict[VolumeId, AheadRow]:
        """Return the volumes whose hosts know more of them than this database, accepted ones too."""
        ...

    def strangers(self, after: Mapping[str, int]) -> list[str]:
        """Return the identities that were turned away as unknown, sorted.

        Args:
            after: since which audit record of each writer; since the first where none is named.
        """
        ...


class RecoveringWriting(RecoveringReading, Protocol):
    """What is written."""

    def add_recovery_key(self, row: RecoveryKeyRow) -> None:
        """Add an offline recovery key, which counts from here on."""
        ...

    def put_recovery(self, row: RecoveryRow) -> None:
        """Keep what a key version is as encrypted, instead of what was kept before."""
        ...

    def put_recovery_check(self, row: RecoveryCheckRow) -> None:
        """Keep that a ciphertext was opened, instead of the check before."""
        ...

    def put_reveal(self, row: RevealRow) -> None:
        """Keep that a passphrase was shown, or that it was rotated for that."""
        ...

    def put_restore(self, row: RestoreRow) -> None:
        """Keep that the database was set back, or that this is over."""
        ...

    def put_ahead(self, row: AheadRow) -> None:
        """Keep that a host knows more of a volume, instead of what was kept before."""
        ...
