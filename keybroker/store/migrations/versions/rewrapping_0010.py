"""Keys that are wrapped anew: under which master key each was made, and none goes while it is needed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("master_keys", sa.Column("renews", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("addon_keys", sa.Column("made_under", sa.Text(), nullable=True))
    op.add_column("signers", sa.Column("made_under", sa.Text(), nullable=True))
    op.create_index("ix_volumes_addon", "volumes", ["addon"])
    op.execute(
        """
        CREATE TRIGGER addon_keys_keep_the_newest BEFORE DELETE ON addon_keys
        WHEN OLD.generation = (SELECT max(generation) FROM addon_keys WHERE addon = OLD.addon)
        BEGIN SELECT RAISE(ABORT, 'the newest key of an add-on is not deleted'); END
        """
    )
