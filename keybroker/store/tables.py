"""The tables. ``migrations`` makes them; a test holds that both say the same.

Times are text in UTC (``rows.to_text``). What can only be wrong through a bug is refused by a constraint, so
that a bug ends in an error and not in a lost key.
"""

from __future__ import annotations

from typing import Any, Final

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
    text,
)


def where(condition: str) -> dict[str, Any]:
    """Return the arguments of an index over some rows only, for each engine there is."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


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
    Column("created", Text, nullable=False),
    CheckConstraint("id = 1", name="one"),
)

MASTER_KEYS: Final = Table(
    "master_keys",
    METADATA,
    Column("identity", Text, primary_key=True),
    Column("uri", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("key_check", LargeBinary, nullable=False),
    Column("created", Text, nullable=False),
    Column("emptied", Text),
    Column("renews", Integer, nullable=False, server_default="0"),
    CheckConstraint("state IN ('wraps', 'unwraps', 'forgotten')", name="state"),
    CheckConstraint("emptied IS NULL OR state <> 'wraps'", name="emptied"),
    Index("uq_master_keys_wraps", "state", unique=True, **where("state = 'wraps'")),
)
"""By triggers (migration 0004) whatever a master key wraps names one that is here and not forgotten."""

ADDONS: Final = Table(
    "addons",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("engine", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("deletion", Text),
    Column("destroyed", Text),
)

POLICIES: Final = Table(
    "policies",
    METADATA,
    Column("addon", Text, ForeignKey("addons.name"), primary_key=True),
    Column("policy", Text, nullable=False),
    Column("changed", Text, nullable=False),
)
"""At release (``keybroker.terms``); an add-on without a row has the one that nobody has changed."""

ADDON_KEYS: Final = Table(
    "addon_keys",
    METADATA,
    Column("addon", Text, ForeignKey("addons.name"), primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("id", LargeBinary, nullable=False, unique=True),
    Column("wrapped", LargeBinary, nullable=False),
    Column("master", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("made_under", Text),
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
    Column("role", Text, nullable=False),
    Column("partner", Text),
    Column("order", Text),
    Column("last_order", BigInteger, nullable=False),
    Column("born_encrypted", Integer, nullable=False),
    Column("block_older", Integer, nullable=False),
    Column("complete_from", BigInteger),
    Column("deletion", Text),
    CheckConstraint(
        "stage IN ('new', 'claimed', 'deposited', 'ready', 'foreign', 'plain', 'erased')", name="stage"
    ),
    CheckConstraint("role IN ('holder', 'successor', 'former')", name="role"),
    CheckConstraint("(device_serial IS NULL) = (device_size_bytes IS NULL)", name="device"),
    CheckConstraint(
        "device_serial IS NOT NULL OR stage IN ('new', 'foreign', 'plain', 'erased')", name="claimed"
    ),
    CheckConstraint("device_serial IS NULL OR stage <> 'new'", name="unclaimed"),
    CheckConstraint("(pin IS NULL) = (sequence IS NULL)", name="pinned"),
    CheckConstraint("wanted IS NULL OR filesystem <> 'swap'", name="keyless"),
    CheckConstraint("last_order >= 0", name="last_order"),
    CheckConstraint("role <> 'successor' OR partner IS NOT NULL", name="successor"),
    CheckConstraint("born_encrypted IN (0, 1) AND block_older IN (0, 1)", name="flags"),
    Index("ix_volumes_addon", "addon"),
    # covers what metrics count
    Index("ix_volumes_standing", "stage", "role", "filesystem", "id"),
    Index("ix_volumes_deletion", "deletion", **where("deletion IS NOT NULL")),
    # two volumes that stand for the same data have its name and mount point; one of them is its holder
    Index("uq_volumes_addon", "addon", "name", unique=True, **where("role = 'holder' AND stage <> 'erased'")),
    Index(
        "uq_volumes_mount", "addon", "mount", unique=True, **where("role = 'holder' AND stage <> 'erased'")
    ),
    Index("uq_volumes_serial", "addon", "serial", unique=True, **where("stage <> 'erased'")),
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
        "uq_keys_live", "volume", "state", unique=True, **where("state IN ('staged', 'current', 'retiring')")
    ),
    Index("ix_keys_age", "created", "state", **where("state = 'current'")),
    Index("ix_keys_destroy_after", "destroy_after", **where("destroy_after IS NOT NULL")),
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

REPORTS: Final = Table(
    "reports",
    METADATA,
    Column("volume", Text, ForeignKey("volumes.id"), primary_key=True),
    Column("host", Text, ForeignKey("hosts.id"), nullable=False),
    Column("at", Text, nullable=False),
    Column("report", Text, nullable=False),
)
"""The last one of each volume; nothing is decided on it."""

PROOFS: Final = Table(
    "proofs",
    METADATA,
    Column("volume", Text, ForeignKey("volumes.id"), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("at", Text, nullable=False),
)
"""When a key was last seen to open each volume."""

SIGNERS: Final = Table(
    "signers",
    METADATA,
    Column("public", LargeBinary, primary_key=True),
    Column("wrapped", LargeBinary, nullable=False),
    Column("master", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("made_under", Text),
)
"""What signs statements and checkpoints; each key stays, for what it signed."""

STATEMENTS: Final = Table(
    "statements",
    METADATA,
    Column("volume", Text, ForeignKey("volumes.id"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("public", LargeBinary, ForeignKey("signers.public"), nullable=False),
)
"""Of destruction; append-only by triggers (migration 0002)."""

ADDON_STATEMENTS: Final = Table(
    "addon_statements",
    METADATA,
    Column("addon", Text, ForeignKey("addons.name"), primary_key=True),
    Column("at", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("public", LargeBinary, ForeignKey("signers.public"), nullable=False),
)
"""Of an add-on that was destroyed; append-only by triggers (migration 0013)."""

HOSTS: Final = Table(
    "hosts",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("addon", Text, ForeignKey("addons.name"), nullable=False, index=True),
    Column("invited", Text, nullable=False),
    Column("enrolled", Text),
    Column("revoked", Text),
    Column("reason", Text),
    Column("lock", Integer, nullable=False, server_default="0"),
    CheckConstraint("(revoked IS NULL) = (reason IS NULL)", name="reason"),
)

BOOTS: Final = Table(
    "boots",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("host", Text, ForeignKey("hosts.id"), nullable=False, index=True),
    Column("boot_id", Text, nullable=False),
    Column("machine_id", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("why", Text),
    Column("first", Text, nullable=False),
    Column("last", Text, nullable=False),
    Column("vouched", Integer, nullable=False, server_default="0"),
    CheckConstraint(
        "state IN ('up', 'admitted', 'approved', 'waiting', 'refused', 'contested', 'denied', 'replaced')",
        name="state",
    ),
)
"""What ``model.boots`` decides on; ``first`` and ``last`` say when each was heard of."""

EXPECTED: Final = Table(
    "expected",
    METADATA,
    Column("addon", Text, ForeignKey("addons.name"), primary_key=True),
    Column("until", Text, nullable=False),
    Column("said", Text, nullable=False),
)
"""Until when an add-on's boots need nobody's yes, and who said so."""

OPERATORS: Final = Table(
    "operators",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("created", Text, nullable=False),
    Column("roles", Text, nullable=False),
    Column("added_by", Text),
    Column("since", Text, nullable=False),
    Column("revoked", Text),
    Column("reason", Text),
    CheckConstraint("(revoked IS NULL) = (reason IS NULL)", name="reason"),
)
"""``roles``: sorted, with spaces between. ``since``: certificates that were issued before are replaced."""

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
    Index("ix_certificates_newest", "host", "not_after"),
)

SHOWN_CERTIFICATES: Final = Table(
    "shown_certificates",
    METADATA,
    Column("fingerprint", Text, ForeignKey("certificates.fingerprint"), primary_key=True),
    Column("at", Text, nullable=False),
)
"""Certificates that somebody has come with; kept only while two CAs are trusted."""

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
