"""What the store does alike on each engine: one writer writes, and the audit trail is read in pages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from keybroker.audit import AuditEntry, AuditFilter, Writer
from keybroker.store.group import GroupCommit
from keybroker.store.reading import SqlReading
from keybroker.store.rows import CheckpointRow
from keybroker.store.writing import SqlWriting

T = TypeVar("T")

_PAGE: Final = 1000


class GroupedStore(ABC):
    """The part of ``Store`` that no engine has of its own.

    Args:
        name: whose chain of the audit trail it appends to.
        writer: the one writer of the database in this process.
    """

    def __init__(self, name: Writer, writer: GroupCommit) -> None:
        self._name = name
        self._writer = writer

    @abstractmethod
    def read(self, work: Callable[[SqlReading], T]) -> T:
        """Run ``work`` on a consistent view."""

    def write(self, work: Callable[[SqlWriting], T]) -> T:
        """Run ``work`` in a transaction, and return once that is durable; it may be run several times."""
        return self._writer.submit(work).result()

    def audit_records(self, writer: str | None = None) -> Iterator[AuditEntry]:
        """Yield every audit record of a chain, in pages."""
        return records(self.read, writer or self._name.name)

    def audit_checkpoints(self) -> Iterator[CheckpointRow]:
        """Yield every checkpoint, in pages."""
        after = 0
        while page := self.read(lambda reading, after=after: reading.checkpoints(after, _PAGE)):  # type: ignore[misc]
            yield from page
            after = page[-1].number

    @property
    def alive(self) -> bool:
        """Say whether writes are still answered."""
        return self._writer.alive


Page = list[AuditEntry]


def records(read: Callable[[Callable[[SqlReading], Page]], Page], writer: str) -> Iterator[AuditEntry]:
    """Yield every audit record of a writer's chain, in pages.

    Args:
        read: runs what it is given on a view of the database.
    """
    after = 0

    def next_page(reading: SqlReading) -> Page:
        return reading.audit({writer: after}, _PAGE, AuditFilter(writer=writer))

    while page := read(next_page):
        yield from page
        after = page[-1].sequence
