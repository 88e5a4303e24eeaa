"""The tables of the audit trail; ``tables`` has the others."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary, Table, Text

from keybroker.store.tables import METADATA

WRITERS: Final = Table(
    "writers",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("since", Text, nullable=False),
    Column("holder", Text),
)
"""Whose chains there are. ``holder``: the process that serves in that name, by a number that it made up."""

AUDIT: Final = Table(
    "audit",
    METADATA,
    Column("writer", Text, ForeignKey("writers.name"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("verb", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("addon", Text),
    Column("volume", Text),
    Column("host", Text),
    Column("detail", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
    # A row's own number would be a second key, by which INSERT OR REPLACE takes a record away unseen by any
    # trigger; without it SQLite orders the table by writer and sequence.
    sqlite_with_rowid=False,
)
"""Append-only by triggers (migration 0021); else no foreign keys, for it outlives what it speaks of."""

CHECKPOINTS: Final = Table(
    "checkpoints",
    METADATA,
    # SQLite orders a table by its key only where that is exactly INTEGER
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("public", LargeBinary, ForeignKey("signers.public"), nullable=False),
)
"""Of the audit trail; append-only by triggers (migration 0007)."""
