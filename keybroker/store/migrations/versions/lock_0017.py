"""Hosts that are revoked may be told to close what they have open."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hosts", sa.Column("lock", sa.Integer(), nullable=False, server_default="0"))
