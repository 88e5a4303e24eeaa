"""What every store must do for volumes that change; and the migration of a filled database to it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command

from keybroker.model import Deletion, Keyring, Volume
from keybroker.store import Store, Writing, schema
from keybroker.store.rows import (
    AddonStatementRow,
    HeaderRow,
    ProofRow,
    ReportRow,
    SignerRow,
    StatementRow,
    VolumeRow,
)
from keybroker.store.sqlite import SqliteStore
from keybroker.wire.names import AddonName, VolumeId
from keybroker.wire.orders import Order
from keybroker.wire.problems import Problem
from keybroker.wire.records import Device, Refusal
from keybroker.wire.reports import Activity, Progress, VolumeReport
from tests.contract.test_broker_store import (
    ADDON,
    ENROLMENT,
    HOST,
    LATER,
    NOW,
    ROW,
    SHOP,
    VOLUME,
    change,
    database,
    filled,
    problem,
    store,
    v,
    volume,
)

__all__ = ["database", "filled", "store"]

OTHER = replace(
    VOLUME,
    id=VolumeId("kbv-bbbbbbbbbbbb"),
    serial="another",
    luks_uuid="another",
    role="successor",
    partner=VOLUME.id,
)


def add(store: Store, made: Volume) -> None:
    wrapped = {} if made.keyring is None else {v(1): b"wrapped"}
    store.write(lambda writing: writing.add_volume(VolumeRow(made, NOW, wrapped)))


@pytest.mark.parametrize(
    "changed",
    [
        replace(VOLUME, order=Order(3, "reencrypt", "begun", "sha256:" + "ab" * 32, 1 << 20), last_order=3),
        replace(VOLUME, order=Order(1, "migrate", offline=True), last_order=1, partner=OTHER.id),
        replace(VOLUME, role="former", last_order=7, block_older=True),
        replace(VOLUME, stage="erased", keyring=Keyring.first().end(LATER)),
    ],
    ids=["order", "partner", "former", "erased"],
)
def test_a_volume_that_changes_comes_back_whole(filled: Store, changed: Volume) -> None:
    changed = replace(changed, revision=2)
    change(filled, changed)
    assert volume(filled).volume == changed


@pytest.mark.parametrize("stage", ["plain", "foreign"])
def test_a_disk_that_others_wrote_has_no_device_until_it_is_ours(filled: Store, stage: str) -> None:
    keyring = None if stage == "plain" else Keyring.first()
    made = replace(
        VOLUME, id=OTHER.id, stage=stage, name="b", mount="/b", serial="b", luks_uuid="b",  # type: ignore[arg-type]
        keyring=keyring, born_encrypted=False,
    )  # fmt: skip
    add(filled, made)
    row = filled.read(lambda reading: reading.volume(made.id))
    assert row is not None
    assert row.volume == made


def test_a_successor_has_the_name_of_its_holder_and_no_other_holder_has(filled: Store) -> None:
    add(filled, OTHER)
    third = replace(
        OTHER, id=VolumeId("kbv-cccccccccccc"), serial="c", luks_uuid="c", role="holder", partner=None
    )
    assert problem(lambda: add(filled, third)) is Problem.CONFLICT
    same_disk = replace(OTHER, id=VolumeId("kbv-cccccccccccc"), luks_uuid="c")
    assert problem(lambda: add(filled, same_disk)) is Problem.CONFLICT

    def switch(writing: Writing) -> None:
        former = replace(VOLUME, role="former", revision=2)
        writing.change_volume(VolumeRow(former, NOW, {}), 1, {}, LATER)
        holder = replace(OTHER, role="holder", stage="ready", device=Device("another", 1), revision=2)
        writing.change_volume(VolumeRow(holder, NOW, {}), 1, {}, LATER)

    filled.write(switch)
    roles = [row.volume.role for row in filled.read(lambda reading: reading.volumes())]
    assert sorted(roles) == ["former", "holder"]


def test_an_erased_volume_leaves_its_name_and_its_disk_to_others(filled: Store) -> None:
    change(filled, replace(VOLUME, stage="erased", keyring=Keyring.first().end(LATER), revision=2))
    add(filled, replace(VOLUME, id=OTHER.id, luks_uuid="b"))
    assert len(filled.read(lambda reading: reading.volumes(SHOP))) == 2


def test_the_last_report_and_the_last_proof_are_kept(filled: Store) -> None:
    filled.write(lambda writing: writing.add_host(HOST, ENROLMENT))
    going = Activity("Reencrypt", "ordered", "Tag", Progress(1, 4, 2, 3))
    for report in (
        VolumeReport(VOLUME.id, "open", v(1), 3),
        VolumeReport(VOLUME.id, "open", v(1), 4, going, Refusal(Problem.IN_USE, "é")),
    ):
        row = ReportRow(VOLUME.id, HOST.id, LATER, report)
        filled.write(lambda writing, row=row: writing.put_report(row))  # type: ignore[misc]
    proofs = [ProofRow(VOLUME.id, v(1), 3, NOW), ProofRow(VOLUME.id, v(2), 5, LATER)]
    for proof in proofs:
        filled.write(lambda writing, proof=proof: writing.put_proof(proof))  # type: ignore[misc]
    for addon in (None, SHOP):
        assert filled.read(lambda reading, addon=addon: reading.reports(addon)) == {  # type: ignore[misc]
            VOLUME.id: row
        }
        assert filled.read(lambda reading, addon=addon: reading.proofs(addon)) == {  # type: ignore[misc]
            VOLUME.id: proofs[1]
        }
    assert filled.read(lambda reading: reading.reports("nobody")) == {}
    assert filled.read(lambda reading: reading.proofs("nobody")) == {}


def test_header_copies_are_listed_and_dropped_by_number(filled: Store) -> None:
    rows = [HeaderRow(VOLUME.id, number, number, v(1), b"copy", NOW) for number in (1, 2, 3)]
    for row in rows:
        filled.write(lambda writing, row=row: writing.add_header(row, 9))  # type: ignore[misc]
    assert filled.read(lambda reading: reading.headers(VOLUME.id)) == rows
    filled.write(lambda writing: writing.drop_headers(VOLUME.id, below=3))
    assert filled.read(lambda reading: reading.headers(VOLUME.id)) == rows[2:]
    filled.write(lambda writing: writing.drop_headers(OTHER.id, below=9))
    assert filled.read(lambda reading: reading.newest_header(VOLUME.id)) == rows[2]


SIGNER = SignerRow(b"p" * 32, b"wrapped", "master", NOW)
STATEMENT = StatementRow(VOLUME.id, 1, NOW, "{}", b"s" * 64, SIGNER.public)


def test_statements_are_kept_with_their_signer_and_never_changed(filled: Store, database: Path) -> None:
    assert filled.read(lambda reading: reading.signer()) is None
    filled.write(lambda writing: writing.add_signer(SIGNER))
    filled.write(lambda writing: writing.add_statement(STATEMENT))
    assert filled.read(lambda reading: reading.signer()) == SIGNER
    assert filled.read(lambda reading: reading.statements(VOLUME.id)) == [STATEMENT]
    again: Callable[[], object] = lambda: filled.write(lambda writing: writing.add_statement(STATEMENT))  # noqa: E731
    assert problem(again) is Problem.CONFLICT
    with closing(sqlite3.connect(database)) as raw:
        for statement in ("UPDATE statements SET document = 'x'", "DELETE FROM statements"):
            with pytest.raises(sqlite3.IntegrityError, match="statements are not"):
                raw.execute(statement)


def test_a_destroyed_key_is_nowhere_in_the_files_after_scrubbing(filled: Store, database: Path) -> None:
    canary = b"canary of a wrapped key " * 8
    staged = replace(VOLUME, keyring=Keyring.first().want().stage(), revision=2)
    change(filled, staged, {v(2): canary})
    keys = staged.keyring
    assert keys is not None
    retired = keys.abandon(v(2), NOW)
    change(filled, replace(staged, keyring=retired, revision=3))
    change(filled, replace(staged, keyring=retired.destroy(v(2), LATER), revision=4))
    assert filled.scrub()
    for path in (database, database.with_name("keybroker.db-wal")):
        assert not path.exists() or canary not in path.read_bytes()


def test_an_erased_volume_does_not_come_back(filled: Store, database: Path) -> None:
    change(filled, replace(VOLUME, stage="erased", keyring=Keyring.first().end(LATER), revision=2))
    with closing(sqlite3.connect(database)) as raw, pytest.raises(sqlite3.IntegrityError, match="come back"):
        raw.execute("UPDATE volumes SET stage = 'new'")


def test_a_filled_database_of_the_first_revision_is_migrated_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    path.touch(mode=0o600)
    command.upgrade(schema._config(path), "0001")
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.executescript(
            """
            INSERT INTO installation VALUES (1, 'x', 'ab', 'm', x'63', '2026-01-01T12:00:00.123456Z');
            INSERT INTO addons VALUES ('shop-db', 'postgresql', '2026-01-01T12:00:00.123456Z');
            INSERT INTO addon_keys VALUES ('shop-db', 1, x'69', x'77', 'm', '2026-01-01T12:00:00.123456Z');
            INSERT INTO hosts VALUES ('kbh-aaaaaaaaaaaa', 'shop-db', '2026', NULL, NULL, NULL);
            """
        )
        profile = json.dumps(VOLUME.profile.as_json())
        raw.execute(
            "INSERT INTO volumes VALUES (?, 'shop-db', 'data', 'new', 1, ?, 'ext4', '/srv/data', ?, ?, ?,"
            " 1, NULL, NULL, NULL, NULL, '2026-01-01T12:00:00.123456Z')",
            (VOLUME.id, VOLUME.size_bytes, VOLUME.serial, VOLUME.luks_uuid, profile),
        )
        raw.execute(
            "INSERT INTO keys VALUES (?, 1, 'current', ?, '2026-01-01T12:00:00.123456Z', NULL)",
            (VOLUME.id, b"wrapped 1"),
        )
        raw.execute(
            "INSERT INTO headers VALUES (?, 1, 3, 1, x'77', '2026-01-01T12:00:00.123456Z')", (VOLUME.id,)
        )
    schema.upgrade(path)
    schema.check(path)
    migrated = SqliteStore(path)
    assert migrated.read(lambda reading: reading.volumes()) == [ROW]
    assert len(migrated.read(lambda reading: reading.headers(VOLUME.id))) == 1
    (master,) = migrated.read(lambda reading: reading.master_keys())
    assert (master.identity, master.state, master.key_check) == ("m", "wraps", b"c")
    add(migrated, OTHER)
    migrated.close()
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        raw.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            raw.execute("DELETE FROM volumes")


PENDING = Deletion("alice", NOW, LATER, "TICKET-1", told=NOW, sooner=NOW, sooner_by="bob")


def test_what_is_pending_comes_back_whole_and_goes_again(filled: Store) -> None:
    assert filled.read(lambda reading: reading.withheld(SHOP)) == frozenset()
    change(filled, replace(VOLUME, deletion=PENDING, revision=2))
    assert volume(filled).volume.deletion == PENDING
    assert filled.read(lambda reading: reading.withheld(SHOP)) == {VOLUME.id}
    assert filled.read(lambda reading: reading.withheld(AddonName("other"))) == frozenset()
    filled.write(lambda writing: writing.change_addon(replace(ADDON, deletion=PENDING)))
    assert filled.read(lambda reading: reading.addon(SHOP)) == replace(ADDON, deletion=PENDING)
    filled.write(lambda writing: writing.change_addon(ADDON))
    assert filled.read(lambda reading: reading.addons()) == [ADDON]


def end(store: Store) -> None:
    """Destroy the volume of a filled store."""
    ended = replace(VOLUME, stage="erased", keyring=Keyring.first().end(NOW), revision=2)
    change(store, ended)
    assert ended.keyring is not None
    change(store, replace(ended, keyring=ended.keyring.destroy_all(), revision=3))


def test_an_add_on_is_destroyed_once_it_is_empty_and_does_not_come_back(
    filled: Store, database: Path
) -> None:
    gone = replace(ADDON, destroyed=LATER)
    (key,) = filled.read(lambda reading: reading.addon_keys(SHOP))
    assert problem(lambda: filled.write(lambda writing: writing.change_addon(gone))) is Problem.CONFLICT
    end(filled)
    assert filled.read(lambda reading: reading.withheld(SHOP)) == {VOLUME.id}
    assert problem(lambda: filled.write(lambda writing: writing.drop_addon_key(key))) is Problem.CONFLICT

    def destroy(writing: Writing) -> None:
        writing.change_addon(gone)
        writing.drop_addon_key(key)

    filled.write(destroy)
    assert filled.read(lambda reading: (reading.addon(SHOP), reading.addon_keys(SHOP))) == (
        gone,
        [],
    )
    assert problem(lambda: filled.write(lambda writing: writing.change_addon(ADDON))) is Problem.CONFLICT
    assert problem(lambda: filled.write(lambda writing: writing.add_addon_key(key))) is Problem.CONFLICT


def test_the_statement_about_an_add_on_is_kept_and_never_changed(filled: Store, database: Path) -> None:
    assert filled.read(lambda reading: reading.addon_statement(SHOP)) is None
    (master,) = filled.read(lambda reading: reading.master_keys())
    signer = SignerRow(b"p" * 32, b"wrapped", master.identity, NOW, master.identity)
    row = AddonStatementRow(SHOP, NOW, "{}", b"signature", signer.public)

    def state(writing: Writing) -> None:
        writing.add_signer(signer)
        writing.add_addon_statement(row)

    filled.write(state)
    assert filled.read(lambda reading: reading.addon_statement(SHOP)) == row
    again = lambda: filled.write(lambda writing: writing.add_addon_statement(row))  # noqa: E731
    assert problem(again) is Problem.CONFLICT
    for change_it in ("UPDATE addon_statements SET document = 'x'", "DELETE FROM addon_statements"):
        with closing(sqlite3.connect(database)) as raw, pytest.raises(sqlite3.IntegrityError):
            raw.execute(change_it)
