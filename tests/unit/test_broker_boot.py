"""A boot gets its own add-on's keys, and no key leaves without a durable record of it."""

from __future__ import annotations

import re
import resource
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from keybroker.audit import verify
from keybroker.service import boot, inventory, policies, provisioning
from keybroker.terms import Change
from keybroker.wire.messages import ClaimRequest
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin
from keybroker.wire.receipt import Receipt
from tests.contract.broker_house import House, blank, device, luks2, request


def problem_of(house: House, *seen: object) -> Problem:
    with pytest.raises(KeybrokerError) as caught:
        house.unlock(*seen)  # type: ignore[arg-type]
    return caught.value.problem


def test_a_host_gets_the_keys_of_its_own_add_on_and_of_no_other(house: House) -> None:
    for name in ("shop-db", "blog-db"):
        house.addon(name)
        house.volume(name, "data")
        house.volume(name, "wal")
    replies = {}
    for name in ("shop-db", "blog-db"):
        peer, certified = house.enrol(name)
        ready = [house.provision(peer, record) for record in certified.records]
        replies[name] = house.unlock(peer, *(luks2(record) for record in ready))
    seen = set()
    for name, reply in replies.items():
        assert reply.addon == name
        assert [grant.record.name for grant in reply.grants] == ["data", "wal"]
        for grant in reply.grants:
            assert grant.record.addon == name
            assert grant.refused is None
            assert list(grant.keys) == [1]
            seen.add(grant.keys[grant.record.current].reveal())  # type: ignore[index]
    assert len(seen) == 4, "two volumes have the same passphrase"
    assert all(re.fullmatch(rb"[A-Za-z0-9_-]{43}", passphrase) for passphrase in seen)


def test_the_key_is_the_same_from_the_claim_on(house: House) -> None:
    house.addon()
    record = house.volume()
    peer, _certified = house.enrol()
    claimed = provisioning.claim(house.broker, peer, record.volume, ClaimRequest(1, device(record)))
    assert house.unlock(peer, blank(record)).grants[0].keys == claimed.keys
    ready = house.provision(peer, record)
    assert house.unlock(peer, luks2(ready)).grants[0].keys == claimed.keys


def test_a_refused_volume_does_not_stop_the_others(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    good, bad, unseen = (house.provision(peer, house.volume(name=name)) for name in ("a", "b", "c"))
    stranger = Pin(bad.luks_uuid, "sha256:" + "ef" * 32, 4 << 20, 4096)
    reply = house.unlock(peer, luks2(good), luks2(bad, pin=stranger))
    by_id = {grant.record.volume: grant for grant in reply.grants}
    assert by_id[good.volume].keys
    assert not by_id[bad.volume].keys
    refused = by_id[bad.volume].refused
    assert refused is not None
    assert refused.problem is Problem.HEADER_REFUSED
    assert (by_id[unseen.volume].keys, by_id[unseen.volume].refused) == ({}, None)
    assert house.audit()[-2:] == [
        ("unlock", "released", good.volume),
        ("unlock", "refused", bad.volume),
    ]


def test_the_receipt_is_the_last_record_and_the_chain_verifies(house: House) -> None:
    house.addon()
    peer, certified = house.enrol()
    assert certified.records == ()
    empty = house.unlock(peer)
    assert house.broker.store.read(lambda reading: Receipt(*reading.audit_head())) == empty.receipt
    ready = house.provision(peer, house.volume())
    full = house.unlock(peer, luks2(ready))
    assert Receipt(*verify(house.broker.store.audit_records())) == full.receipt


def test_an_older_or_degraded_header_boots_and_the_record_says_so(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    record = house.provision(peer, house.volume())
    assert house.unlock(peer, luks2(record, sequence=2, degraded=True)).grants[0].keys
    entry = list(house.broker.store.audit_records())[-1]
    assert entry.as_json()["detail"] == {
        "boot": "00000000-0000-4000-8000-000000000000",
        "notes": ["older header: sequence 2, known is 3", "one copy of the header is damaged"],
        "versions": [1],
    }


def test_a_boot_takes_the_same_few_statements_whatever_the_number_of_volumes(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    ready = [house.provision(peer, house.volume(name=f"data{i}")) for i in range(8)]
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        said.append(statement.split()[0])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        house.unlock(peer, *(luks2(record) for record in ready))
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    # twice who asks and which boot that is; the volumes, keys, what is withheld, the writer and its head
    assert said.count("SELECT") == 9
    assert said.count("INSERT") == 2
    assert said.count("COMMIT") == 1


def test_another_add_on_s_volume_in_a_request_gives_nothing_and_is_on_record(house: House) -> None:
    house.addon()
    house.addon("blog-db")
    foreign = house.volume("blog-db")
    peer, _certified = house.enrol()
    assert house.unlock(peer, blank(foreign)).grants == ()
    entry = list(house.broker.store.audit_records())[-1]
    assert foreign.volume in entry.detail


def test_a_volume_whose_stored_key_was_tampered_with_is_refused_alone(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    one, two = (house.provision(peer, house.volume(name=name)) for name in ("one", "two"))
    house.broker.close()
    with closing(sqlite3.connect(house.installation.database)) as database, database:
        # the other volume's blob, moved into this one's row
        database.execute(
            "UPDATE keys SET wrapped = (SELECT wrapped FROM keys WHERE volume = ?) WHERE volume = ?",
            (two.volume, one.volume),
        )
    house.broker = house.open()
    first, second = house.unlock(peer, luks2(one), luks2(two)).grants
    assert first.refused is not None
    assert first.refused.problem is Problem.CORRUPT
    assert "commitment failure" in first.refused.detail
    assert (first.keys, list(second.keys)) == ({}, [1])


@pytest.mark.parametrize("statement", [
    "UPDATE volumes SET luks_uuid = 'ffffffff-0000-4000-8000-000000000000'",
    "UPDATE addon_keys SET wrapped = zeroblob(154)",
    "UPDATE addon_keys SET id = zeroblob(16)",
])  # fmt: skip
def test_a_row_that_was_changed_behind_our_back_opens_nothing(house: House, statement: str) -> None:
    house.addon()
    peer, _certified = house.enrol()
    record = house.volume()
    provisioning.claim(house.broker, peer, record.volume, ClaimRequest(1, device(record)))
    house.broker.close()
    with closing(sqlite3.connect(house.installation.database)) as database, database:
        database.execute(statement)
    house.broker = house.open()
    (grant,) = house.unlock(peer, blank(record)).grants
    assert grant.refused is not None
    assert (grant.refused.problem, grant.keys) == (Problem.CORRUPT, {})


def test_an_operator_gets_no_keys(house: House) -> None:
    assert problem_of(house, house.operator) is Problem.NOT_ALLOWED


def test_a_revoked_host_gets_nothing_and_its_attempt_is_on_record(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    record = house.provision(peer, house.volume())
    assert house.unlock(peer, luks2(record)).grants[0].keys
    inventory.revoke(house.broker, house.operator, peer.identity.name, "returned")
    assert problem_of(house, peer, luks2(record)) is Problem.REVOKED
    assert house.audit()[-1] == ("unlock", "denied", None)


def test_a_certificate_of_our_own_ca_that_is_not_recorded_is_nobody(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    stranger = type(peer)(peer.identity, "ab" * 32, peer.address)
    assert problem_of(house, stranger) is Problem.NO_IDENTITY


def test_a_host_cannot_use_another_host_s_certificate_under_its_own_name(house: House) -> None:
    house.addon()
    house.addon("blog-db")
    one, _certified = house.enrol()
    two, _certified = house.enrol("blog-db")
    mixed = type(one)(one.identity, two.fingerprint, one.address)
    assert problem_of(house, mixed) is Problem.NO_IDENTITY


def test_a_certificate_ends_by_the_broker_s_clock(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    house.clock.forward(days=89)
    house.unlock(peer)
    house.clock.forward(days=2)
    assert problem_of(house, peer) is Problem.CERTIFICATE


@contextmanager
def no_file_grows_beyond(size: int) -> Iterator[None]:
    """Make the kernel refuse writes past ``size`` bytes of any file (RLIMIT_FSIZE, setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_key_leaves_while_the_record_cannot_be_written(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    record = house.provision(peer, house.volume())
    before = house.audit()
    wal = Path(f"{house.installation.database}-wal")
    with no_file_grows_beyond(wal.stat().st_size):
        assert problem_of(house, peer, luks2(record)) is Problem.UNAVAILABLE
    assert house.audit() == before
    assert house.unlock(peer, luks2(record)).grants[0].keys
    assert verify(house.broker.store.audit_records())[0] == len(before) + 1


def test_no_key_leaves_while_the_database_is_held_by_another(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    record = house.provision(peer, house.volume())
    with closing(sqlite3.connect(house.installation.database)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        assert problem_of(house, peer, luks2(record)) is Problem.UNAVAILABLE
        other.execute("ROLLBACK")
    assert house.unlock(peer, luks2(record)).grants[0].keys


def test_after_a_revocation_returned_no_boot_gets_a_key_however_many_are_under_way(
    house: House,
) -> None:
    house.addon()
    policies.change(house.broker, house.operator, "shop-db", Change(rate=0))
    peer, _certified = house.enrol()
    record = house.provision(peer, house.volume())
    revoked = threading.Event()
    late: list[int] = []

    def boots() -> None:
        while True:
            began_revoked = revoked.is_set()
            try:
                boot.unlock(house.broker, peer, request(luks2(record)))
            except KeybrokerError as error:
                assert error.problem is Problem.REVOKED
                return
            if began_revoked:
                late.append(1)

    threads = [threading.Thread(target=boots) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    inventory.revoke(house.broker, house.operator, peer.identity.name, "stolen")
    revoked.set()
    for thread in threads:
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in threads)
    assert late == []
    verbs = [(entry.verb, entry.outcome) for entry in house.broker.store.audit_records()]
    at = verbs.index(("host.revoke", "done"))
    assert ("unlock", "released") not in verbs[at:]


def test_many_boots_at_once_share_commits_and_each_has_its_own_record(house: House) -> None:
    house.addon()
    policies.change(house.broker, house.operator, "shop-db", Change(rate=0))
    peer, _certified = house.enrol()
    record = house.provision(peer, house.volume())
    receipts: list[Receipt] = []

    def boots() -> None:
        for _ in range(20):
            reply = boot.unlock(house.broker, peer, request(luks2(record)))
            receipts.append(reply.receipt)

    threads = [threading.Thread(target=boots) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(set(receipts)) == 240
    entries = {entry.sequence: entry.hash for entry in house.broker.store.audit_records()}
    assert all(entries[receipt.sequence] == receipt.hash for receipt in receipts)
    verify(house.broker.store.audit_records())
