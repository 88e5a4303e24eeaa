"""A chain of audit records for each writer, the one that there is being that of ``main``."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_KEPT = (
    "sequence, at, actor, fingerprint, address, verb, outcome, addon, volume, host, detail, previous, hash"
)

_TRIGGERS = (
    """
    CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'audit records are not changed'); END
    """,
    """
    CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'audit records are not deleted'); END
    """,
    # also the door that INSERT OR REPLACE would use, which deletes without firing the trigger above
    """
    CREATE TRIGGER audit_is_appended_to BEFORE INSERT ON audit
    WHEN NEW.sequence IS NOT 1 + (SELECT coalesce(max(sequence), 0) FROM audit WHERE writer = NEW.writer)
      OR NEW.previous IS NOT
         (SELECT hash FROM audit WHERE writer = NEW.writer AND sequence = NEW.sequence - 1)
         AND NEW.sequence > 1
    BEGIN SELECT RAISE(ABORT, 'an audit record follows the last one'); END
    """,
    """
    CREATE TRIGGER writers_are_not_renamed BEFORE UPDATE ON writers
    WHEN NEW.name IS NOT OLD.name
    BEGIN SELECT RAISE(ABORT, 'writers of audit records keep their names'); END
    """,
    """
    CREATE TRIGGER writers_are_not_deleted BEFORE DELETE ON writers
    BEGIN SELECT RAISE(ABORT, 'writers of audit records are not deleted'); END
    """,
    # the door that INSERT OR REPLACE would use
    """
    CREATE TRIGGER writers_are_named_once BEFORE INSERT ON writers
    WHEN EXISTS (SELECT 1 FROM writers WHERE name = NEW.name)
    BEGIN SELECT RAISE(ABORT, 'writers of audit records keep their names'); END
    """,
)


def upgrade() -> None:
    op.create_table(
        "writers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("since", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_writers"),
    )
    op.execute("INSERT INTO writers (name, since) SELECT 'main', at FROM audit ORDER BY sequence LIMIT 1")
    op.create_table(
        "audit_0021",
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("addon", sa.Text(), nullable=True),
        sa.Column("volume", sa.Text(), nullable=True),
        sa.Column("host", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("previous", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["writer"], ["writers.name"], name="fk_audit_writer"),
        sa.PrimaryKeyConstraint("writer", "sequence", name="pk_audit"),
        sqlite_with_rowid=False,
    )
    op.execute(
        f"INSERT INTO audit_0021 (writer, {_KEPT}) SELECT 'main', {_KEPT} FROM audit ORDER BY sequence"  # noqa: S608
    )
    # with it go its triggers
    op.drop_table("audit")
    op.rename_table("audit_0021", "audit")
    for trigger in _TRIGGERS:
        op.execute(trigger)
    op.add_column("restores", sa.Column("heads", sa.Text(), nullable=True))
