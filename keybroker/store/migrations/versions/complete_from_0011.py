"""From which sequence of its header on a disk had all of the data that was moved to it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # NULL for what was moved before this was kept: no sequence says there which snapshot is a whole one.
    op.add_column("volumes", sa.Column("complete_from", sa.BigInteger(), nullable=True))
