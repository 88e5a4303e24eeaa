"""The tables. ``migrations`` makes them; a test holds that both say the same.

Times are text in UTC (``rows.to_text``). What can only be wrong through a bug is refused by a constraint, so
that a bug ends in an error and not in a lost key.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

INSTALLATION: Final = Table(
    "installation",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("trust_domain", Text, nullable=False),
    Column("ca_fingerprint", Text, nullable=False),
    Column("master", Text, nullable=False),
    Column("key_check", LargeBinary, nullable=False),
    Column("created", Text, nullable=False),
    CheckConstraint("id = 1", name="one"),
)

ADDONS: Final = Table(
    "addons",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("engine", Text, nullable=False),
    Column("created", Text, nullable=False),
)

ADDON_KEYS: Final = Table(
    "addon_keys",
    METADATA,
    Column("addon", Text, ForeignKey("addons.name"), primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("id", LargeBinary, nullable=False, unique=True),
    Column("wrapped", LargeBinary, nullable=False),
    Column("master", Text, nullable=False),
    Column("created", Text, nullable=False),
)

VOLUMES: Final = Table(
    "volumes",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("addon", Text, ForeignKey("addons.name"), nullable=False),
    Column("name", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("filesystem", Text, nullable=False),
    Column("mount", Text),
    Column("serial", Text, nullable=False),
    Column("luks_uuid", Text, nullable=False, unique=True),
    Column("profile", Text, nullable=False),
    Column("wanted", BigInteger),
    Column("device_serial", Text),
    Column("device_size_bytes", BigInteger),
    Column("pin", Text),
    Column("sequence", BigInteger),
    Column("created", Text, nullable=False),
    UniqueConstraint("addon", "name"),
    UniqueConstraint("addon", "mount", name="uq_volumes_mount"),
    UniqueConstraint("addon", "serial", name="uq_volumes_serial"),
    CheckConstraint("stage IN ('new', 'claimed', 'deposited', 'ready')", name="stage"),
    CheckConstraint("(device_serial IS NULL) = (device_size_bytes IS NULL)", name="device"),
    CheckConstraint("(device_serial IS NULL) = (stage = 'new')", name="claimed"),
    CheckConstraint("(pin IS NULL) = (sequence IS NULL)", name="pinned"),
    CheckConstraint("(wanted IS NULL) = (filesystem = 'swap')", name="keyless"),
)

KEYS: Final = Table(
    "keys",
    METADATA,
    Column("volume", Text, ForeignKey("volumes.id"), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("wrapped", LargeBinary),
    Column("created", Text, nullable=False),
    Column("destroy_after", Text),
    CheckConstraint("state IN ('staged', 'current', 'retiring', 'retired', 'destroyed')", name="state"),
    CheckConstraint("(wrapped IS NULL) = (state = 'destroyed')", name="kept"),
    CheckConstraint("destroy_after IS NULL OR state = 'retired'", name="scheduled"),
    # one current, one staged, one retiring key a volume
    Index(
        "uq_keys_live",
        "volume",
        "state",
        unique=True,
        sqlite_where=text("state IN ('staged', 'current', 'retiring')"),
        postgresql_where=text("state IN ('staged', 'current', 'retiring')"),
    ),
)

HEADERS: Final = Table(
    "headers",
    METADATA,
    Column("volume", Text, ForeignKey("volumes.id"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("key_version", BigInteger, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("created", Text, nullable=False),
)

HOSTS: Final = Table(
    "hosts",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("addon", Text, ForeignKey("addons.name"), nullable=False, index=True),
    Column("invited", Text, nullable=False),
    Column("enrolled", Text),
    Column("revoked", Text),
    Column("reason", Text),
    CheckConstraint("(revoked IS NULL) = (reason IS NULL)", name="reason"),
)

OPERATORS: Final = Table(
    "operators",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("created", Text, nullable=False),
    Column("revoked", Text),
)

CERTIFICATES: Final = Table(
    "certificates",
    METADATA,
    Column("fingerprint", Text, primary_key=True),
    Column("serial", Text, nullable=False, unique=True),
    Column("host", Text, ForeignKey("hosts.id"), index=True),
    Column("operator", Text, ForeignKey("operators.name"), index=True),
    Column("spki", Text, nullable=False),
    Column("not_before", Text, nullable=False),
    Column("not_after", Text, nullable=False),
    Column("issued", Text, nullable=False),
    Column("pem", Text, nullable=False),
    CheckConstraint("(host IS NULL) <> (operator IS NULL)", name="whose"),
)

ENROLMENTS: Final = Table(
    "enrolments",
    METADATA,
    Column("token_hash", Text, primary_key=True),
    Column("host", Text, ForeignKey("hosts.id"), nullable=False, index=True),
    Column("created", Text, nullable=False),
    Column("expires", Text, nullable=False),
    Column("used", Text),
    Column("certificate", Text, ForeignKey("certificates.fingerprint")),
    CheckConstraint("(used IS NULL) = (certificate IS NULL)", name="spent"),
)

AUDIT: Final = Table(
    "audit",
    METADATA,
    # SQLite orders a table by its key only where that is exactly INTEGER
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("at", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("verb", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("addon", Text),
    Column("volume", Text),
    Column("host", Text),
    Column("detail", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
)
"""Append-only by triggers (migration 0001); no foreign keys, for it outlives what it speaks of."""
