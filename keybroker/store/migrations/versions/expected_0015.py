"""Boots that are expected need nobody's yes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "expected",
        sa.Column("addon", sa.Text(), nullable=False),
        sa.Column("until", sa.Text(), nullable=False),
        sa.Column("said", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["addon"], ["addons.name"], name="fk_expected_addon"),
        sa.PrimaryKeyConstraint("addon", name="pk_expected"),
    )
