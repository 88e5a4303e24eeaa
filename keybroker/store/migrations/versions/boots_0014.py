"""Boots of hosts are told apart."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "boots",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column("machine_id", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("first", sa.Text(), nullable=False),
        sa.Column("last", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "state IN ('up', 'admitted', 'approved', 'waiting', 'refused', 'contested', 'denied', "
            "'replaced')",
            name=op.f("ck_boots_state"),
        ),
        sa.ForeignKeyConstraint(["host"], ["hosts.id"], name="fk_boots_host"),
        sa.PrimaryKeyConstraint("id", name="pk_boots"),
    )
    op.create_index("ix_boots_host", "boots", ["host"])
