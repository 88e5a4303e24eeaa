"""The tables for the day when something is lost; ``tables`` has the others."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, ForeignKey, ForeignKeyConstraint, LargeBinary, Table, Text

from keybroker.store.tables import METADATA

RECOVERY_KEYS: Final = Table(
    "recovery_keys",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("recipients", Text, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("master", Text, nullable=False),
    Column("created", Text, nullable=False),
)
"""The offline recovery keys, public halves; the newest counts."""

RECOVERIES: Final = Table(
    "recoveries",
    METADATA,
    Column("volume", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("key", BigInteger, ForeignKey("recovery_keys.number"), nullable=False),
    Column("ciphertext", Text, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("created", Text, nullable=False),
    ForeignKeyConstraint(["volume", "version"], ["keys.volume", "keys.version"], name="fk_recoveries_volume"),
)
"""Key versions, encrypted to an offline recovery key; each goes when its key is destroyed."""

RECOVERY_CHECKS: Final = Table(
    "recovery_checks",
    METADATA,
    Column("volume", Text, ForeignKey("volumes.id"), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("operator", Text, nullable=False),
)

REVEALS: Final = Table(
    "reveals",
    METADATA,
    Column("volume", Text, ForeignKey("volumes.id"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    Column("at", Text, nullable=False),
    Column("operator", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("rotate_after", Text, nullable=False),
    Column("rotated", Text),
)

RESTORES: Final = Table(
    "restores",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Text, nullable=False),
    Column("made", Text),
    Column("source", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("audit", BigInteger, nullable=False),
    Column("finished", Text),
    Column("finished_by", Text),
    Column("heads", Text),
)
"""``heads``: where each chain of the trail ended then (``keybroker.cursor``); of before there were several,
``audit`` says it of the one."""

AHEAD: Final = Table(
    "ahead",
    METADATA,
    Column("volume", Text, primary_key=True),
    Column("addon", Text, nullable=False),
    Column("name", Text),
    Column("host", Text),
    Column("at", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("named", BigInteger),
    Column("revision", BigInteger),
    Column("ciphertext", Text),
    Column("accepted", Text),
    Column("accepted_by", Text),
)
"""Volumes whose hosts know more of them than this database, which may not know them: no foreign keys."""
