"""What every store must do for master keys: whatever is wrapped names one that is known and not forgotten."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from keybroker.store import Store
from keybroker.store.rows import AddonKeyRow, AddonRow, MasterKeyRow
from keybroker.store.tables import METADATA
from keybroker.store.wrapping import BY_MASTER
from keybroker.wire.names import AddonName
from keybroker.wire.problems import Problem
from tests.contract.test_broker_store import LATER, MASTER, NOW, database, filled, problem, store

__all__ = ["database", "filled", "store"]

NEXT = MasterKeyRow("next", "credential:next", "wraps", b"check too", LATER)


def masters(store: Store) -> list[MasterKeyRow]:
    return store.read(lambda reading: reading.master_keys())


def put(store: Store, row: MasterKeyRow) -> None:
    store.write(lambda writing: writing.put_master_key(row))


def add_addon(store: Store, name: str, master: str) -> None:
    row = AddonRow(AddonName(name), "redis", NOW)
    key = AddonKeyRow(row.name, 1, name.encode().ljust(16), b"wrapped", master, NOW)
    store.write(lambda writing: writing.add_addon(row, key))


def test_the_table_of_what_masters_wrap_is_complete() -> None:
    assert {table.name for table in METADATA.tables.values() if "master" in table.c} == {
        table.name for table in BY_MASTER
    }


def test_the_newest_wraps_and_the_one_before_unwraps(filled: Store) -> None:
    put(filled, NEXT)
    assert masters(filled) == [replace(MASTER, state="unwraps"), NEXT]
    put(filled, MASTER)
    assert masters(filled) == [MASTER, replace(NEXT, state="unwraps")]


def test_it_says_how_many_each_master_wraps(filled: Store) -> None:
    put(filled, NEXT)
    add_addon(filled, "blog-db", "next")
    add_addon(filled, "wiki-db", "next")
    assert filled.read(lambda reading: reading.wrapped_by_masters()) == {"master": 1, "next": 2}


def test_one_that_wraps_something_is_not_forgotten(filled: Store) -> None:
    put(filled, NEXT)
    assert problem(lambda: put(filled, replace(MASTER, state="forgotten"))) is Problem.CONFLICT
    assert problem(lambda: put(filled, replace(NEXT, state="forgotten"))) is Problem.CONFLICT
    assert [row.state for row in masters(filled)] == ["unwraps", "wraps"]


def test_a_forgotten_one_wraps_nothing_ever_again(filled: Store) -> None:
    add_addon(filled, "wiki-db", "master")
    put(filled, replace(NEXT, state="unwraps"))
    put(filled, replace(NEXT, state="forgotten"))
    assert problem(lambda: add_addon(filled, "blog-db", "next")) is Problem.CONFLICT
    assert problem(lambda: put(filled, NEXT)) is Problem.CONFLICT


def test_nothing_is_wrapped_by_a_master_that_is_not_known(filled: Store, database: Path) -> None:
    assert problem(lambda: add_addon(filled, "blog-db", "nobody")) is Problem.CONFLICT
    with closing(sqlite3.connect(database)) as raw:
        with pytest.raises(sqlite3.IntegrityError, match="not known"):
            raw.execute("UPDATE addon_keys SET master = 'nobody'")
        with pytest.raises(sqlite3.IntegrityError, match="never deleted"):
            raw.execute("DELETE FROM master_keys")
