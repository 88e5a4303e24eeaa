"""Signed checkpoints of the audit trail, append-only like the trail itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_TRIGGERS = (
    """
    CREATE TRIGGER checkpoints_are_not_changed BEFORE UPDATE ON checkpoints
    BEGIN SELECT RAISE(ABORT, 'checkpoints are not changed'); END
    """,
    """
    CREATE TRIGGER checkpoints_are_not_deleted BEFORE DELETE ON checkpoints
    BEGIN SELECT RAISE(ABORT, 'checkpoints are not deleted'); END
    """,
    # also the door that INSERT OR REPLACE would use, which deletes without firing the trigger above
    """
    CREATE TRIGGER checkpoints_are_appended_to BEFORE INSERT ON checkpoints
    WHEN NEW.number IS NOT 1 + (SELECT coalesce(max(number), 0) FROM checkpoints)
    BEGIN SELECT RAISE(ABORT, 'a checkpoint follows the last one'); END
    """,
)


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("public", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["public"], ["signers.public"], name="fk_checkpoints_public"),
        sa.PrimaryKeyConstraint("number", name="pk_checkpoints"),
    )
    for trigger in _TRIGGERS:
        op.execute(trigger)
