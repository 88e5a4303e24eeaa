"""Passphrases that were shown to somebody, and when each is rotated for that."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reveals",
        sa.Column("volume", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("rotate_after", sa.Text(), nullable=False),
        sa.Column("rotated", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["volume"], ["volumes.id"], name="fk_reveals_volume"),
        sa.PrimaryKeyConstraint("volume", "number", name="pk_reveals"),
    )
