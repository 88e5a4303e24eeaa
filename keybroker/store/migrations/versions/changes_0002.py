"""Volumes that change: roles, orders, reports, proofs, and the statements of what was destroyed."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_LIVE = "role = 'holder' AND stage <> 'erased'"

_TRIGGERS = (
    """
    CREATE TRIGGER statements_are_not_changed BEFORE UPDATE ON statements
    BEGIN SELECT RAISE(ABORT, 'statements are not changed'); END
    """,
    """
    CREATE TRIGGER statements_are_not_deleted BEFORE DELETE ON statements
    BEGIN SELECT RAISE(ABORT, 'statements are not deleted'); END
    """,
    """
    CREATE TRIGGER volumes_stay_erased BEFORE UPDATE ON volumes
    WHEN OLD.stage = 'erased' AND NEW.stage <> 'erased'
    BEGIN SELECT RAISE(ABORT, 'an erased volume does not come back'); END
    """,
)

_KEPT = (
    "id, addon, name, stage, revision, size_bytes, filesystem, mount, serial, luks_uuid, profile, wanted,"
    " device_serial, device_size_bytes, pin, sequence, created"
)


def upgrade() -> None:
    # SQLite changes no constraint of a table that is there: it is made anew beside the old one, which then
    # goes (https://sqlite.org/lang_altertable.html, section 7). env.py has foreign keys off meanwhile, and
    # checks them before the commit.
    _make_volumes("volumes_0002")
    op.execute(
        f"INSERT INTO volumes_0002 ({_KEPT}, role, last_order, born_encrypted, block_older)"  # noqa: S608
        f" SELECT {_KEPT}, 'holder', 0, 1, 0 FROM volumes"
    )
    op.drop_table("volumes")
    op.rename_table("volumes_0002", "volumes")
    for name, columns, condition in (
        ("uq_volumes_addon", ["addon", "name"], _LIVE),
        ("uq_volumes_mount", ["addon", "mount"], _LIVE),
        ("uq_volumes_serial", ["addon", "serial"], "stage <> 'erased'"),
    ):
        op.create_index(name, "volumes", columns, unique=True, **_where(condition))
    _make_new_tables()
    for trigger in _TRIGGERS:
        op.execute(trigger)


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def _make_volumes(name: str) -> None:
    op.create_table(
        name,
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("addon", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("filesystem", sa.Text(), nullable=False),
        sa.Column("mount", sa.Text(), nullable=True),
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("luks_uuid", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("wanted", sa.BigInteger(), nullable=True),
        sa.Column("device_serial", sa.Text(), nullable=True),
        sa.Column("device_size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("pin", sa.Text(), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("partner", sa.Text(), nullable=True),
        sa.Column("order", sa.Text(), nullable=True),
        sa.Column("last_order", sa.BigInteger(), nullable=False),
        sa.Column("born_encrypted", sa.Integer(), nullable=False),
        sa.Column("block_older", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "stage IN ('new', 'claimed', 'deposited', 'ready', 'foreign', 'plain', 'erased')",
            name=op.f("ck_volumes_stage"),
        ),
        sa.CheckConstraint("role IN ('holder', 'successor', 'former')", name=op.f("ck_volumes_role")),
        sa.CheckConstraint(
            "(device_serial IS NULL) = (device_size_bytes IS NULL)", name=op.f("ck_volumes_device")
        ),
        sa.CheckConstraint(
            "device_serial IS NOT NULL OR stage IN ('new', 'foreign', 'plain', 'erased')",
            name=op.f("ck_volumes_claimed"),
        ),
        sa.CheckConstraint("device_serial IS NULL OR stage <> 'new'", name=op.f("ck_volumes_unclaimed")),
        sa.CheckConstraint("(pin IS NULL) = (sequence IS NULL)", name=op.f("ck_volumes_pinned")),
        sa.CheckConstraint("wanted IS NULL OR filesystem <> 'swap'", name=op.f("ck_volumes_keyless")),
        sa.CheckConstraint("last_order >= 0", name=op.f("ck_volumes_last_order")),
        sa.CheckConstraint("role <> 'successor' OR partner IS NOT NULL", name=op.f("ck_volumes_successor")),
        sa.CheckConstraint(
            "born_encrypted IN (0, 1) AND block_older IN (0, 1)", name=op.f("ck_volumes_flags")
        ),
        sa.ForeignKeyConstraint(["addon"], ["addons.name"], name="fk_volumes_addon"),
        sa.PrimaryKeyConstraint("id", name="pk_volumes"),
        sa.UniqueConstraint("luks_uuid", name="uq_volumes_luks_uuid"),
    )


def _make_new_tables() -> None:
    op.create_table(
        "reports",
        sa.Column("volume", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["volume"], ["volumes.id"], name="fk_reports_volume"),
        sa.ForeignKeyConstraint(["host"], ["hosts.id"], name="fk_reports_host"),
        sa.PrimaryKeyConstraint("volume", name="pk_reports"),
    )
    op.create_table(
        "proofs",
        sa.Column("volume", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["volume"], ["volumes.id"], name="fk_proofs_volume"),
        sa.PrimaryKeyConstraint("volume", name="pk_proofs"),
    )
    op.create_table(
        "signers",
        sa.Column("public", sa.LargeBinary(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("master", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("public", name="pk_signers"),
    )
    op.create_table(
        "statements",
        sa.Column("volume", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("public", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["volume"], ["volumes.id"], name="fk_statements_volume"),
        sa.ForeignKeyConstraint(["public"], ["signers.public"], name="fk_statements_public"),
        sa.PrimaryKeyConstraint("volume", "number", name="pk_statements"),
    )
