"""Two brokers on one database: each has a chain of its own, and nothing is done twice or lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TypeVar

import pytest

from keybroker import cursor
from keybroker.audit import AuditEvent, AuditFilter, verify
from keybroker.checkpoint import Checkpoint
from keybroker.service import (
    boot,
    endings,
    enrolment,
    health,
    inventory,
    masters,
    reports,
    rewrap,
    setback,
    trail,
)
from keybroker.service.broker import Broker
from keybroker.service.installation import open_broker
from keybroker.store import Writing
from keybroker.wire.messages import Certified, EnrolmentRequest
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import MAIN, Receipt
from keybroker.wire.reports import ReportRequest
from tests.contract.broker_house import House, csr, luks2, request
from tests.unit.test_broker_masters import configure, new_file

T = TypeVar("T")

REPORT = ReportRequest("00000000-0000-4000-8000-000000000000", "0" * 32, "0.1.0", ())


def beside(house: House, writer: str, entropy: Callable[[int], bytes] | None = None) -> Broker:
    """Open another broker on the house's database, as one that serves in a name."""
    settings = replace(house.installation.settings, writer=writer)
    installation = replace(house.installation, settings=settings)
    made = open_broker(
        installation, clock=house.clock, entropy=entropy or house.random.randbytes, serves=True
    )
    trail.take_name(made)
    return made


@pytest.fixture
def second(house: House) -> Iterator[Broker]:
    opened = beside(house, "b2")
    yield opened
    opened.close()


def record(broker: Broker, count: int = 1) -> tuple[int, str]:
    event = AuditEvent(broker.clock(), "local", "", "local", "test", "done")
    return broker.store.write(lambda writing: writing.append(*[event] * count))


def at_once(*works: Callable[[], T]) -> list[T | KeybrokerError]:
    """Run works in threads that begin in the same moment; return what each came to."""
    start, outcomes = threading.Barrier(len(works)), dict[int, T | KeybrokerError]()

    def run(number: int) -> None:
        start.wait(20)
        try:
            outcomes[number] = works[number]()
        except KeybrokerError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [outcomes[number] for number in range(len(works))]


def problem(ask: Callable[[], object]) -> KeybrokerError:
    with pytest.raises(KeybrokerError) as caught:
        ask()
    return caught.value


def test_each_writes_its_own_chain_and_a_checkpoint_of_either_vouches_for_both(
    house: House, second: Broker
) -> None:
    first = house.broker
    record(first, 3)
    record(second, 5)
    begun = next(second.store.audit_records())
    assert (begun.writer, begun.sequence, begun.verb) == ("b2", 1, "audit.begin")
    made = trail.sign_checkpoint(second)
    assert made is not None
    assert made.place == {"b2": 6, MAIN: 4}
    record(first)
    following = trail.sign_checkpoint(first, at_once=True)
    assert following is not None
    assert (following.number, following.previous, following.place) == (2, made.hash, {"b2": 6, MAIN: 5})
    verdict = trail.proofread(first.store)
    assert verdict == trail.proofread(second.store)
    assert [(chain.writer, chain.last, chain.covered) for chain in verdict.chains] == [
        ("b2", 6, 6),
        (MAIN, 5, 5),
    ]
    standing = trail.standing(second)
    assert (standing.records, standing.unsigned) == (11, 0)


def test_under_load_neither_chain_has_a_gap_and_no_checkpoint_is_signed_twice(
    house: House, second: Broker
) -> None:
    signed: list[Checkpoint] = []

    def work(broker: Broker) -> None:
        for _ in range(25):
            record(broker)
            made = trail.sign_checkpoint(broker, at_once=True)
            if made is not None:
                signed.append(made)

    assert (
        at_once(*[lambda broker=broker: work(broker) for broker in (house.broker, second) * 2]) == [None] * 4
    )
    numbers = [made.number for made in signed]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    verdict = trail.proofread(second.store)
    assert (verdict.of("b2").last, verdict.of().last) == (51, 51)
    assert verdict.checkpoints == len(numbers)


def test_whoever_follows_the_trail_misses_no_record_of_either(house: House, second: Broker) -> None:
    done = threading.Event()

    def write(broker: Broker) -> None:
        for _ in range(60):
            record(broker)

    def follow() -> list[tuple[str, int]]:
        seen, place = [], dict[str, int]()
        while True:
            was_done = done.is_set()
            page = trail.records(house.broker, house.operator, place, 7)
            seen += [(entry.writer, entry.sequence) for entry in page.records]
            # as a client has it, between two requests
            place = cursor.parse(cursor.text_of(page.through))
            if was_done and not page.records:
                return seen

    def both() -> list[tuple[str, int]]:
        at_once(lambda: write(house.broker), lambda: write(second))
        done.set()
        return []

    seen, _ = at_once(follow, both)
    assert not isinstance(seen, KeybrokerError)
    for writer in (MAIN, "b2"):
        assert [sequence for one, sequence in seen if one == writer] == list(range(1, 62))


def test_the_last_records_are_those_of_both_and_one_chain_can_be_asked_for(
    house: House, second: Broker
) -> None:
    for _ in range(4):
        for broker in (house.broker, second):
            house.clock.forward(seconds=1)
            record(broker)
    page = trail.records(house.broker, house.operator, None, 3)
    assert [entry.name for entry in page.records] == ["b2/4", "5", "b2/5"]
    assert page.through == {"b2": 5, MAIN: 5}
    only = AuditFilter(writer="b2")
    page = trail.records(house.broker, house.operator, {"b2": 2}, 2, only)
    assert [entry.name for entry in page.records] == ["b2/3", "b2/4"]
    assert trail.records(house.broker, house.operator, {"b2": 4}, 2, only).through == {"b2": 5, MAIN: 5}


def test_a_receipt_of_either_is_good_at_both_and_one_that_is_lost_is_told_by_both(
    house: House, second: Broker
) -> None:
    house.addon()
    peer, _ = house.enrol()
    volume = house.provision(peer, house.volume())
    for broker, other in ((house.broker, second), (second, house.broker)):
        held = boot.unlock(broker, peer, request(luks2(volume))).receipt
        assert held.writer == broker.store.read(lambda reading: reading.writer)
        reports.report(other, peer, replace(REPORT, receipt=held))
        # an agent of before there were several writers leaves it out
        reports.report(other, peer, replace(REPORT, receipt=replace(held, writer=MAIN)))
    assert not house.broker.store.read(setback.standing).is_open
    reports.report(second, peer, replace(REPORT, receipt=Receipt(3, "ab" * 32, "b2")))
    assert house.broker.store.read(setback.standing).is_open


def test_a_report_that_says_nothing_new_brings_a_receipt_of_a_broker_that_has_just_begun(
    house: House, second: Broker
) -> None:
    house.addon()
    peer, _ = house.enrol()
    receipt = reports.report(second, peer, REPORT).receipt
    assert receipt is not None
    assert (receipt.writer, receipt.sequence) == ("b2", 1)


def test_of_two_with_one_name_the_later_writes_and_the_former_says_why_it_does_not(
    house: House, second: Broker
) -> None:
    record(second)
    health.ready(second)
    again = beside(house, "b2")
    try:
        refused = problem(lambda: record(second))
        assert refused.problem is Problem.UNAVAILABLE
        assert "another process has taken the name of this broker, b2" in refused.detail
        assert refused.hint is not None
        assert 'writer = "b2-2"' in refused.hint
        assert problem(lambda: health.ready(second)).problem is Problem.UNAVAILABLE
        assert problem(lambda: inventory.put_addon(second, house.operator, "shop", "postgresql"))
        assert record(again)[0] == 3
        health.ready(again)
    finally:
        again.close()
    # verbs at the broker's own machine write beside it, and take no name
    assert record(house.broker)[0] == 2
    assert verify(second.store.audit_records())[0] == 3
    assert trail.proofread(house.broker.store).records == 5


def test_a_token_that_both_are_given_at_once_is_spent_once(house: House, second: Broker) -> None:
    house.addon()
    for _ in range(6):
        token = inventory.invite(house.broker, house.operator, "shop-db").token
        asked = [
            partial(enrolment.enrol, broker, "192.0.2.1", EnrolmentRequest(token, csr()))
            for broker in (house.broker, second)
        ]
        outcomes = at_once(*asked)
        assert sum(isinstance(outcome, Certified) for outcome in outcomes) == 1, outcomes
    hosts = house.broker.store.read(lambda reading: reading.hosts("shop-db"))
    assert len(hosts) == 6
    assert trail.proofread(house.broker.store).records


def test_a_key_that_both_find_due_is_destroyed_once_with_one_statement(house: House, second: Broker) -> None:
    house.addon()
    peer, _ = house.enrol()
    volume = house.provision(peer, house.volume())
    house.rotated(peer, volume.volume, 9)
    house.clock.forward(days=40)
    destroyed = at_once(lambda: list(endings.sweep(house.broker)), lambda: list(endings.sweep(second)))
    assert sorted(map(len, destroyed)) == [0, 1]  # type: ignore[arg-type]
    statements = house.broker.store.read(lambda reading: reading.statements(volume.volume))
    assert len(statements) == 1
    page = trail.records(house.broker, house.operator, {}, 1000, AuditFilter(verb="destroy"))
    assert len(page.records) == 1


def test_a_master_key_that_one_was_told_to_use_is_used_by_the_other_too(house: House) -> None:
    house.addon()
    peer, _ = house.enrol()
    volume = house.provision(peer, house.volume())
    uri = new_file(house, "other.key")
    configure(house, uri, *house.installation.master_keys)
    house.reopen()
    second = beside(house, "b2")
    try:
        before = second.masterkey.identity
        view = masters.rotate(house.broker, house.operator, uri)
        rewrap.advance(house.broker, lambda: False)
        # what the other meets first is wrapped by a key that it had no reason to hold
        reply = boot.unlock(second, peer, request(luks2(volume)))
        assert reply.grants[0].keys
        assert second.masterkey.identity == house.broker.masterkey.identity != before
        assert not masters.keep_up(second)
        masters.forget(house.broker, house.operator, before, backups_gone=True)
        assert masters.keep_up(second)
        assert second.masterkey.identities == {second.masterkey.identity}
        assert len(view.rows) == 2
    finally:
        second.close()


def test_a_broker_that_has_not_the_master_key_says_so_and_releases_what_it_can(
    house: House, second: Broker
) -> None:
    """Its configuration was read before the new key was named anywhere."""
    house.addon()
    uri = new_file(house, "other.key")
    first = house.installation.master_keys
    configure(house, uri, *first)
    house.reopen()
    masters.rotate(house.broker, house.operator, uri)
    assert house.broker.masterkey.identity != second.masterkey.identity
    refused = problem(lambda: masters.keep_up(second))
    assert refused.problem is Problem.CONFIGURATION
    assert "is not configured, and the database needs it" in refused.detail


def test_a_checkpoint_that_another_has_just_signed_is_no_error(house: House, second: Broker) -> None:
    """PostgreSQL shows the other's only when ours is refused; here it comes between looking and writing."""
    record(house.broker)
    write = second.store.write

    class Overtaken:
        def __init__(self) -> None:
            self.read = second.store.read

        def write(self, work: Callable[[Writing], T]) -> T:
            trail.sign_checkpoint(house.broker, at_once=True)
            write(
                lambda writing: writing.append(AuditEvent(second.clock(), "local", "", "local", "x", "done"))
            )
            raise KeybrokerError(Problem.CONFLICT, "database: checkpoints.number is there")

    overtaken = replace(second, store=Overtaken())  # type: ignore[arg-type]
    assert trail.sign_checkpoint(overtaken, at_once=True) is None
    house.clock.forward(seconds=61)
    assert trail.sign_checkpoint(second) is not None
