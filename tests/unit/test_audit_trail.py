"""The trail at the broker: read in pages, signed now and then, copied to the journal, and append-only."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keybroker import checkpoint, statement
from keybroker.audit import EVERYTHING, AuditEvent, AuditFilter, Head
from keybroker.clerk import Clerk
from keybroker.service import setback, trail
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import MAIN
from tests.contract.broker_house import House


def record(house: House, count: int, **changes: Any) -> None:
    given = {"actor": "local", "verb": "test", "outcome": "done", **changes}
    events = [AuditEvent(house.clock(), fingerprint="", address="local", **given) for _ in range(count)]
    house.broker.store.write(lambda writing: writing.append(*events))


def problem(ask: Callable[[], object]) -> Problem:
    with pytest.raises(KeybrokerError) as caught:
        ask()
    return caught.value.problem


def page_of(house: House, after: int, limit: int, wanted: AuditFilter = EVERYTHING) -> trail.Page:
    place = None if after == -1 else {MAIN: after}
    return trail.records(house.broker, house.operator, place, limit, wanted)


def sequences(house: House, after: int = 0, limit: int = 1000, wanted: AuditFilter = EVERYTHING) -> list[int]:
    page = page_of(house, after, limit, wanted)
    return [entry.sequence for entry in page.records]


def search(house: House, **wanted: Any) -> list[int]:
    return sequences(house, wanted=AuditFilter(**wanted))


def test_it_is_read_from_the_front_and_from_the_end(house: House) -> None:
    record(house, 6)
    everything = trail.records(house.broker, house.operator, {})
    assert [entry.sequence for entry in everything.records] == list(range(1, 8))
    assert everything.through == {MAIN: 7}
    assert everything.heads == (Head(MAIN, 7, everything.records[-1].hash),)
    assert sequences(house, 2, 3) == [3, 4, 5]
    assert sequences(house, -1, 2) == [6, 7]
    assert page_of(house, 2, 3).through == {MAIN: 5}
    assert page_of(house, 9, 3).through == {MAIN: 9}
    for limit in (0, 1001):
        assert problem(lambda limit=limit: sequences(house, 0, limit)) is Problem.MALFORMED  # type: ignore[misc]


def test_it_is_searched_by_each_field_and_by_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("actor", "verb", "outcome", "addon", "volume", "host")
    for name in names:
        house.clock.forward(hours=1)
        record(house, 1, **{name: "refused" if name == "outcome" else f"some-{name}"})
    for number, name in enumerate(names):
        value = "refused" if name == "outcome" else f"some-{name}"
        assert search(house, **{name: value}) == [number + 2]
        assert search(house, **{name: value, "verb": "nothing"}) == []
    now = house.clock()
    assert search(house, since=now - timedelta(hours=1)) == [6, 7]
    assert search(house, since=now - timedelta(hours=2), until=now) == [5, 6]
    # one request looks through so many and says how far it came
    monkeypatch.setattr(trail, "SCANNED", 3)
    page = page_of(house, 0, 10, AuditFilter(host="some-host"))
    assert (page.records, page.through) == ((), {MAIN: 3})
    page = page_of(house, 6, 10, AuditFilter(host="some-host"))
    assert ([entry.sequence for entry in page.records], page.through) == ([7], {MAIN: 7})


def test_a_checkpoint_is_signed_when_it_is_due_and_the_broker_s_own_check_reads_it(house: House) -> None:
    broker = house.broker
    first = trail.sign_checkpoint(broker)
    assert first is not None
    assert (first.number, first.place) == (1, {MAIN: 1})
    record(house, 999)
    assert trail.sign_checkpoint(broker) is None
    record(house, 1)
    second = trail.sign_checkpoint(broker)
    assert second is not None
    assert (second.number, second.place, second.previous) == (2, {MAIN: 1001}, first.hash)
    assert trail.sign_checkpoint(broker, at_once=True) is None
    record(house, 1)
    assert trail.sign_checkpoint(broker) is None
    third = trail.sign_checkpoint(broker, at_once=True)
    assert third is not None
    record(house, 1)
    house.clock.forward(seconds=60)
    assert trail.sign_checkpoint(broker) is not None
    verdict = trail.proofread(broker.store)
    assert (verdict.records, verdict.checkpoints, verdict.of().covered) == (1003, 4, 1003)
    notes = trail.checkpoints(broker, house.operator, 1, 2)
    read = [checkpoint.unseal(note.text, note.public) for note in notes]
    assert read == [second, third]
    assert verdict.signers == (statement.fingerprint(notes[0].public),)
    standing = trail.standing(broker)
    assert (standing.records, standing.unsigned, standing.uncopied) == (1003, 0, None)


def test_openssl_checks_a_checkpoint_without_us(house: House, tmp_path: Path) -> None:
    trail.sign_checkpoint(house.broker)
    (note,) = trail.checkpoints(house.broker, house.operator)
    text, _, line = note.text.rpartition("\n\n")
    signature = base64.b64decode(line.split()[-1])[4:]
    document = note.as_json()
    for name, content in (
        ("text", f"{text}\n".encode()),
        ("sig", signature),
        ("pem", document["signer"].encode()),
    ):
        (tmp_path / name).write_bytes(content)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "pem", "-rawin", "-in", "text",
               "-sigfile", "sig"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20)
    assert "Signature Verified Successfully" in done.stdout
    der = ["openssl", "pkey", "-pubin", "-in", "pem", "-outform", "DER"]
    public = subprocess.run(der, cwd=tmp_path, capture_output=True, check=True, timeout=20).stdout
    assert hashlib.sha256(public).hexdigest() == statement.fingerprint(note.public)


def test_neither_records_nor_checkpoints_are_changed_or_deleted_by_sql(house: House) -> None:
    record(house, 5)
    trail.sign_checkpoint(house.broker)
    record(house, 5)
    trail.sign_checkpoint(house.broker, at_once=True)
    before = trail.proofread(house.broker.store)
    refused = (
        "UPDATE audit SET actor = 'eve' WHERE sequence = 3",
        "UPDATE audit SET sequence = 100 WHERE sequence = 11",
        "DELETE FROM audit WHERE sequence = 11",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE sequence = 3",
        "UPDATE audit SET writer = 'b2' WHERE sequence = 11",
        "UPDATE writers SET name = 'b2'",
        "DELETE FROM writers",
        "INSERT OR REPLACE INTO writers SELECT * FROM writers",
        "REPLACE INTO audit SELECT * FROM audit WHERE sequence = 11",
        "UPDATE OR REPLACE audit SET sequence = 4 WHERE sequence = 3",
        "UPDATE checkpoints SET document = '' WHERE number = 1",
        "DELETE FROM checkpoints WHERE number = 2",
        "INSERT OR REPLACE INTO checkpoints SELECT * FROM checkpoints WHERE number = 2",
        "INSERT INTO checkpoints SELECT 9, document, signature, public FROM checkpoints WHERE number = 2",
    )
    with closing(sqlite3.connect(house.installation.database)) as connection:
        for sql in refused:
            with pytest.raises(sqlite3.IntegrityError, match=r"record|checkpoint"):
                connection.execute(sql)
    assert trail.proofread(house.broker.store) == before


def tampered(house: House, *sql: str) -> str:
    """Do what only somebody can who owns the database file, and return what the check says of it."""
    with closing(sqlite3.connect(house.installation.database)) as connection:
        for name in ("audit_is_not_changed", "audit_is_not_deleted", "checkpoints_are_not_deleted"):
            connection.execute(f"DROP TRIGGER {name}")
        for one in sql:
            connection.execute(one)
        connection.commit()
    with pytest.raises(KeybrokerError) as caught:
        trail.proofread(house.broker.store)
    return caught.value.detail


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE audit SET outcome = 'released' WHERE sequence = 3", "audit record 3: was changed"),
        ("DELETE FROM audit WHERE sequence = 1", "audit record 1: is missing, 2 is next"),
        ("UPDATE audit SET detail = detail || ' ' WHERE sequence = 2", "audit record 2: was changed"),
        (
            "DELETE FROM audit WHERE sequence > 4",
            "audit record 5: is missing, checkpoint 1 has seen records up to 6",
        ),
        ("DELETE FROM checkpoints WHERE number = 1", "checkpoint 1: is missing, 2 is next"),
    ],
)
def test_what_somebody_did_to_the_database_itself_is_named(house: House, sql: str, said: str) -> None:
    record(house, 5)
    trail.sign_checkpoint(house.broker)
    record(house, 5)
    trail.sign_checkpoint(house.broker, at_once=True)
    assert tampered(house, sql) == said


class MemoryJournal:
    """A journal that keeps what it is told, and can be told to fail."""

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []
        self.fails = False
        self.heard = threading.Condition()

    def send(self, *told: str) -> None:
        with self.heard:
            if self.fails:
                raise OSError("nobody listens")
            self.told.append(dict(one.split("=", 1) for one in told))
            self.heard.notify_all()

    def sequences(self) -> list[int]:
        return [int(one["KEYBROKER_SEQUENCE"]) for one in self.told if "KEYBROKER_SEQUENCE" in one]

    def wait_for(self, sequence: int) -> None:
        with self.heard:
            assert self.heard.wait_for(lambda: sequence in self.sequences(), timeout=20)


class AngryJournal(MemoryJournal):
    """Fails as nobody foresaw, once."""

    def send(self, *told: str) -> None:
        if not self.fails:
            self.fails = True
            raise ZeroDivisionError("a record that is nobody's business")
        with self.heard:
            self.told.append(dict(one.split("=", 1) for one in told))
            self.heard.notify_all()


def test_the_clerk_goes_on_after_an_error_that_nobody_foresaw(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = AngryJournal()
    record(house, 1)
    working = clerk(house, journal, tmp_path)
    journal.wait_for(2)
    working.stop()
    said = [entry.getMessage() for entry in caplog.records if entry.name == "keybroker.clerk"]
    assert len(said) == 1
    assert said[0].startswith("audit trail: unexpected ZeroDivisionError at test_audit_trail.py:")


def clerk(house: House, journal: MemoryJournal | None, tmp_path: Path) -> Clerk:
    made = Clerk(house.broker, journal, tmp_path / "audit.copied")
    made.start()
    return made


def test_every_record_and_checkpoint_is_copied_to_the_journal_and_none_twice(
    house: House, tmp_path: Path
) -> None:
    journal = MemoryJournal()
    record(house, 3, verb="unlock", outcome="refused", host="kbh-aaaaaaaaaaaa", detail={"why": "a\nb"})
    first = clerk(house, journal, tmp_path)
    journal.wait_for(4)
    assert house.broker.progress.copied == 4
    record(house, 2)
    first.stop()
    assert journal.sequences() == [1, 2, 3, 4, 5, 6]
    noted = [one["KEYBROKER_CHECKPOINT"] for one in journal.told if "KEYBROKER_CHECKPOINT" in one]
    assert [checkpoint.Checkpoint.parse(text).place[MAIN] for text in noted] == [4, 6]
    entry = page_of(house, 1, 1).records[0]
    told = next(one for one in journal.told if one.get("KEYBROKER_SEQUENCE") == "2")
    assert (told["KEYBROKER_HASH"], told["KEYBROKER_PREVIOUS"]) == (entry.hash, entry.previous)
    assert told["KEYBROKER_DETAIL"] == entry.detail
    assert (told["PRIORITY"], told["SYSLOG_IDENTIFIER"]) == ("4", "keybroker-audit")
    assert told["MESSAGE"] == "unlock refused: local from local: kbh-aaaaaaaaaaaa"
    assert "KEYBROKER_VOLUME" not in told
    record(house, 1)
    second = clerk(house, journal, tmp_path)
    journal.wait_for(7)
    second.stop()
    assert journal.sequences() == [1, 2, 3, 4, 5, 6, 7]


def test_a_journal_that_fails_is_told_later_and_holds_up_no_checkpoint(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = MemoryJournal()
    journal.fails = True
    one = clerk(house, journal, tmp_path)
    while "nobody listens" not in caplog.text or trail.standing(house.broker).unsigned:
        threading.Event().wait(0.1)
    journal.fails = False
    journal.wait_for(1)
    one.stop()
    assert journal.sequences() == [1]


def test_a_database_that_was_set_back_is_said_loudly(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = MemoryJournal()
    (tmp_path / "audit.copied").write_text(json.dumps({"sequence": 7, "hash": "ab" * 32}))
    record(house, 2)
    one = clerk(house, journal, tmp_path)
    while "set back" not in caplog.text:
        threading.Event().wait(0.1)
    record(house, 1)
    one.stop()
    assert journal.sequences() == [4, 5, 6]
    told = [one["KEYBROKER_VERB"] for one in journal.told if "KEYBROKER_VERB" in one]
    assert told == ["journal", "database.restore", "test"]
    assert "record 7" in caplog.text
    assert house.broker.store.read(setback.standing).is_open
