"""What every store must do, on real files of SQLite's and on a real PostgreSQL."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from keybroker.audit import START, AuditEvent, verify
from keybroker.model import Keyring, Volume
from keybroker.store import Reading, Store, Writing, schema
from keybroker.store.postgres import PostgresStore
from keybroker.store.rows import (
    AddonKeyRow,
    AddonRow,
    CertificateRow,
    CheckpointRow,
    EnrolmentRow,
    HeaderRow,
    HostRow,
    InstallationRow,
    MasterKeyRow,
    OperatorRow,
    SignerRow,
    VolumeRow,
)
from keybroker.store.sqlite import SqliteStore, engine, settle
from keybroker.store.tables import METADATA
from keybroker.terms import PRIORITIES, UNCHANGED
from keybroker.wire.names import AddonName, HostId, KeyVersion, VolumeId, VolumeName
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB, Pin, first_profile
from keybroker.wire.receipt import MAIN
from keybroker.wire.records import Device, SeenHeader

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
SHOP = AddonName("shop-db")
ADDON = AddonRow(SHOP, "postgresql", NOW)
MASTER = MasterKeyRow("master", "file:/m", "wraps", b"check", NOW)
ADDON_KEY = AddonKeyRow(SHOP, 1, b"i" * 16, b"wrapped", "master", NOW)
UUID = "5f0e63b1-3c0f-4f0a-9d3e-2f6d3c9b1a77"
EVENT = AuditEvent(NOW, "local", "", "local", "test", "done", detail={"a": [1, "é"]})


def v(number: int) -> KeyVersion:
    return KeyVersion(number)


VOLUME = Volume(
    id=VolumeId("kbv-aaaaaaaaaaaa"),
    addon=SHOP,
    name=VolumeName("data"),
    stage="new",
    revision=1,
    size_bytes=1 << 40,
    filesystem="ext4",
    mount="/srv/data",
    serial="kbv-aaaaaaaaaaaa",
    luks_uuid=UUID,
    profile=first_profile("aes-xts-plain64"),
    keyring=Keyring.first(),
)
ROW = VolumeRow(VOLUME, NOW, {v(1): b"wrapped 1"})
HOST = HostRow(HostId("kbh-aaaaaaaaaaaa"), SHOP, NOW)
OPERATOR = OperatorRow("alice", NOW, frozenset({"operator", "auditor"}), None, NOW)
ENROLMENT = EnrolmentRow("ab" * 32, HOST.id, NOW, LATER)
CERTIFICATE = CertificateRow(
    "cd" * 32, "1f", HOST.id, None, "ef" * 32, NOW, LATER, NOW, "-----BEGIN CERTIFICATE-----"
)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "keybroker.db"
    schema.create(path)
    return path


@pytest.fixture
def store(request: pytest.FixtureRequest, engine_name: str) -> Iterator[Store]:
    opened: Store
    if engine_name == "sqlite":
        opened = SqliteStore(request.getfixturevalue("database"))
    else:
        opened = PostgresStore(request.getfixturevalue("postgres").with_tables())
    yield opened
    opened.close()


@pytest.fixture
def filled(store: Store) -> Store:
    def fill(writing: Writing) -> None:
        writing.put_master_key(MASTER)
        writing.add_addon(ADDON, ADDON_KEY)
        writing.add_volume(ROW)

    store.write(fill)
    return store


def problem(ask: Callable[[], object]) -> Problem:
    with pytest.raises(KeybrokerError) as caught:
        ask()
    return caught.value.problem


def volume(store: Store) -> VolumeRow:
    row = store.read(lambda reading: reading.volume(VOLUME.id))
    assert row is not None
    return row


def change(store: Store, changed: Volume, minted: dict[KeyVersion, bytes] | None = None) -> None:
    revision = volume(store).volume.revision
    row = VolumeRow(changed, NOW, {})
    store.write(lambda writing: writing.change_volume(row, revision, minted or {}, LATER))


def test_an_empty_store_has_nothing(store: Store) -> None:
    def look(reading: Reading) -> None:
        assert reading.installation() is None
        assert reading.master_keys() == []
        assert reading.wrapped_by_masters() == {}
        assert reading.admission("ab" * 32) is None
        assert reading.addons() == []
        assert reading.addon(SHOP) is None
        assert reading.addon_keys(SHOP) == []
        assert reading.volumes() == reading.volumes(SHOP) == []
        assert reading.volume(VOLUME.id) is None
        assert reading.newest_header(VOLUME.id) is None
        assert reading.hosts() == reading.hosts(SHOP) == []
        assert reading.host(HOST.id) is None
        assert reading.enrolment("ab" * 32) is None
        assert reading.certificate("ab" * 32) is None
        assert reading.newest_certificate(HOST.id, "ab" * 32) is None
        assert reading.audit({}, 10) == []
        assert reading.audit_head() == (0, START)
        assert reading.checkpoints(0, 10) == []
        assert reading.newest_checkpoint() is None

    store.read(look)


def test_rows_come_back_as_they_were_given(filled: Store) -> None:
    assert filled.read(lambda reading: reading.addon(SHOP)) == ADDON
    assert filled.read(lambda reading: reading.addons()) == [ADDON]
    assert filled.read(lambda reading: reading.addon_keys(SHOP)) == [ADDON_KEY]
    assert filled.read(lambda reading: reading.volumes(SHOP)) == [ROW]
    row = InstallationRow("example.org", "ab" * 32, NOW)
    filled.write(lambda writing: writing.put_installation(row))
    assert filled.read(lambda reading: reading.installation()) == row
    assert problem(lambda: filled.write(lambda writing: writing.put_installation(row))) is Problem.CONFLICT


def test_checkpoints_come_back_in_order_and_follow_each_other(filled: Store) -> None:
    store = filled
    signer = SignerRow(b"p" * 32, b"wrapped", "master", NOW)
    rows = [CheckpointRow(number, f"text {number}", b"s" * 64, signer.public) for number in (1, 2, 3)]
    store.write(lambda writing: writing.add_signer(signer))
    for row in rows:
        store.write(lambda writing, row=row: writing.add_checkpoint(row))  # type: ignore[misc]
    assert store.read(lambda reading: reading.checkpoints(0, 10)) == rows
    assert store.read(lambda reading: reading.checkpoints(1, 1)) == rows[1:2]
    assert store.read(lambda reading: reading.newest_checkpoint()) == rows[2]
    assert list(store.audit_checkpoints()) == rows
    for number in (3, 5):
        late = replace(rows[0], number=number)
        asks = problem(lambda late=late: store.write(lambda writing: writing.add_checkpoint(late)))  # type: ignore[misc]
        assert asks is Problem.CONFLICT


def test_a_volume_comes_back_whole_at_every_stage(filled: Store) -> None:
    claimed = VOLUME.claim(1, Device(VOLUME.serial, 1 << 41))
    header = SeenHeader(Pin(UUID, "sha256:" + "ab" * 32, 4 * MIB, 512), 7)
    deposited = claimed.deposit(2, header)
    for now in (claimed, deposited, deposited.ready(3)):
        change(filled, now)
        assert volume(filled) == VolumeRow(now, NOW, {v(1): b"wrapped 1"})


def test_a_swap_volume_has_no_keys(store: Store) -> None:
    swap = replace(VOLUME, filesystem="swap", mount=None, keyring=None)
    store.write(lambda writing: writing.put_master_key(MASTER))
    store.write(lambda writing: writing.add_addon(ADDON, ADDON_KEY))
    store.write(lambda writing: writing.add_volume(VolumeRow(swap, NOW, {})))
    assert volume(store) == VolumeRow(swap, NOW, {})


def test_a_keyring_comes_back_whole_in_every_state_of_two_rotations(filled: Store) -> None:
    keys = Keyring.first()
    wrapped = {v(1): b"wrapped 1"}
    revision = 1

    def step(changed: Keyring, minted: dict[KeyVersion, bytes] | None = None) -> Keyring:
        nonlocal revision
        revision += 1
        wrapped.update(minted or {})
        kept = {version: wrapped[version] for version in changed.kept}
        change(filled, replace(VOLUME, keyring=changed, revision=revision), minted)
        assert volume(filled).volume.keyring == changed
        assert volume(filled).wrapped == kept
        return changed

    keys = step(keys.want())
    keys = step(keys.stage(), {v(2): b"wrapped 2"})
    keys = step(keys.promote(v(2)))
    keys = step(keys.retire(v(1), LATER))
    keys = step(keys.want())
    keys = step(keys.stage(), {v(3): b"wrapped 3"})
    keys = step(keys.promote(v(3)))
    keys = step(keys.retire(v(2), LATER))
    keys = step(keys.schedule(v(2), None))
    keys = step(keys.destroy(v(1), LATER))
    assert (keys.kept, keys.destroyed) == ((2, 3), (1,))


def test_a_change_that_takes_another_revision_for_granted_is_refused(filled: Store) -> None:
    changed = VolumeRow(replace(VOLUME, revision=2), NOW, {})
    late = problem(lambda: filled.write(lambda writing: writing.change_volume(changed, 7, {}, NOW)))
    assert late is Problem.CONFLICT
    assert volume(filled) == ROW


@pytest.mark.parametrize(
    "other",
    [
        replace(VOLUME, id=VolumeId("kbv-bbbbbbbbbbbb"), mount=None, serial="b", luks_uuid="b"),
        replace(VOLUME, id=VolumeId("kbv-bbbbbbbbbbbb"), name=VolumeName("b"), serial="b", luks_uuid="b"),
        replace(VOLUME, id=VolumeId("kbv-bbbbbbbbbbbb"), name=VolumeName("b"), mount=None, luks_uuid="b"),
        replace(VOLUME, id=VolumeId("kbv-bbbbbbbbbbbb"), name=VolumeName("b"), mount=None, serial="b"),
        replace(VOLUME, name=VolumeName("b"), mount=None, serial="b", luks_uuid="b"),
        replace(VOLUME, id=VolumeId("kbv-bbbbbbbbbbbb"), addon=AddonName("nobody"), luks_uuid="b"),
    ],
    ids=["name", "mount", "serial", "uuid", "id", "addon"],
)
def test_what_must_be_unique_or_must_exist_is_a_conflict_and_changes_nothing(
    filled: Store, other: Volume
) -> None:
    row = VolumeRow(other, NOW, {v(1): b"wrapped"})
    assert problem(lambda: filled.write(lambda writing: writing.add_volume(row))) is Problem.CONFLICT
    assert filled.read(lambda reading: reading.volumes()) == [ROW]


def test_of_header_copies_the_newest_are_kept(filled: Store) -> None:
    for number in (1, 2, 3):
        row = HeaderRow(VOLUME.id, number, number * 10, v(1), b"copy %d" % number, NOW)
        filled.write(lambda writing, row=row: writing.add_header(row, 2))  # type: ignore[misc]
        assert filled.read(lambda reading: reading.newest_header(VOLUME.id)) == row


def test_a_host_is_invited_enrolled_renewed_and_revoked(filled: Store) -> None:
    filled.write(lambda writing: writing.add_host(HOST, ENROLMENT))
    assert filled.read(lambda reading: reading.host(HOST.id)) == HOST
    assert filled.read(lambda reading: reading.enrolment(ENROLMENT.token_hash)) == ENROLMENT
    hashed = ENROLMENT.token_hash
    assert filled.write(lambda writing: writing.enrol_host(hashed, CERTIFICATE, LATER))
    enrolled = replace(HOST, enrolled=LATER, expires=LATER)
    assert filled.read(lambda reading: reading.hosts(SHOP)) == [enrolled]
    spent = replace(ENROLMENT, used=LATER, certificate=CERTIFICATE.fingerprint)
    assert filled.read(lambda reading: reading.enrolment(hashed)) == spent
    second = replace(CERTIFICATE, fingerprint="11" * 32, serial="2f", not_after=LATER + timedelta(days=90))
    assert not filled.write(lambda writing: writing.enrol_host(hashed, second, LATER))
    filled.write(lambda writing: writing.add_certificate(second))
    newest = filled.read(lambda reading: reading.newest_certificate(HOST.id, CERTIFICATE.spki))
    assert newest == second
    assert filled.read(lambda reading: reading.certificate(CERTIFICATE.fingerprint)) == CERTIFICATE
    filled.write(lambda writing: writing.revoke_host(HOST.id, "stolen", LATER))
    filled.write(lambda writing: writing.revoke_host(HOST.id, "again", LATER + timedelta(days=1)))
    for fingerprint in (CERTIFICATE.fingerprint, second.fingerprint):
        row = filled.read(lambda reading, name=fingerprint: reading.admission(name))  # type: ignore[misc]
        assert row is not None
        assert (row.host, row.operator, row.addon, row.revoked) == (HOST.id, None, SHOP, LATER)
    shown = filled.read(lambda reading: reading.host(HOST.id))
    assert shown is not None
    assert shown.reason == "stolen"


def test_certificates_of_other_classes_than_the_normal_one_are_told_until_they_end(filled: Store) -> None:
    own = replace(CERTIFICATE, host=None, operator="alice", fingerprint="22" * 32, serial="3f")

    def fill(writing: Writing) -> None:
        writing.add_operator(OPERATOR)
        writing.add_certificate(own)
        writing.add_host(HOST, ENROLMENT)
        writing.enrol_host(ENROLMENT.token_hash, CERTIFICATE, NOW)

    filled.write(fill)
    assert filled.read(lambda reading: reading.priorities(NOW)) == {own.fingerprint: "high"}
    for priority in PRIORITIES:
        terms = replace(UNCHANGED, priority=priority)
        filled.write(lambda writing, terms=terms: writing.put_policy(SHOP, terms, NOW))  # type: ignore[misc]
        found = filled.read(lambda reading: reading.priorities(NOW))
        assert found.get(CERTIFICATE.fingerprint, "normal") == priority
    assert filled.read(lambda reading: reading.priorities(LATER)) == {}


def test_an_operator_is_admitted_by_its_certificate(store: Store) -> None:
    own = replace(CERTIFICATE, host=None, operator="alice")

    def fill(writing: Writing) -> None:
        writing.add_operator(OPERATOR)
        writing.add_certificate(own)

    store.write(fill)
    row = store.read(lambda reading: reading.admission(own.fingerprint))
    assert row is not None
    assert (row.host, row.operator, row.addon, row.revoked) == (None, "alice", None, None)
    assert (row.not_before, row.not_after) == (NOW, LATER)
    assert row.roles == OPERATOR.roles


def test_operators_come_back_with_their_roles(store: Store) -> None:
    assert store.read(lambda reading: reading.operators()) == []
    assert store.read(lambda reading: reading.operator("alice")) is None
    bob = OperatorRow("bob", LATER, frozenset({"auditor"}), "alice", LATER)

    def fill(writing: Writing) -> None:
        writing.add_operator(bob)
        writing.add_operator(OPERATOR)
        writing.add_certificate(replace(CERTIFICATE, host=None, operator="alice"))

    store.write(fill)
    alice = replace(OPERATOR, expires=LATER)
    assert store.read(lambda reading: reading.operators()) == [alice, bob]
    assert store.read(lambda reading: reading.operator("alice")) == alice
    store.write(lambda writing: writing.change_roles("bob", frozenset({"metrics", "approver"})))
    changed = store.read(lambda reading: reading.operator("bob"))
    assert changed == replace(bob, roles=frozenset({"approver", "metrics"}))


def test_an_operators_certificates_from_before_do_not_count_once_they_are_replaced(store: Store) -> None:
    old = replace(CERTIFICATE, host=None, operator="alice")
    new = replace(old, fingerprint="11" * 32, serial="2f", issued=LATER)

    def fill(writing: Writing) -> None:
        writing.add_operator(OPERATOR)
        writing.add_certificate(old)

    store.write(fill)
    assert store.read(lambda reading: reading.operators_certificate("alice", old.spki)) == old

    def renew(writing: Writing) -> None:
        writing.replace_certificates("alice", LATER)
        writing.add_certificate(new)

    store.write(renew)
    assert store.read(lambda reading: reading.operators_certificate("alice", old.spki)) == new
    assert store.read(lambda reading: reading.operators_certificate("bob", old.spki)) is None
    for certificate, revoked in ((old, LATER), (new, None)):
        row = store.read(lambda reading, one=certificate: reading.admission(one.fingerprint))  # type: ignore[misc]
        assert row is not None
        assert row.revoked == revoked


def test_an_operator_is_revoked_once(store: Store) -> None:
    own = replace(CERTIFICATE, host=None, operator="alice")

    def fill(writing: Writing) -> None:
        writing.add_operator(OPERATOR)
        writing.add_certificate(own)
        writing.revoke_operator("alice", "left", NOW)
        writing.revoke_operator("alice", "again", LATER)

    store.write(fill)
    shown = store.read(lambda reading: reading.operator("alice"))
    assert shown is not None
    assert (shown.revoked, shown.reason) == (NOW, "left")
    row = store.read(lambda reading: reading.admission(own.fingerprint))
    assert row is not None
    assert row.revoked == NOW


def test_audit_records_are_chained_across_transactions(store: Store) -> None:
    receipts = [store.write(lambda writing: writing.append(EVENT, EVENT)) for _ in range(3)]
    assert [sequence for sequence, _hash in receipts] == [2, 4, 6]
    assert verify(store.audit_records()) == receipts[-1]
    assert store.read(lambda reading: reading.audit_head()) == receipts[-1]
    page = store.read(lambda reading: reading.audit({MAIN: 2}, 3))
    assert [entry.sequence for entry in page] == [3, 4, 5]
    assert page[0].as_json()["detail"] == {"a": [1, "é"]}


def test_many_records_are_read_in_pages(store: Store) -> None:
    events = [EVENT] * 2500
    store.write(lambda writing: writing.append(*events))
    assert verify(store.audit_records())[0] == 2500


def test_a_write_that_raises_leaves_nothing_and_its_neighbours_stand(store: Store) -> None:
    def fails(writing: Writing) -> None:
        writing.append(EVENT)
        writing.add_addon(ADDON, ADDON_KEY)
        raise ValueError("the caller's own")

    store.write(lambda writing: writing.put_master_key(MASTER))
    store.write(lambda writing: writing.append(EVENT))
    with pytest.raises(ValueError, match="the caller's own"):
        store.write(fails)
    assert store.read(lambda reading: reading.addons()) == []
    assert store.write(lambda writing: writing.append(EVENT))[0] == 2
    assert verify(store.audit_records())[0] == 2


def test_in_one_batch_a_failing_write_takes_only_itself_back(store: Store) -> None:
    """The first write is held until the others are queued behind it, so that they share a transaction."""
    queued, held = threading.Event(), threading.Event()
    outcomes: dict[int, object] = {}

    def first(writing: Writing) -> None:
        held.set()
        assert queued.wait(timeout=20)

    def nth(number: int) -> Callable[[Writing], tuple[int, str]]:
        def work(writing: Writing) -> tuple[int, str]:
            receipt = writing.append(replace(EVENT, detail={"n": number}))
            if number % 3 == 0:
                raise ValueError(str(number))
            return receipt

        return work

    def ask(number: int) -> None:
        try:
            outcomes[number] = store.write(nth(number))
        except ValueError as error:
            outcomes[number] = str(error)

    holder = threading.Thread(target=lambda: store.write(first))
    holder.start()
    assert held.wait(timeout=20)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    queued.set()
    for thread in (holder, *threads):
        thread.join(timeout=30)
    assert [outcomes[number] for number in range(0, 30, 3)] == [str(number) for number in range(0, 30, 3)]
    written = {entry.as_json()["detail"]["n"] for entry in store.audit_records()}
    assert written == {number for number in range(30) if number % 3}
    assert verify(store.audit_records())[0] == 20


def test_a_reader_sees_one_moment_while_others_write(store: Store) -> None:
    def look(reading: Reading) -> None:
        before = reading.audit_head()
        writer = threading.Thread(target=lambda: store.write(lambda writing: writing.append(EVENT)))
        writer.start()
        writer.join(timeout=20)
        assert not writer.is_alive()
        assert reading.audit_head() == before

    store.read(look)
    assert store.read(lambda reading: reading.audit_head())[0] == 1


def test_a_write_that_returned_is_seen_by_every_later_read(store: Store) -> None:
    for number in range(1, 50):
        store.write(lambda writing: writing.append(EVENT))
        assert store.read(lambda reading: reading.audit_head())[0] == number


def test_after_closing_it_refuses_and_what_was_queued_is_there(store: Store, database: Path) -> None:
    store.write(lambda writing: writing.append(EVENT))
    store.close()
    store.close()
    assert not store.alive
    assert problem(lambda: store.write(lambda writing: writing.append(EVENT))) is Problem.UNAVAILABLE
    again = SqliteStore(database)
    assert again.read(lambda reading: reading.audit_head())[0] == 1
    again.close()


# What only SQLite has to be asked


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE audit SET detail = '{}' WHERE sequence = 2", "not changed"),
        ("UPDATE OR REPLACE audit SET sequence = 1 WHERE sequence = 2", "not changed"),
        ("DELETE FROM audit WHERE sequence = 3", "not deleted"),
        ("DELETE FROM audit", "not deleted"),
        ("INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE sequence = 3", "follows"),
        ("INSERT INTO audit SELECT 'main', 9, at, actor, fingerprint, address, verb, outcome, addon, volume,"
         " host, detail, hash, hash FROM audit WHERE sequence = 3", "follows"),
        ("INSERT INTO audit SELECT 'main', 4, at, actor, fingerprint, address, verb, outcome, addon, volume,"
         " host, detail, previous, hash FROM audit WHERE sequence = 3", "follows"),
        ("DELETE FROM keys", "never deleted"),
        ("UPDATE keys SET state = 'destroyed', wrapped = NULL", "only a retired key"),
        ("UPDATE keys SET wrapped = NULL", "ck_keys_kept"),
        ("UPDATE volumes SET stage = 'gone', device_serial = 'a', device_size_bytes = 1", "ck_volumes_stage"),
        ("UPDATE volumes SET stage = 'ready'", "ck_volumes_claimed"),
        ("DELETE FROM volumes", "FOREIGN KEY"),
    ],
)  # fmt: skip
def test_the_database_itself_refuses_what_only_a_bug_would_do(
    filled: Store, database: Path, statement: str, says: str
) -> None:
    filled.write(lambda writing: writing.append(EVENT, EVENT, EVENT))
    with closing(sqlite3.connect(database)) as raw:
        raw.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError, match=says):
            raw.execute(statement)


@pytest.mark.usefixtures("filled")
def test_a_destroyed_key_does_not_come_back(database: Path) -> None:
    with closing(sqlite3.connect(database)) as raw, raw:
        raw.execute("UPDATE keys SET state = 'retired'")
        raw.execute("UPDATE keys SET state = 'destroyed', wrapped = NULL")
        with pytest.raises(sqlite3.IntegrityError, match="does not come back"):
            raw.execute("UPDATE keys SET state = 'current', wrapped = x'00'")


def test_every_connection_has_the_settings_that_durability_hangs_on(database: Path) -> None:
    opened = engine(database)
    wanted = {
        "journal_mode": "wal",
        "synchronous": 2,
        "secure_delete": 1,
        "foreign_keys": 1,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "busy_timeout": 5000,
    }
    with opened.connect() as one, opened.connect() as two:
        for connection in (one, two):
            found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in wanted}
            assert found == wanted
    opened.dispose()


def test_a_setting_that_sqlite_ignores_is_found_out() -> None:
    """A database in memory cannot have a write-ahead log, and SQLite says nothing about it."""
    with closing(sqlite3.connect(":memory:")) as raw, pytest.raises(KeybrokerError) as caught:
        settle(raw, None)
    assert "journal_mode" in caught.value.detail


def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "nothing.db"
    assert problem(lambda: schema.check(path)) is Problem.UNAVAILABLE
    assert not path.exists()


def test_a_writer_that_cannot_start_answers_all_the_same(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "nothing.db")
    for _ in range(3):
        late = problem(lambda: store.write(lambda writing: writing.append(EVENT)))
        assert late is Problem.UNAVAILABLE
    store.close()
    assert not store.alive


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_work_that_ends_the_writer_is_answered_and_so_are_those_behind_it(store: Store) -> None:
    """SystemExit in the writer's thread stands for what no program expects, MemoryError for one."""
    queued, held = threading.Event(), threading.Event()
    outcomes: list[Problem] = []

    def first(_writing: Writing) -> None:
        held.set()
        assert queued.wait(timeout=20)
        raise SystemExit

    def ask(work: Callable[[Writing], object]) -> None:
        outcomes.append(problem(lambda: store.write(work)))

    threads = [threading.Thread(target=ask, args=(first,))]
    threads[0].start()
    assert held.wait(timeout=20)
    threads += [threading.Thread(target=ask, args=(lambda writing: writing.append(EVENT),)) for _ in range(5)]
    for thread in threads[1:]:
        thread.start()
    queued.set()
    for thread in threads:
        thread.join(timeout=20)
    assert outcomes == [Problem.UNAVAILABLE] * 6
    assert not store.alive
    assert store.read(lambda reading: reading.audit_head()) == (0, START)


def test_deleted_bytes_are_overwritten_in_the_file(filled: Store, database: Path) -> None:
    for number in (1, 2):
        row = HeaderRow(VOLUME.id, number, 1, v(1), b"canary %d " % number * 3000, NOW)
        filled.write(lambda writing, row=row: writing.add_header(row, 1))  # type: ignore[misc]
    filled.close()
    stored = database.read_bytes()
    assert b"canary 2" in stored
    assert b"canary 1" not in stored


def test_the_migrations_make_the_very_tables_that_the_code_uses(database: Path) -> None:
    opened = engine(database)
    with opened.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        made = normal(connection.exec_driver_sql(_SCHEMA).scalars().all())
    opened.dispose()
    plain = database.with_name("plain.db")
    plain.touch()
    other = engine(plain)
    with other.connect() as connection:
        METADATA.create_all(connection)
        assert normal(connection.exec_driver_sql(_SCHEMA).scalars().all()) == made
    other.dispose()


_SCHEMA = (
    "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND type <> 'trigger' AND name <> 'alembic_version'"
)


def normal(statements: object) -> list[list[str]]:
    """Return statements as sorted clauses: the order of constraints within a table does not matter."""
    assert isinstance(statements, list)
    return sorted(
        # RENAME TABLE leaves the new name in quotes
        sorted(
            re.sub(r'TABLE "(\w+)"', r"TABLE \1", line.strip().rstrip(","))
            # ADD COLUMN leaves the new one in the line of the last column
            for line in re.sub(r", (\w+ (?:TEXT|INTEGER|BIGINT) ?)", r"\n\1", statement).splitlines()
            if line.strip()
        )
        for statement in statements
    )


def test_upgrading_twice_and_checking_change_nothing(database: Path) -> None:
    before = database.read_bytes()
    schema.upgrade(database)
    schema.check(database)
    assert schema.revision(database) == schema.newest()
    assert database.read_bytes() == before


def test_a_migration_that_is_cut_leaves_no_table_behind(tmp_path: Path) -> None:
    path = tmp_path / "keybroker.db"
    path.touch()
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("CREATE TABLE volumes (in_the_way INTEGER)")
    assert problem(lambda: schema.upgrade(path)) is Problem.UNAVAILABLE
    with closing(sqlite3.connect(path)) as raw:
        tables = [name for (name,) in raw.execute("SELECT name FROM sqlite_master")]
    assert tables == ["volumes"]
