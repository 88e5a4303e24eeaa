"""A ring of master keys: the one that the installation had becomes the first that wraps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_LIVE = "SELECT 1 FROM master_keys WHERE identity = NEW.master AND state <> 'forgotten'"


def _names_a_live_key(table: str) -> tuple[str, ...]:
    return tuple(
        f"""
        CREATE TRIGGER {table}_{when.lower()}_names_a_master_key BEFORE {when} ON {table}
        WHEN NOT EXISTS ({_LIVE})
        BEGIN SELECT RAISE(ABORT, 'it is wrapped by a master key that is not known, or forgotten'); END
        """
        for when in ("INSERT", "UPDATE")
    )


_TRIGGERS = (
    *_names_a_live_key("addon_keys"),
    *_names_a_live_key("signers"),
    """
    CREATE TRIGGER master_keys_are_not_deleted BEFORE DELETE ON master_keys
    BEGIN SELECT RAISE(ABORT, 'master keys are forgotten, never deleted'); END
    """,
    """
    CREATE TRIGGER master_keys_stay_forgotten BEFORE UPDATE ON master_keys
    WHEN OLD.state = 'forgotten' AND NEW.state <> 'forgotten'
    BEGIN SELECT RAISE(ABORT, 'a forgotten master key does not come back'); END
    """,
    """
    CREATE TRIGGER master_keys_are_empty_first BEFORE UPDATE ON master_keys
    WHEN NEW.state = 'forgotten' AND (OLD.state = 'wraps'
      OR EXISTS (SELECT 1 FROM addon_keys WHERE master = OLD.identity)
      OR EXISTS (SELECT 1 FROM signers WHERE master = OLD.identity))
    BEGIN SELECT RAISE(ABORT, 'a master key that wraps something is not forgotten'); END
    """,
)


def upgrade() -> None:
    op.create_table(
        "master_keys",
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("key_check", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("emptied", sa.Text(), nullable=True),
        sa.CheckConstraint("state IN ('wraps', 'unwraps', 'forgotten')", name=op.f("ck_master_keys_state")),
        sa.CheckConstraint("emptied IS NULL OR state <> 'wraps'", name=op.f("ck_master_keys_emptied")),
        sa.PrimaryKeyConstraint("identity", name="pk_master_keys"),
    )
    condition = sa.text("state = 'wraps'")
    op.create_index(
        "uq_master_keys_wraps",
        "master_keys",
        ["state"],
        unique=True,
        sqlite_where=condition,
        postgresql_where=condition,
    )
    op.execute(
        "INSERT INTO master_keys (identity, uri, state, key_check, created)"
        " SELECT master, '', 'wraps', key_check, created FROM installation"
    )
    op.drop_column("installation", "master")
    op.drop_column("installation", "key_check")
    for trigger in _TRIGGERS:
        op.execute(trigger)
