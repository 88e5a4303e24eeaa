"""Volumes and add-ons whose destruction is pending, and the statements of add-ons that were destroyed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_TRIGGERS = (
    """
    CREATE TRIGGER addon_statements_are_not_changed BEFORE UPDATE ON addon_statements
    BEGIN SELECT RAISE(ABORT, 'statements are not changed'); END
    """,
    """
    CREATE TRIGGER addon_statements_are_not_deleted BEFORE DELETE ON addon_statements
    BEGIN SELECT RAISE(ABORT, 'statements are not deleted'); END
    """,
    """
    CREATE TRIGGER addons_stay_destroyed BEFORE UPDATE ON addons
    WHEN OLD.destroyed IS NOT NULL AND NEW.destroyed IS NOT OLD.destroyed
    BEGIN SELECT RAISE(ABORT, 'a destroyed add-on does not come back'); END
    """,
    """
    CREATE TRIGGER addons_are_emptied_first BEFORE UPDATE ON addons
    WHEN OLD.destroyed IS NULL AND NEW.destroyed IS NOT NULL AND EXISTS (
        SELECT 1 FROM volumes LEFT JOIN keys ON keys.volume = volumes.id
        WHERE volumes.addon = NEW.name AND (volumes.stage <> 'erased' OR keys.wrapped IS NOT NULL)
    )
    BEGIN SELECT RAISE(ABORT, 'an add-on with volumes or keys is not destroyed'); END
    """,
    "DROP TRIGGER addon_keys_keep_the_newest",
    """
    CREATE TRIGGER addon_keys_keep_the_newest BEFORE DELETE ON addon_keys
    WHEN OLD.generation = (SELECT max(generation) FROM addon_keys WHERE addon = OLD.addon)
    AND (SELECT destroyed FROM addons WHERE name = OLD.addon) IS NULL
    BEGIN SELECT RAISE(ABORT, 'the newest key of an add-on is not deleted'); END
    """,
    """
    CREATE TRIGGER addons_stay_empty BEFORE INSERT ON addon_keys
    WHEN EXISTS (SELECT 1 FROM addons WHERE name = NEW.addon AND destroyed IS NOT NULL)
    BEGIN SELECT RAISE(ABORT, 'a destroyed add-on gets no key'); END
    """,
)


def upgrade() -> None:
    op.add_column("volumes", sa.Column("deletion", sa.Text(), nullable=True))
    op.add_column("addons", sa.Column("deletion", sa.Text(), nullable=True))
    op.add_column("addons", sa.Column("destroyed", sa.Text(), nullable=True))
    op.create_table(
        "addon_statements",
        sa.Column("addon", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("public", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["addon"], ["addons.name"], name="fk_addon_statements_addon"),
        sa.ForeignKeyConstraint(["public"], ["signers.public"], name="fk_addon_statements_public"),
        sa.PrimaryKeyConstraint("addon", name="pk_addon_statements"),
    )
    for trigger in _TRIGGERS:
        op.execute(trigger)
