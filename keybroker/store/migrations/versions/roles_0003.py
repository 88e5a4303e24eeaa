"""Operators' roles, who added whom, and from when on an operator's certificates count."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # made anew beside the old one, as in 0002
    op.create_table(
        "operators_0003",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("added_by", sa.Text(), nullable=True),
        sa.Column("since", sa.Text(), nullable=False),
        sa.Column("revoked", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint("(revoked IS NULL) = (reason IS NULL)", name=op.f("ck_operators_reason")),
        sa.PrimaryKeyConstraint("name", name="pk_operators"),
    )
    # Whoever was an operator could do everything that there was to do, and an upgrade takes nothing away.
    # ``metrics`` is for machines that scrape: nobody had that, and whoever needs it is given it.
    op.execute(
        "INSERT INTO operators_0003 (name, created, roles, since, revoked, reason)"
        " SELECT name, created, 'approver auditor operator', created, revoked,"
        " CASE WHEN revoked IS NULL THEN NULL ELSE 'not recorded' END FROM operators"
    )
    op.drop_table("operators")
    op.rename_table("operators_0003", "operators")
