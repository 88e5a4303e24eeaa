"""What an outside CA is to sign."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "signing_requests",
        sa.Column("spki", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=True),
        sa.Column("operator", sa.Text(), nullable=True),
        sa.Column("csr", sa.Text(), nullable=False),
        sa.Column("asked", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), nullable=True),
        sa.CheckConstraint("(host IS NULL) <> (operator IS NULL)", name=op.f("ck_signing_requests_whose")),
        sa.ForeignKeyConstraint(["host"], ["hosts.id"], name="fk_signing_requests_host"),
        sa.ForeignKeyConstraint(["operator"], ["operators.name"], name="fk_signing_requests_operator"),
        sa.ForeignKeyConstraint(["token"], ["enrolments.token_hash"], name="fk_signing_requests_token"),
        sa.PrimaryKeyConstraint("spki", name="pk_signing_requests"),
        sa.UniqueConstraint("token", name="uq_signing_requests_token"),
    )
    op.create_index("ix_signing_requests_host", "signing_requests", ["host"])
    op.create_index("ix_signing_requests_operator", "signing_requests", ["operator"])
