"""Of a boot it is kept whether an approver vouched for its machine and address."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("boots", sa.Column("vouched", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE boots SET vouched = 1 WHERE state = 'approved'")
