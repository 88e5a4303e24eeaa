"""The table of what an outside CA is to sign; ``tables`` has the others."""

from __future__ import annotations

from typing import Final

from sqlalchemy import CheckConstraint, Column, ForeignKey, Table, Text

from keybroker.store.tables import METADATA

SIGNING_REQUESTS: Final = Table(
    "signing_requests",
    METADATA,
    Column("spki", Text, primary_key=True),
    Column("host", Text, ForeignKey("hosts.id"), index=True),
    Column("operator", Text, ForeignKey("operators.name"), index=True),
    Column("csr", Text, nullable=False),
    Column("asked", Text, nullable=False),
    Column("token", Text, ForeignKey("enrolments.token_hash"), unique=True),
    CheckConstraint("(host IS NULL) <> (operator IS NULL)", name="whose"),
)
"""What an outside CA is to sign; ``token``: the one that was spent on this key."""
