"""The part of the store's Protocols that is about what is to be destroyed, or was."""

from __future__ import annotations

from typing import Protocol

from keybroker.store.rows import AddonRow, AddonStatementRow
from keybroker.wire.names import AddonName, VolumeId


class DeletingReading(Protocol):
    """What is read."""

    def withheld(self, addon: AddonName) -> frozenset[VolumeId]:
        """Return the volumes of an add-on that are erased, or whose destruction is pending."""
        ...

    def addon_statement(self, addon: AddonName) -> AddonStatementRow | None:
        """Return the statement about an add-on that was destroyed; None where there is none."""
        ...


class DeletingWriting(DeletingReading, Protocol):
    """What is written."""

    def change_addon(self, row: AddonRow) -> None:
        """Keep whether an add-on's destruction is pending, or when it was carried out."""
        ...

    def add_addon_statement(self, row: AddonStatementRow) -> None:
        """Add the statement about an add-on that is destroyed."""
        ...
