"""What only PostgreSQL has to be asked: brokers side by side, failures, and what it refuses by itself."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from operator import methodcaller
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from keybroker.audit import Writer, verify
from keybroker.service.installation import Installation, create, open_broker
from keybroker.store import Store, Writing, schema
from keybroker.store.places import Cluster
from keybroker.store.postgres import PostgresStore
from keybroker.store.tables import METADATA
from keybroker.wire.names import HostId
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.broker_house import Clock, installation, plan
from tests.contract.cut_line import Cut, CutLine
from tests.contract.postgres_cluster import PostgresServer
from tests.contract.test_broker_store import (
    ADDON,
    ADDON_KEY,
    CERTIFICATE,
    ENROLMENT,
    EVENT,
    HOST,
    LATER,
    MASTER,
    NOW,
    ROW,
    problem,
)


@pytest.fixture
def filled_cluster(postgres: PostgresServer) -> Cluster:
    """Return a database with an add-on and a volume."""
    made = postgres.with_tables()
    store = PostgresStore(made)

    def fill(writing: Writing) -> None:
        writing.put_master_key(MASTER)
        writing.add_addon(ADDON, ADDON_KEY)
        writing.add_volume(ROW)
        writing.append(EVENT, EVENT, EVENT)

    store.write(fill)
    store.close()
    return made


def test_the_tables_are_those_that_the_code_uses(postgres: PostgresServer) -> None:
    opened = schema.engine(postgres.with_tables())

    def ours(_object: object, name: str | None, kind: str, *_rest: object) -> bool:
        return not (kind == "table" and name in {"commits", "turn"})

    with opened.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": ours})
        assert compare_metadata(context, METADATA) == []
    opened.dispose()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE audit SET detail = '{}' WHERE sequence = 2", "not changed"),
        ("DELETE FROM audit WHERE sequence = 3", "not deleted"),
        ("TRUNCATE audit", "not deleted"),
        ("TRUNCATE keys CASCADE", "never deleted"),
        ("TRUNCATE checkpoints, statements, addon_statements", "not deleted"),
        ("INSERT INTO audit SELECT writer, 9, at, actor, fingerprint, address, verb, outcome, addon, volume,"
         " host, detail, hash, hash FROM audit WHERE sequence = 3", "follows"),
        ("INSERT INTO audit SELECT writer, 4, at, actor, fingerprint, address, verb, outcome, addon, volume,"
         " host, detail, previous, hash FROM audit WHERE sequence = 3", "follows"),
        ("DELETE FROM keys", "never deleted"),
        ("UPDATE keys SET state = 'destroyed', wrapped = NULL", "only a retired key"),
        ("UPDATE keys SET wrapped = NULL", "ck_keys_kept"),
        ("UPDATE volumes SET stage = 'ready'", "ck_volumes_claimed"),
        ("UPDATE addons SET destroyed = '2026'", "is not destroyed"),
        ("UPDATE addon_keys SET master = 'nobody'", "not known"),
        ("DELETE FROM addon_keys", "newest key"),
        ("DELETE FROM master_keys", "never deleted"),
        ("UPDATE master_keys SET state = 'forgotten'", "wraps something"),
        ("DELETE FROM volumes", "foreign key"),
    ],
)  # fmt: skip
def test_the_database_itself_refuses_what_only_a_bug_would_do(
    filled_cluster: Cluster, postgres: PostgresServer, statement: str, says: str
) -> None:
    with (
        postgres.as_superuser(filled_cluster) as connection,
        pytest.raises(psycopg.IntegrityError, match=says),
    ):
        connection.execute(statement)


def test_a_refusal_does_not_say_what_is_in_the_row(filled_cluster: Cluster) -> None:
    store = PostgresStore(filled_cluster)
    with pytest.raises(KeybrokerError) as caught:
        store.write(lambda writing: writing.add_volume(ROW))
    store.close()
    assert caught.value.problem is Problem.CONFLICT
    assert ROW.volume.id not in caught.value.detail


@pytest.mark.parametrize("kept", ["on", "remote_apply"])
def test_a_commit_is_synchronous_whatever_the_role_says_and_stricter_if_it_says_so(
    cluster: Cluster, postgres: PostgresServer, kept: str
) -> None:
    with postgres.as_superuser(cluster) as connection:
        wanted = "off" if kept == "on" else kept
        connection.execute(
            f"ALTER ROLE broker IN DATABASE {connection.info.dbname} SET synchronous_commit = {wanted}"
        )
    opened = schema.engine(cluster)
    with opened.connect() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar() == kept
    opened.dispose()


def test_a_database_that_sorts_like_people_do_is_refused(postgres: PostgresServer, cluster: Cluster) -> None:
    with postgres.as_superuser(cluster) as connection:
        connection.execute(
            "CREATE DATABASE sorted OWNER broker TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de'"
            " LOCALE 'C'"
        )
        connection.execute(
            "CREATE DATABASE latin OWNER broker TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"
        )
    for place in (Cluster(postgres.uri("latin")), Cluster(postgres.uri("sorted"))):
        assert problem(partial(schema.create, place)) is Problem.CONFIGURATION


def test_a_database_with_tables_is_not_made_again(postgres: PostgresServer) -> None:
    there = postgres.with_tables()
    assert problem(lambda: schema.create(there)) is Problem.EXISTS
    schema.check(there)
    schema.upgrade(there)
    assert schema.revision(there) == schema.newest()


def together(*works: Callable[[], object]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def pair(filled_cluster: Cluster) -> Iterator[tuple[Store, Store]]:
    """Yield the stores of two brokers on one database."""
    one, other = PostgresStore(filled_cluster), PostgresStore(filled_cluster, Writer("b2"))
    yield one, other
    one.close()
    other.close()


def test_two_brokers_write_a_chain_each(pair: tuple[Store, Store]) -> None:
    def many(store: Store) -> Callable[[], None]:
        def work() -> None:
            for _ in range(25):
                store.write(lambda writing: writing.append(EVENT))

        return work

    together(*(many(store) for store in pair for _ in range(2)))
    assert verify(pair[0].audit_records())[0] == 53
    assert verify(pair[0].audit_records("b2"))[0] == 50
    assert len(pair[1].read(lambda reading: reading.heads())) == 2


def test_processes_of_one_name_do_not_fork_their_chain(filled_cluster: Cluster) -> None:
    stores = [PostgresStore(filled_cluster) for _ in range(3)]

    def many(store: Store) -> None:
        for _ in range(15):
            store.write(lambda writing: writing.append(EVENT))

    together(*(partial(many, store) for store in stores))
    assert verify(stores[0].audit_records())[0] == 48
    for store in stores:
        store.close()


def test_a_token_is_spent_once_where_two_brokers_are_asked_at_once(pair: tuple[Store, Store]) -> None:
    for number in range(10):
        token, host = f"{number:064x}", HostId(f"kbh-{number:012x}")
        invited = replace(ENROLMENT, token_hash=token, host=host)
        invite = methodcaller("add_host", replace(HOST, id=host), invited)
        pair[0].write(invite)
        spent: list[bool] = []

        def enrol(store: Store, which: int, host: HostId, token: str, spent: list[bool]) -> None:
            mine = replace(
                CERTIFICATE, fingerprint=f"{which}{token[1:]}", serial=f"{which}{token}", host=host
            )
            spent.append(store.write(lambda writing: writing.enrol_host(token, mine, NOW)))

        together(*(partial(enrol, store, which, host, token, spent) for which, store in enumerate(pair)))
        assert sorted(spent) == [False, True]


def test_of_two_brokers_that_change_one_revision_one_is_told_so(pair: tuple[Store, Store]) -> None:
    outcomes: list[str] = []

    def change(store: Store) -> None:
        row = replace(ROW, volume=replace(ROW.volume, revision=2))
        try:
            store.write(lambda writing: writing.change_volume(row, 1, {}, LATER))
            outcomes.append("changed")
        except KeybrokerError as error:
            outcomes.append(error.problem.slug)

    together(*(partial(change, store) for store in pair))
    assert sorted(outcomes) == ["changed", Problem.CONFLICT.slug]


def test_a_write_whose_connection_ends_is_done_once(
    filled_cluster: Cluster, postgres: PostgresServer
) -> None:
    store = PostgresStore(filled_cluster)
    tries: list[int] = []

    def work(writing: Writing) -> None:
        writing.append(EVENT)
        tries.append(1)
        if len(tries) == 1:
            postgres.end_connections(filled_cluster)

    store.write(work)
    assert len(tries) == 2
    assert store.read(lambda reading: reading.audit_head())[0] == 4
    store.close()


def test_a_reading_whose_connection_ends_is_done_again(
    filled_cluster: Cluster, postgres: PostgresServer
) -> None:
    store = PostgresStore(filled_cluster)
    assert store.read(lambda reading: reading.audit_head())[0] == 3
    postgres.end_connections(filled_cluster)
    assert store.read(lambda reading: reading.audit_head())[0] == 3
    store.close()


# Brokers on it


def here(root: Path, cluster: Cluster) -> Installation:
    return replace(installation(root), cluster=cluster)


def test_two_brokers_serve_one_installation(tmp_path: Path, cluster: Cluster) -> None:
    clock, chance = Clock(), random.Random(1)
    create(replace(plan(tmp_path), cluster=cluster), clock=clock, entropy=chance.randbytes)
    assert not (tmp_path / "var/keybroker.db").exists()
    one, other = (open_broker(here(tmp_path, cluster), clock=clock, entropy=chance.randbytes) for _ in "12")
    one.store.write(lambda writing: writing.append(EVENT))
    assert [entry.verb for entry in other.store.audit_records()] == ["init", "test"]
    one.close()
    other.close()


def test_a_broker_with_another_master_key_does_not_start(tmp_path: Path, cluster: Cluster) -> None:
    clock, chance = Clock(), random.Random(1)
    create(replace(plan(tmp_path), cluster=cluster), clock=clock, entropy=chance.randbytes)
    open_broker(here(tmp_path, cluster), clock=clock, entropy=chance.randbytes).close()
    key = tmp_path / "etc/master.key"
    key.chmod(0o600)
    key.write_bytes(bytes(32))
    key.chmod(0o400)
    with pytest.raises(KeybrokerError) as caught:
        open_broker(here(tmp_path, cluster), clock=clock, entropy=chance.randbytes)
    assert caught.value.problem is Problem.CONFIGURATION


def test_an_installation_is_not_made_over_another(tmp_path: Path, cluster: Cluster) -> None:
    clock, chance = Clock(), random.Random(1)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    create(replace(plan(tmp_path / "a"), cluster=cluster), clock=clock, entropy=chance.randbytes)
    again = replace(plan(tmp_path / "b"), cluster=cluster)
    assert problem(partial(create, again, clock=clock, entropy=chance.randbytes)) is Problem.EXISTS
    assert not (tmp_path / "b/etc").exists()


# A COMMIT whose outcome is not known


@pytest.fixture
def line(postgres: PostgresServer) -> Iterator[CutLine]:
    made = CutLine(postgres.home)
    yield made
    made.close()


@pytest.mark.parametrize("lost", ["question", "answer"])
def test_a_write_is_done_once_whatever_is_lost_of_its_commit(
    filled_cluster: Cluster, postgres: PostgresServer, line: CutLine, lost: Cut
) -> None:
    store = PostgresStore(Cluster(filled_cluster.uri.replace(str(postgres.home), str(line.home))))
    for number in range(5):
        line.cut = lost
        receipt = store.write(lambda writing: writing.append(EVENT))
        assert receipt[0] == 4 + number
    assert line.cuts == 5
    assert store.read(lambda reading: reading.audit_head()) == receipt
    assert verify(store.audit_records())[0] == 8
    store.close()


def test_a_server_that_stands_still_is_given_up_and_nothing_is_done_twice(
    filled_cluster: Cluster, postgres: PostgresServer
) -> None:
    store = PostgresStore(filled_cluster, patience=1.5, statement_seconds=0.5)
    store.write(lambda writing: writing.append(EVENT))
    postgres.stand_still()
    try:
        assert problem(lambda: store.write(lambda writing: writing.append(EVENT))) is Problem.UNAVAILABLE
    finally:
        postgres.go_on()
    store.write(lambda writing: writing.append(EVENT))
    assert verify(store.audit_records())[0] in (5, 6)  # what was in doubt may have come after all
    assert store.alive
    store.close()
