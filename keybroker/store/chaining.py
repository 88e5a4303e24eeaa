"""The part of the store's Protocols that is about the audit trail: a chain a writer, and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from keybroker.audit import EVERYTHING, AuditEntry, AuditEvent, AuditFilter, Head
from keybroker.store.rows import CheckpointRow
from keybroker.wire.receipt import Receipt


class ChainingReading(Protocol):
    """What is read."""

    @property
    def writer(self) -> str:
        """Whose chain this store appends to."""
        ...

    def check_writer(self) -> None:
        """Check that no other process has taken this writer's name since this one has (``hold``).

        Raises:
            KeybrokerError: UNAVAILABLE.
        """
        ...

    def heads(self) -> tuple[Head, ...]:
        """Return the last record of each chain, by writer."""
        ...

    def audit_head(self) -> tuple[int, str]:
        """Return the sequence number and hash of this writer's last record; 0 and zeros where it has none."""
        ...

    def audit(
        self,
        after: Mapping[str, int],
        limit: int,
        wanted: AuditFilter = EVERYTHING,
        through: Mapping[str, int] | None = None,
    ) -> list[AuditEntry]:
        """Return at most ``limit`` audit records, each chain's in order, and the chains by their times.

        Args:
            after: sequence numbers by writer that are behind already; 0 where none is named.
            wanted: which ones.
            through: sequence numbers by writer that are not gone beyond, None for all there are; a chain that
                is not named is not read.
        """
        ...

    def has_record(self, receipt: Receipt) -> bool:
        """Say whether the record of a receipt is in the trail, in whichever chain."""
        ...

    def checkpoints(self, after: int, limit: int) -> list[CheckpointRow]:
        """Return at most ``limit`` checkpoints with numbers above ``after``, in order."""
        ...

    def newest_checkpoint(self) -> CheckpointRow | None:
        """Return the newest checkpoint."""
        ...


class ChainingWriting(ChainingReading, Protocol):
    """What is written."""

    def append(self, *events: AuditEvent) -> tuple[int, str]:
        """Add records to this writer's chain; return the sequence number and hash of the last.

        Raises:
            KeybrokerError: as ``check_writer``.
        """
        ...

    def hold(self, now: datetime) -> None:
        """Take this writer's name for this process; whoever had it writes nothing any more."""
        ...

    def add_checkpoint(self, row: CheckpointRow) -> None:
        """Add the checkpoint that follows the newest one; CONFLICT where another has that number."""
        ...
