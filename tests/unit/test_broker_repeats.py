"""A host that is refused the same again and again: on record at once, and then counted; nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keybroker.audit import AuditEvent, AuditFilter
from keybroker.clerk import Clerk
from keybroker.service import inventory, provisioning, trail
from keybroker.service.repeats import AGAIN, MOST, Recording, Repeats
from keybroker.wire.messages import ClaimRequest
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.broker_house import Clock, House, device, luks2
from tests.unit.test_broker_deletions import Shop

REFUSED = AuditEvent(
    Clock.now, "spiffe://x", "ab", "192.0.2.1", "unlock", "refused", host="kbh-a", detail={"a": 1}
)


@pytest.fixture
def shop(house: House) -> Shop:
    return Shop(house)


def records(house: House, **only: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return outcome and detail of all records of a verb that are refusals or releases."""
    found = house.broker.store.read(lambda reading: reading.audit({}, 5000, AuditFilter(**only)))
    return [
        (entry.outcome, json.loads(entry.detail))
        for entry in found
        if entry.outcome in ("refused", "denied", "released")
    ]


def asks(shop: Shop) -> None:
    with pytest.raises(KeybrokerError) as caught:
        shop.house.unlock(shop.host, luks2(shop.record))
    assert caught.value.problem is Problem.DELETED


def test_a_host_of_an_add_on_that_is_to_go_leaves_a_record_an_hour_which_says_how_often_it_asked(
    shop: Shop,
) -> None:
    shop.delete_addon(20)
    before = len(records(shop.house, verb="unlock"))
    for _ in range(360):
        asks(shop)
        shop.house.clock.forward(seconds=10)
    assert len(records(shop.house, verb="unlock")) == before + 1
    began = shop.house.clock.now
    for _ in range(361):
        asks(shop)
        shop.house.clock.forward(seconds=10)
    told = [detail for _outcome, detail in records(shop.house, verb="unlock")[before:]]
    assert ["times" in each for each in told] == [False, True, True]
    assert told[1]["times"] == 360, "359 in between, and the one that it came with"
    assert told[1]["since"] == f"{began - timedelta(seconds=3590):%Y-%m-%dT%H:%M:%S.%fZ}"
    assert {each["problem"] for each in told} == {"deleted"}
    assert sum(each.get("times", 1) for each in told) == 721


def test_a_volume_that_is_to_go_is_recorded_once_and_what_is_released_beside_it_each_time(
    shop: Shop,
) -> None:
    more = shop.house.provision(shop.host, shop.house.volume(name="more"))
    shop.delete(20)
    before = len(records(shop.house, verb="unlock"))
    for _ in range(5):
        reply = shop.house.unlock(shop.host, luks2(shop.record), luks2(more))
        assert reply.receipt is not None
        assert [bool(grant.keys) for grant in reply.grants].count(True) == 1
        shop.house.clock.forward(seconds=10)
    said = [outcome for outcome, _detail in records(shop.house, verb="unlock")[before:]]
    assert (said.count("released"), said.count("refused")) == (5, 1)


def test_a_request_that_leaves_no_record_has_the_receipt_of_the_newest(shop: Shop) -> None:
    shop.delete(20)
    first = shop.house.unlock(shop.host, luks2(shop.record)).receipt
    second = shop.house.unlock(shop.host, luks2(shop.record)).receipt
    assert first == second
    head = shop.house.broker.store.read(lambda reading: reading.audit_head())
    assert first is not None
    assert (first.sequence, first.hash) == head


def test_another_reason_address_boot_or_volume_is_another_record(house: House) -> None:
    others = [
        replace(REFUSED, address="192.0.2.2"),
        replace(REFUSED, fingerprint="cd"),
        replace(REFUSED, volume="kbv-a"),
        replace(REFUSED, host="kbh-b"),
        replace(REFUSED, verb="claim"),
        replace(REFUSED, outcome="denied"),
        replace(REFUSED, detail={"a": 2}),
    ]
    with Repeats().recording() as recording:
        assert recording.pick([REFUSED, *others, *others]) == (REFUSED, *others)


@pytest.mark.parametrize(
    "event",
    [
        replace(REFUSED, outcome="released"),
        replace(REFUSED, outcome="done"),
        replace(REFUSED, host=None),
        replace(REFUSED, verb="volume.reveal"),
    ],
)
def test_what_is_released_or_done_and_what_no_good_host_repeats_is_on_record_each_time(
    event: AuditEvent,
) -> None:
    repeats = Repeats()
    for _ in range(3):
        with repeats.recording() as recording:
            assert recording.pick([event, event]) == (event, event)


def later(seconds: float) -> AuditEvent:
    return replace(REFUSED, at=REFUSED.at + timedelta(seconds=seconds))


def times(events: tuple[AuditEvent, ...]) -> list[int | None]:
    return [event.detail.get("times") for event in events]


def cut(repeats: Repeats, work: Callable[[Recording], None]) -> None:
    """Run a transaction that fails after its records were picked."""

    def run() -> None:
        with repeats.recording() as recording:
            work(recording)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()


def test_a_record_that_could_not_be_written_is_made_by_the_next_refusal() -> None:
    repeats = Repeats()

    def first(recording: Recording) -> None:
        assert times(recording.pick([REFUSED])) == [None]
        with repeats.recording() as another:
            assert another.pick([later(1)]) == (), "it comes while the first is being written"

    cut(repeats, first)
    with repeats.recording() as recording:
        assert times(recording.pick([later(2)])) == [2]


def test_whoever_was_told_that_the_database_is_not_there_was_not_refused() -> None:
    repeats = Repeats()
    with repeats.recording() as recording:
        recording.pick([REFUSED])

    def again(recording: Recording) -> None:
        assert recording.pick([later(3)]) == ()
        assert recording.pick([later(3)]) == (), "a transaction that is run again counts once"

    cut(repeats, again)
    with repeats.recording() as recording:
        assert recording.pick_counted(later(4).at, at_once=True) == ()


def test_what_was_counted_and_written_meanwhile_is_not_taken_back() -> None:
    repeats = Repeats()
    with repeats.recording() as recording:
        recording.pick([REFUSED])

    def again(recording: Recording) -> None:
        assert recording.pick([later(4)]) == ()
        with repeats.recording() as another:
            assert times(another.pick_counted(later(5).at, at_once=True)) == [1]

    cut(repeats, again)
    with repeats.recording() as recording:
        assert recording.pick([later(6)]) == ()
    with repeats.recording() as recording:
        assert times(recording.pick_counted(later(9).at, at_once=True)) == [1]


def test_counts_that_could_not_be_written_are_kept() -> None:
    repeats = Repeats()
    with repeats.recording() as recording:
        recording.pick([REFUSED, later(1), later(2)])
    over = REFUSED.at + AGAIN

    def write(recording: Recording) -> None:
        assert times(recording.pick_counted(over)) == [2]

    cut(repeats, write)
    with repeats.recording() as recording:
        (told,) = recording.pick_counted(over)
    assert told.detail == {"a": 1, "times": 2, "since": "2026-01-01T12:00:01.000000Z"}
    assert told.at == over
    with repeats.recording() as recording:
        assert recording.pick_counted(over) == ()


def test_a_clock_that_is_set_back_makes_another_record() -> None:
    repeats = Repeats()
    with repeats.recording() as recording:
        assert len(recording.pick([later(10_000)])) == 1
        assert times(repeats.recording().pick([later(0)])) == [None]


def test_no_more_than_so_many_are_remembered_and_what_is_not_is_on_record() -> None:
    repeats = Repeats()
    many = [replace(REFUSED, host=f"kbh-{number}") for number in range(MOST)]
    with repeats.recording() as recording:
        assert len(recording.pick(many)) == MOST
    with repeats.recording() as recording:
        assert recording.pick([REFUSED, REFUSED, many[0]]) == (REFUSED, REFUSED)
    with repeats.recording() as recording:
        assert times(recording.pick_counted(REFUSED.at + AGAIN)) == [1]
    with repeats.recording() as recording:
        assert recording.pick([REFUSED, REFUSED]) == (REFUSED,), (
            "those that do not come any more are forgotten"
        )


def test_counts_are_written_down_after_an_hour_and_at_the_end(shop: Shop) -> None:
    broker = shop.house.broker
    shop.delete_addon(20)
    for _ in range(4):
        asks(shop)
    trail.write_counted(broker)
    assert [detail.get("times") for _o, detail in records(shop.house, verb="unlock")][-1] is None
    trail.write_counted(broker, at_once=True)
    outcome, detail = records(shop.house, verb="unlock")[-1]
    assert (outcome, detail["times"], detail["problem"]) == ("denied", 3, "deleted")
    asks(shop)
    shop.house.clock.forward(hours=1)
    trail.write_counted(broker)
    assert records(shop.house, verb="unlock")[-1][1]["times"] == 1


def test_who_asks_too_often_or_is_turned_away_is_counted_too(shop: Shop) -> None:
    broker, house = shop.house.broker, shop.house
    record = house.volume(name="more")
    inventory.revoke(broker, house.operator, shop.host.identity.name, "sold")
    for _ in range(5):
        with pytest.raises(KeybrokerError):
            provisioning.claim(broker, shop.host, record.volume, ClaimRequest(1, device(record)))
    assert [outcome for outcome, _d in records(house, verb="claim")].count("denied") == 1


def test_a_graceful_stop_writes_the_counts_down_before_the_last_checkpoint(
    shop: Shop, tmp_path: Path
) -> None:
    shop.delete_addon(20)
    for _ in range(4):
        asks(shop)
    clerk = Clerk(shop.house.broker, None, tmp_path / "audit.copied")
    clerk.start()
    clerk.stop()
    assert records(shop.house, verb="unlock")[-1][1]["times"] == 3
    verdict = trail.proofread(shop.house.broker.store)
    assert verdict.of().covered == verdict.of().last
