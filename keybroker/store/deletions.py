"""Rows of what is to be destroyed, or was, as parts of ``SqlReading`` and ``SqlWriting``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Final

from sqlalchemy import Connection, bindparam, insert, select, update

from keybroker.model import Deletion
from keybroker.store.rows import AddonRow, AddonStatementRow, StatementRow, from_text, to_text
from keybroker.store.tables import ADDON_STATEMENTS, ADDONS, STATEMENTS, VOLUMES
from keybroker.wire.names import AddonName, VolumeId

_WITHHELD: Final = select(VOLUMES.c.id).where(
    VOLUMES.c.addon == bindparam("addon"),
    VOLUMES.c.deletion.is_not(None) | (VOLUMES.c.stage == "erased"),
)
_STATEMENTS: Final = (
    select(STATEMENTS).where(STATEMENTS.c.volume == bindparam("volume")).order_by(STATEMENTS.c.number)
)
_ADDON_STATEMENT: Final = select(ADDON_STATEMENTS).where(ADDON_STATEMENTS.c.addon == bindparam("addon"))


class DeletionReading:
    """The part of ``Reading`` that is about what is to be destroyed."""

    _connection: Connection

    def withheld(self, addon: AddonName) -> frozenset[VolumeId]:
        """Return the volumes of an add-on that are erased, or whose destruction is pending."""
        return frozenset(VolumeId(row.id) for row in self._connection.execute(_WITHHELD, {"addon": addon}))

    def statements(self, volume: VolumeId) -> list[StatementRow]:
        """Return the statements about a volume, the newest last."""
        return [
            StatementRow(volume, row.number, from_text(row.at), row.document, row.signature, row.public)
            for row in self._connection.execute(_STATEMENTS, {"volume": volume})
        ]

    def addon_statement(self, addon: AddonName) -> AddonStatementRow | None:
        """Return the statement about an add-on that was destroyed."""
        row = self._connection.execute(_ADDON_STATEMENT, {"addon": addon}).one_or_none()
        if row is None:
            return None
        return AddonStatementRow(addon, from_text(row.at), row.document, row.signature, row.public)


class DeletionWriting(DeletionReading):
    """The part of ``Writing`` that is about what is to be destroyed."""

    def change_addon(self, row: AddonRow) -> None:
        """Keep whether an add-on's destruction is pending, or when it was carried out."""
        self._connection.execute(
            update(ADDONS)
            .where(ADDONS.c.name == row.name)
            .values(deletion=pending_text(row.deletion), destroyed=row.destroyed and to_text(row.destroyed))
        )

    def add_addon_statement(self, row: AddonStatementRow) -> None:
        """Add the statement about an add-on that is destroyed."""
        self._connection.execute(insert(ADDON_STATEMENTS), {**asdict(row), "at": to_text(row.at)})


def pending_text(deletion: Deletion | None) -> str | None:
    """Return a pending destruction as its column holds it; None where there is none."""
    return None if deletion is None else json.dumps(deletion.as_json())
