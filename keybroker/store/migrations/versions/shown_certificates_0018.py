"""Which certificates hosts and operators have come with while the CA is changed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "shown_certificates",
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["fingerprint"],
            ["certificates.fingerprint"],
            name="fk_shown_certificates_fingerprint",
        ),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_shown_certificates"),
    )
