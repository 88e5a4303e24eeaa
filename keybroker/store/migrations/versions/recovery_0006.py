"""The offline recovery key, and each key version encrypted to it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_LIVE = "SELECT 1 FROM master_keys WHERE identity = NEW.master AND state <> 'forgotten'"

_TRIGGERS = (
    *(
        f"""
        CREATE TRIGGER recovery_keys_{when.lower()}_names_a_master_key BEFORE {when} ON recovery_keys
        WHEN NOT EXISTS ({_LIVE})
        BEGIN SELECT RAISE(ABORT, 'it is wrapped by a master key that is not known, or forgotten'); END
        """
        for when in ("INSERT", "UPDATE")
    ),
    """
    CREATE TRIGGER master_keys_seal_no_recovery_key BEFORE UPDATE ON master_keys
    WHEN NEW.state = 'forgotten' AND EXISTS (SELECT 1 FROM recovery_keys WHERE master = OLD.identity)
    BEGIN SELECT RAISE(ABORT, 'a master key that wraps something is not forgotten'); END
    """,
)


def upgrade() -> None:
    op.create_table(
        "recovery_keys",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("recipients", sa.Text(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("master", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_recovery_keys"),
    )
    op.create_table(
        "recoveries",
        sa.Column("volume", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key", sa.BigInteger(), nullable=False),
        sa.Column("ciphertext", sa.Text(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["key"], ["recovery_keys.number"], name="fk_recoveries_key"),
        sa.ForeignKeyConstraint(
            ["volume", "version"], ["keys.volume", "keys.version"], name="fk_recoveries_volume"
        ),
        sa.PrimaryKeyConstraint("volume", "version", name="pk_recoveries"),
    )
    op.create_table(
        "recovery_checks",
        sa.Column("volume", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["volume"], ["volumes.id"], name="fk_recovery_checks_volume"),
        sa.PrimaryKeyConstraint("volume", name="pk_recovery_checks"),
    )
    for trigger in _TRIGGERS:
        op.execute(trigger)
