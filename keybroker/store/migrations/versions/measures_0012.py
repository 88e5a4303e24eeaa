"""Indexes from which metrics are counted without reading rows."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_volumes_standing", "volumes", ["stage", "role", "filesystem", "id"])
    op.create_index("ix_keys_age", "keys", ["created", "state"], **_where("state = 'current'"))
    op.create_index("ix_keys_destroy_after", "keys", ["destroy_after"], **_where("destroy_after IS NOT NULL"))
    op.create_index("ix_certificates_newest", "certificates", ["host", "not_after"])


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}
