"""What the database itself refuses, on PostgreSQL: the triggers that SQLite has from the migrations.

A guard refuses what only a bug or a stranger would do, so its error is one of integrity (class 23). They hold
for the owner of the tables too, but not for whoever drops them first: that shows in checkpoints and receipts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Guard:
    """One trigger and its function.

    Attributes:
        when: INSERT, UPDATE, DELETE or TRUNCATE.
        refuses: the condition, in SQL; TRUE for always.
    """

    name: str
    table: str
    when: str
    says: str
    refuses: str = "TRUE"

    def statements(self) -> tuple[str, str]:
        """Return the SQL that makes it."""
        returned = {"DELETE": "OLD", "TRUNCATE": "NULL"}.get(self.when, "NEW")
        level = "STATEMENT" if self.when == "TRUNCATE" else "ROW"
        return (
            f"CREATE FUNCTION {self.name}() RETURNS trigger LANGUAGE plpgsql AS $guard$\n"
            f"BEGIN\n  IF {self.refuses} THEN\n"
            f"    RAISE EXCEPTION USING ERRCODE = '23000', MESSAGE = '{self.says}';\n"
            f"  END IF;\n  RETURN {returned};\nEND\n$guard$",
            f"CREATE TRIGGER {self.name} BEFORE {self.when} ON {self.table}"
            f" FOR EACH {level} EXECUTE FUNCTION {self.name}()",
        )


def _never_deleted(table: str, says: str) -> Iterator[Guard]:
    yield Guard(f"{table}_are_not_deleted", table, "DELETE", says)
    yield Guard(f"{table}_are_not_truncated", table, "TRUNCATE", says)


def _append_only(table: str, what: str) -> Iterator[Guard]:
    yield Guard(f"{table}_are_not_changed", table, "UPDATE", f"{what} are not changed")
    yield from _never_deleted(table, f"{what} are not deleted")


_LIVE: Final = "NOT EXISTS (SELECT 1 FROM master_keys WHERE identity = NEW.master AND state <> 'forgotten')"
_UNKNOWN: Final = "it is wrapped by a master key that is not known, or forgotten"

GUARDS: Final[tuple[Guard, ...]] = (
    *_append_only("audit", "audit records"),
    Guard(
        "audit_is_appended_to",
        "audit",
        "INSERT",
        "an audit record follows the last one",
        "NEW.sequence <> 1 + (SELECT coalesce(max(sequence), 0) FROM audit WHERE writer = NEW.writer)"
        " OR NEW.sequence > 1 AND NEW.previous IS DISTINCT FROM"
        " (SELECT hash FROM audit WHERE writer = NEW.writer AND sequence = NEW.sequence - 1)",
    ),
    Guard(
        "writers_are_not_renamed",
        "writers",
        "UPDATE",
        "writers of audit records keep their names",
        "NEW.name <> OLD.name",
    ),
    *_never_deleted("writers", "writers of audit records are not deleted"),
    *_append_only("checkpoints", "checkpoints"),
    Guard(
        "checkpoints_are_appended_to",
        "checkpoints",
        "INSERT",
        "a checkpoint follows the last one",
        "NEW.number <> 1 + (SELECT coalesce(max(number), 0) FROM checkpoints)",
    ),
    *_append_only("statements", "statements"),
    *_append_only("addon_statements", "statements"),
    *_never_deleted("keys", "keys are retired, then destroyed, never deleted"),
    Guard(
        "keys_are_retired_first",
        "keys",
        "UPDATE",
        "only a retired key is destroyed",
        "OLD.state NOT IN ('retired', 'destroyed') AND NEW.state = 'destroyed'",
    ),
    Guard(
        "keys_stay_destroyed",
        "keys",
        "UPDATE",
        "a destroyed key does not come back",
        "OLD.state = 'destroyed' AND NEW.state <> 'destroyed'",
    ),
    Guard(
        "volumes_stay_erased",
        "volumes",
        "UPDATE",
        "an erased volume does not come back",
        "OLD.stage = 'erased' AND NEW.stage <> 'erased'",
    ),
    *(
        Guard(f"{table}_{when.lower()}_names_a_master_key", table, when, _UNKNOWN, _LIVE)
        for table in ("addon_keys", "signers", "recovery_keys")
        for when in ("INSERT", "UPDATE")
    ),
    *_never_deleted("master_keys", "master keys are forgotten, never deleted"),
    Guard(
        "master_keys_stay_forgotten",
        "master_keys",
        "UPDATE",
        "a forgotten master key does not come back",
        "OLD.state = 'forgotten' AND NEW.state <> 'forgotten'",
    ),
    Guard(
        "master_keys_are_empty_first",
        "master_keys",
        "UPDATE",
        "a master key that wraps something is not forgotten",
        "NEW.state = 'forgotten' AND (OLD.state = 'wraps'"
        " OR EXISTS (SELECT 1 FROM addon_keys WHERE master = OLD.identity)"
        " OR EXISTS (SELECT 1 FROM signers WHERE master = OLD.identity)"
        " OR EXISTS (SELECT 1 FROM recovery_keys WHERE master = OLD.identity))",
    ),
    Guard(
        "addons_stay_destroyed",
        "addons",
        "UPDATE",
        "a destroyed add-on does not come back",
        "OLD.destroyed IS NOT NULL AND NEW.destroyed IS DISTINCT FROM OLD.destroyed",
    ),
    Guard(
        "addons_are_emptied_first",
        "addons",
        "UPDATE",
        "an add-on with volumes or keys is not destroyed",
        "OLD.destroyed IS NULL AND NEW.destroyed IS NOT NULL AND EXISTS ("
        "SELECT 1 FROM volumes LEFT JOIN keys ON keys.volume = volumes.id"
        " WHERE volumes.addon = NEW.name AND (volumes.stage <> 'erased' OR keys.wrapped IS NOT NULL))",
    ),
    Guard(
        "addon_keys_keep_the_newest",
        "addon_keys",
        "DELETE",
        "the newest key of an add-on is not deleted",
        "OLD.generation = (SELECT max(generation) FROM addon_keys WHERE addon = OLD.addon)"
        " AND (SELECT destroyed FROM addons WHERE name = OLD.addon) IS NULL",
    ),
    Guard(
        "addons_stay_empty",
        "addon_keys",
        "INSERT",
        "a destroyed add-on gets no key",
        "EXISTS (SELECT 1 FROM addons WHERE name = NEW.addon AND destroyed IS NOT NULL)",
    ),
)
