"""A new master key wraps at once, the rest follows, and none is forgotten that anything still needs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from keybroker.envelope import wrapped_by
from keybroker.service import masters, rewrap
from keybroker.service.statements import state
from keybroker.store import wrapping
from keybroker.store.tables import METADATA
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from tests.contract.broker_house import House
from tests.unit.test_broker_masters import configure, new_file


def rotate(house: House, uri: str | None = None, *, compromised: bool = False) -> str:
    """Take another master key, a new one unless it is named; return its identity."""
    uri = uri or new_file(house, f"master-{len(list((house.root / 'etc').glob('*.key')))}.key")
    if uri not in house.installation.master_keys:
        configure(house, uri, *house.installation.master_keys)
        house.reopen()
    masters.rotate(house.broker, house.operator, uri, compromised=compromised)
    return house.broker.masterkey.identity


def filled(house: House) -> list[Record]:
    records = []
    for addon in ("blog-db", "shop-db", "wiki-db"):
        house.addon(addon)
        host, _ = house.enrol(addon)
        for name in ("data", "more"):
            records.append(house.provision(host, house.volume(addon, name)))
    row = house.broker.store.read(lambda reading: reading.volume(records[0].volume))
    assert row is not None
    house.broker.store.write(
        lambda writing: state(house.broker, writing, row.volume, house.clock(), what="test")
    )
    return records


def wraps(house: House) -> dict[str, int]:
    return house.broker.store.read(lambda reading: reading.wrapped_by_masters())


def left(house: House) -> rewrap.Left:
    return house.broker.store.read(rewrap.left)


def refused(ask: Any) -> KeybrokerError:
    with pytest.raises(KeybrokerError) as caught:
        ask()
    return caught.value


def secrets(house: House, records: list[Record]) -> list[Any]:
    return [house.keys(record.volume) for record in records]


def test_everything_that_is_wrapped_has_its_way_of_being_rewrapped() -> None:
    wrapped = {table.name for table in METADATA.tables.values() if "wrapped" in table.c}
    assert wrapped == {*rewrap.BY_MASTER, *rewrap.BY_ADDON}
    assert {table.name for table in wrapping.BY_MASTER} == set(rewrap.BY_MASTER)
    assert {table.name for table in wrapping.BY_ADDON} == set(rewrap.BY_ADDON)


def test_a_new_master_key_wraps_at_once_and_the_rest_is_rewrapped(house: House) -> None:
    records = filled(house)
    before, first = secrets(house, records), house.broker.masterkey.identity
    second = rotate(house)
    assert second != first
    house.addon("new-db")
    assert wraps(house) == {first: 4, second: 1}
    assert left(house) == rewrap.Left(4, 0, 0, 12, 0, 0)
    assert rewrap.is_wanted(house.broker)
    house.clock.forward(hours=1)
    outcome = rewrap.advance(house.broker)
    assert (outcome.rewrapped, outcome.broken, outcome.whole) == (4, [], True)
    assert wraps(house) == {second: 5}
    assert not left(house).anything
    assert not rewrap.is_wanted(house.broker)
    assert secrets(house, records) == before
    rows = {row.identity: row for row in house.broker.store.read(lambda reading: reading.master_keys())}
    old, new = rows[first], rows[second]  # both were made at the same time, so that neither is the newest
    assert len(rows) == 2
    assert (old.state, old.emptied, new.state, new.emptied) == ("unwraps", house.clock(), "wraps", None)
    assert ("rewrap", "done", None) in house.audit()
    assert rewrap.advance(house.broker).rewrapped == 0


def test_after_the_forgetting_the_new_key_alone_opens_everything(house: House) -> None:
    records = filled(house)
    before, (uri,) = secrets(house, records), house.installation.master_keys
    first = house.broker.masterkey.identity
    rotate(house)
    house.clock.forward(hours=1)
    rewrap.advance(house.broker)
    masters.forget(house.broker, house.operator, first, backups_gone=True)
    assert first not in house.broker.masterkey.identities
    house.reopen()  # the old key is configured still, which is no error
    configure(house, *(each for each in house.installation.master_keys if each != uri))
    house.reopen()
    assert secrets(house, records) == before
    assert masters.forget(house.broker, house.operator, first, backups_gone=False).left.anything is False


def test_a_master_key_is_not_forgotten_while_anything_may_need_it(house: House) -> None:
    filled(house)
    first = house.broker.masterkey.identity
    second = rotate(house)

    def forget(identity: str, *, backups_gone: bool = True) -> KeybrokerError:
        return refused(
            lambda: masters.forget(house.broker, house.operator, identity, backups_gone=backups_gone)
        )

    assert "still wraps 4 keys" in forget(first).detail
    assert "is the one that wraps" in forget(second).detail
    assert forget("ab" * 16).problem is Problem.UNKNOWN
    rewrap.advance(house.broker)
    error = forget(first, backups_gone=False)
    assert (error.problem, "backup" in error.detail) == (Problem.CONFLICT, True)
    assert "--backups-gone" in (error.hint or "")
    assert house.audit()[-1][:2] == ("master.forget", "refused")


def test_rotating_to_the_one_that_wraps_changes_nothing(house: House) -> None:
    filled(house)
    (uri,) = house.installation.master_keys
    rotate(house, uri)
    assert [verb for verb, _, _ in house.audit() if verb == "master.rotate"] == []
    rotate(house)
    rotate(house, uri)  # and back
    rewrap.advance(house.broker)
    assert wraps(house) == {house.broker.masterkey.identity: 4}


def test_a_master_key_that_is_not_configured_or_was_forgotten_is_refused(house: House) -> None:
    (uri,) = house.installation.master_keys
    first = house.broker.masterkey.identity
    error = refused(lambda: masters.rotate(house.broker, house.operator, "file:/etc/shadow"))
    assert error.problem is Problem.UNKNOWN
    rotate(house)
    rewrap.advance(house.broker)
    masters.forget(house.broker, house.operator, first, backups_gone=True)
    assert refused(lambda: rotate(house, uri)).problem is Problem.CONFLICT


def test_after_a_leak_add_ons_and_statements_get_new_keys_and_every_record_follows(house: House) -> None:
    records = filled(house)
    before, first = secrets(house, records), house.broker.masterkey.identity
    old = house.broker.store.read(lambda reading: reading.newest_addon_keys())
    signer = house.broker.store.read(lambda reading: reading.signer())
    house.clock.forward(hours=1)
    second = rotate(house, compromised=True)
    assert left(house).renewals == 3
    rewrap.advance(house.broker)
    assert not left(house).anything
    assert wraps(house) == {second: 5}  # the old signer's public half is needed as long as its statements
    new = house.broker.store.read(lambda reading: reading.newest_addon_keys())
    assert {row.generation for row in new} == {2}
    assert not {row.id for row in new} & {row.id for row in old}
    assert secrets(house, records) == before
    ids = {row.id for row in new}
    with closing(sqlite3.connect(house.installation.database)) as raw:
        for table in rewrap.BY_ADDON:
            blobs = [blob for (blob,) in raw.execute(f"SELECT wrapped FROM {table}")]  # noqa: S608
            assert len(blobs) == (0 if table == "recoveries" else 6)
            assert {wrapped_by(blob) for blob in blobs} <= ids
        assert raw.execute("SELECT count(*) FROM addon_keys").fetchone() == (3,)
    after = house.broker.store.read(lambda reading: reading.signer())
    assert signer is not None
    assert after is not None
    assert signer.public != after.public
    masters.forget(house.broker, house.operator, first, backups_gone=True)
    # no key that the old master key wrapped is anywhere in the files
    files = [house.installation.database, house.installation.database.with_name("keybroker.db-wal")]
    for path in files:
        for row in old:
            assert not path.exists() or row.wrapped not in path.read_bytes()


def test_one_add_on_gets_a_new_key_and_asking_again_changes_nothing(house: House) -> None:
    records = filled(house)
    before = secrets(house, records)
    assert masters.renew_addon(house.broker, house.operator, "shop-db", 1) == (1, False)
    assert masters.renew_addon(house.broker, house.operator, "shop-db", 2) == (2, True)
    assert masters.renew_addon(house.broker, house.operator, "shop-db", 2) == (2, False)
    for wrong in (1, 4):
        error = refused(
            lambda wrong=wrong: masters.renew_addon(house.broker, house.operator, "shop-db", wrong)
        )
        assert error.problem is Problem.CONFLICT
    assert left(house).records == 4
    assert left(house).all_records == 12
    assert rewrap.advance(house.broker).rewrapped == 4
    assert masters.addon_generation(house.broker, house.operator, "shop-db") == 2
    assert secrets(house, records) == before
    unknown = refused(lambda: masters.renew_addon(house.broker, house.operator, "nosuch", 2))
    assert unknown.problem is Problem.UNKNOWN


def test_a_row_that_does_not_open_is_said_and_stops_no_other(house: House) -> None:
    records = filled(house)
    with closing(sqlite3.connect(house.installation.database)) as raw, raw:
        raw.execute("UPDATE addon_keys SET wrapped = zeroblob(200) WHERE addon = 'shop-db'")
        raw.execute("UPDATE keys SET wrapped = substr(wrapped, 1, 60) WHERE volume = ?", (records[0].volume,))
    first = house.broker.masterkey.identity
    rotate(house)
    masters.renew_addon(house.broker, house.operator, "blog-db", 2)
    outcome = rewrap.advance(house.broker)
    assert [line.split(":")[0] for line in outcome.broken] == [
        "addon_keys shop-db/1",
        f"keys {records[0].volume}/1",
    ]
    assert wraps(house)[first] == 1
    assert left(house).by_masters == 1
    assert (
        refused(lambda: masters.forget(house.broker, house.operator, first, backups_gone=True)).problem
        is Problem.CONFLICT
    )
    assert len(house.broker.store.read(lambda reading: reading.addon_keys(records[0].addon))) == 2


def test_what_somebody_else_changed_meanwhile_is_left_to_the_next_pass(house: House) -> None:
    filled(house)
    rotate(house)
    (first, *_) = house.broker.store.read(
        lambda reading: reading.wrapped_by_other_masters(
            house.broker.masterkey.identity, "addon_keys", None, 9
        )
    )
    stale = replace(first, wrapped=b"as it was before")
    master = house.broker.masterkey.identity
    assert house.broker.store.write(lambda writing: writing.rewrap(stale, b"new", master)) is False
    rewrap.advance(house.broker)
    assert not left(house).anything


def test_it_stops_between_two_batches_and_goes_on(house: House) -> None:
    filled(house)
    rotate(house, compromised=True)
    passes = 0
    while left(house).anything:
        rewrap.advance(house.broker, lambda: True)
        passes += 1
        assert passes < 50
    assert passes > 3


def test_only_an_operator_may(house: House) -> None:
    house.addon()
    host, _ = house.enrol()
    uri = house.installation.master_keys[0]
    asks = (
        lambda: masters.show(house.broker, host),
        lambda: masters.rotate(house.broker, host, uri),
        lambda: masters.forget(house.broker, host, "ab" * 16, backups_gone=True),
        lambda: masters.renew_addon(house.broker, host, "shop-db", 2),
    )
    for ask in asks:
        assert refused(ask).problem is Problem.NOT_ALLOWED
