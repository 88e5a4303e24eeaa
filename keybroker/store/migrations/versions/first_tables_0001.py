"""The first tables, with the triggers that keep the audit trail append-only and keys from being lost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

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
    WHEN NEW.sequence IS NOT 1 + (SELECT coalesce(max(sequence), 0) FROM audit)
      OR NEW.previous IS NOT (SELECT hash FROM audit WHERE sequence = NEW.sequence - 1) AND NEW.sequence > 1
    BEGIN SELECT RAISE(ABORT, 'an audit record follows the last one'); END
    """,
    """
    CREATE TRIGGER keys_are_not_deleted BEFORE DELETE ON keys
    BEGIN SELECT RAISE(ABORT, 'keys are retired, then destroyed, never deleted'); END
    """,
    """
    CREATE TRIGGER keys_are_retired_first BEFORE UPDATE ON keys
    WHEN OLD.state <> 'retired' AND NEW.state = 'destroyed' AND OLD.state <> 'destroyed'
    BEGIN SELECT RAISE(ABORT, 'only a retired key is destroyed'); END
    """,
    """
    CREATE TRIGGER keys_stay_destroyed BEFORE UPDATE ON keys
    WHEN OLD.state = 'destroyed' AND NEW.state <> 'destroyed'
    BEGIN SELECT RAISE(ABORT, 'a destroyed key does not come back'); END
    """,
)


def upgrade() -> None:
    op.create_table(
        "addons",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_addons"),
    )
    op.create_table(
        "audit",
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
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
        sa.PrimaryKeyConstraint("sequence", name="pk_audit"),
    )
    op.create_table(
        "installation",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("trust_domain", sa.Text(), nullable=False),
        sa.Column("ca_fingerprint", sa.Text(), nullable=False),
        sa.Column("master", sa.Text(), nullable=False),
        sa.Column("key_check", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_installation_one")),
        sa.PrimaryKeyConstraint("id", name="pk_installation"),
    )
    op.create_table(
        "operators",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("revoked", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_operators"),
    )
    op.create_table(
        "addon_keys",
        sa.Column("addon", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("master", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["addon"], ["addons.name"], name="fk_addon_keys_addon"),
        sa.PrimaryKeyConstraint("addon", "generation", name="pk_addon_keys"),
        sa.UniqueConstraint("id", name="uq_addon_keys_id"),
    )
    op.create_table(
        "hosts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("addon", sa.Text(), nullable=False),
        sa.Column("invited", sa.Text(), nullable=False),
        sa.Column("enrolled", sa.Text(), nullable=True),
        sa.Column("revoked", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint("(revoked IS NULL) = (reason IS NULL)", name=op.f("ck_hosts_reason")),
        sa.ForeignKeyConstraint(["addon"], ["addons.name"], name="fk_hosts_addon"),
        sa.PrimaryKeyConstraint("id", name="pk_hosts"),
    )
    op.create_index("ix_hosts_addon", "hosts", ["addon"], unique=False)
    op.create_table(
        "volumes",
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
        sa.CheckConstraint("(device_serial IS NULL) = (stage = 'new')", name=op.f("ck_volumes_claimed")),
        sa.CheckConstraint("(wanted IS NULL) = (filesystem = 'swap')", name=op.f("ck_volumes_keyless")),
        sa.CheckConstraint(
            "stage IN ('new', 'claimed', 'deposited', 'ready')", name=op.f("ck_volumes_stage")
        ),
        sa.CheckConstraint(
            "(device_serial IS NULL) = (device_size_bytes IS NULL)", name=op.f("ck_volumes_device")
        ),
        sa.CheckConstraint("(pin IS NULL) = (sequence IS NULL)", name=op.f("ck_volumes_pinned")),
        sa.ForeignKeyConstraint(["addon"], ["addons.name"], name="fk_volumes_addon"),
        sa.PrimaryKeyConstraint("id", name="pk_volumes"),
        sa.UniqueConstraint("addon", "mount", name="uq_volumes_mount"),
        sa.UniqueConstraint("addon", "name", name="uq_volumes_addon"),
        sa.UniqueConstraint("addon", "serial", name="uq_volumes_serial"),
        sa.UniqueConstraint("luks_uuid", name="uq_volumes_luks_uuid"),
    )
    op.create_table(
        "certificates",
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=True),
        sa.Column("operator", sa.Text(), nullable=True),
        sa.Column("spki", sa.Text(), nullable=False),
        sa.Column("not_before", sa.Text(), nullable=False),
        sa.Column("not_after", sa.Text(), nullable=False),
        sa.Column("issued", sa.Text(), nullable=False),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.CheckConstraint("(host IS NULL) <> (operator IS NULL)", name=op.f("ck_certificates_whose")),
        sa.ForeignKeyConstraint(["host"], ["hosts.id"], name="fk_certificates_host"),
        sa.ForeignKeyConstraint(["operator"], ["operators.name"], name="fk_certificates_operator"),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_certificates"),
        sa.UniqueConstraint("serial", name="uq_certificates_serial"),
    )
    op.create_index("ix_certificates_host", "certificates", ["host"], unique=False)
    op.create_index("ix_certificates_operator", "certificates", ["operator"], unique=False)
    op.create_table(
        "headers",
        sa.Column("volume", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("key_version", sa.BigInteger(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["volume"], ["volumes.id"], name="fk_headers_volume"),
        sa.PrimaryKeyConstraint("volume", "number", name="pk_headers"),
    )
    op.create_table(
        "keys",
        sa.Column("volume", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=True),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("destroy_after", sa.Text(), nullable=True),
        sa.CheckConstraint("(wrapped IS NULL) = (state = 'destroyed')", name=op.f("ck_keys_kept")),
        sa.CheckConstraint("destroy_after IS NULL OR state = 'retired'", name=op.f("ck_keys_scheduled")),
        sa.CheckConstraint(
            "state IN ('staged', 'current', 'retiring', 'retired', 'destroyed')", name=op.f("ck_keys_state")
        ),
        sa.ForeignKeyConstraint(["volume"], ["volumes.id"], name="fk_keys_volume"),
        sa.PrimaryKeyConstraint("volume", "version", name="pk_keys"),
    )
    op.create_index(
        "uq_keys_live",
        "keys",
        ["volume", "state"],
        unique=True,
        sqlite_where=sa.text("state IN ('staged', 'current', 'retiring')"),
        postgresql_where=sa.text("state IN ('staged', 'current', 'retiring')"),
    )
    op.create_table(
        "enrolments",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("expires", sa.Text(), nullable=False),
        sa.Column("used", sa.Text(), nullable=True),
        sa.Column("certificate", sa.Text(), nullable=True),
        sa.CheckConstraint("(used IS NULL) = (certificate IS NULL)", name=op.f("ck_enrolments_spent")),
        sa.ForeignKeyConstraint(
            ["certificate"], ["certificates.fingerprint"], name="fk_enrolments_certificate"
        ),
        sa.ForeignKeyConstraint(["host"], ["hosts.id"], name="fk_enrolments_host"),
        sa.PrimaryKeyConstraint("token_hash", name="pk_enrolments"),
    )
    op.create_index("ix_enrolments_host", "enrolments", ["host"], unique=False)
    for trigger in _TRIGGERS:
        op.execute(trigger)
