"""Break-glass: on record before it leaves, for approvers alone, and rotated for that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from keybroker.audit import AuditEntry
from keybroker.service import orders, revealing
from keybroker.service.views import OrderSpec
from keybroker.store import Writing
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.broker_house import House


@pytest.fixture
def volume(house: House) -> VolumeId:
    house.addon()
    peer, _ = house.enrol()
    volume = house.provision(peer, house.volume()).volume
    house.rotated(peer, volume, 12)
    return volume


def show(house: House, reason: str = "INC-4711", **options: object) -> revealing.Revealed:
    return revealing.reveal(house.broker, house.operator, "shop-db", "data", reason, **options)  # type: ignore[arg-type]


def refused(call: Callable[[], object]) -> KeybrokerError:
    with pytest.raises(KeybrokerError) as caught:
        call()
    return caught.value


def last(house: House) -> AuditEntry:
    return list(house.broker.store.audit_records())[-1]


def test_the_current_passphrase_is_shown_and_who_asked_and_why_is_on_record(
    house: House, volume: VolumeId
) -> None:
    shown = show(house, "INC-4711: the VM is gone")
    assert (shown.version, shown.passphrase) == (2, house.keys(volume)[KeyVersion(2)])
    entry = last(house)
    assert (entry.verb, entry.outcome, entry.volume) == ("volume.reveal", "released", volume)
    assert entry.actor.endswith("/operator/alice")
    assert "INC-4711: the VM is gone" in entry.detail
    assert shown.passphrase.reveal().decode() not in entry.detail
    assert shown.passphrase.reveal().decode() not in repr(shown)


def test_a_record_that_cannot_be_written_keeps_the_passphrase_in(house: House, volume: VolumeId) -> None:
    def fail(writing: Writing) -> None:
        writing._connection.exec_driver_sql(  # type: ignore[attr-defined]
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )

    house.broker.store.write(fail)
    with pytest.raises(KeybrokerError):
        show(house)
    assert house.broker.store.read(lambda reading: reading.reveals()) == []


def test_a_version_that_is_kept_can_be_asked_for_and_no_other(house: House, volume: VolumeId) -> None:
    assert show(house, version=KeyVersion(1)).passphrase == house.keys(volume)[KeyVersion(1)]
    assert refused(lambda: show(house, version=KeyVersion(3))).problem is Problem.UNKNOWN


@pytest.mark.parametrize("reason", ["", "x" * 501, "two\nlines"])
def test_it_takes_a_reason(house: House, volume: VolumeId, reason: str) -> None:
    assert refused(lambda: show(house, reason)).problem is Problem.MALFORMED
    assert refused(lambda: show(house, hours=721)).problem is Problem.MALFORMED


def test_swap_has_nothing_to_show(house: House) -> None:
    house.addon()
    house.volume(name="data", filesystem="swap")
    assert refused(lambda: show(house)).problem is Problem.UNKNOWN


def test_after_its_time_another_passphrase_is_wanted_once(house: House, volume: VolumeId) -> None:
    show(house)
    show(house, hours=48)
    house.clock.forward(hours=23)
    assert revealing.sweep(house.broker) == ()
    assert house.record(volume).wanted == 2
    house.clock.forward(hours=1)
    assert revealing.sweep(house.broker) == (volume,)
    assert house.record(volume).wanted == 3
    assert revealing.sweep(house.broker) == ()
    entry = last(house)
    assert (entry.verb, entry.actor) == ("volume.rotate", "broker")
    assert "was shown to alice" in entry.detail


def test_one_that_is_not_current_any_more_needs_no_rotation(house: House, volume: VolumeId) -> None:
    show(house, version=KeyVersion(1), hours=0)
    assert revealing.sweep(house.broker) == ()
    assert house.record(volume).wanted == 2
    (kept,) = house.broker.store.read(lambda reading: reading.reveals(volume))
    assert kept.rotated is not None


def test_where_it_cannot_be_rotated_now_it_is_tried_again(house: House, volume: VolumeId) -> None:
    show(house, hours=0)
    row = house.broker.store.read(lambda reading: reading.volume(volume))
    assert row is not None

    def change(role: str) -> None:
        def work(writing: Writing) -> None:
            now = writing.volume(volume)
            assert now is not None
            changed = replace(now.volume, role=role, revision=now.volume.revision + 1)  # type: ignore[arg-type]
            writing.change_volume(replace(now, volume=changed), now.volume.revision, {}, house.clock.now)

        house.broker.store.write(work)

    change("former")
    assert revealing.sweep(house.broker) == ()
    change("holder")
    assert revealing.sweep(house.broker) == (volume,)


def test_an_order_that_is_open_does_not_stand_in_its_way(house: House, volume: VolumeId) -> None:
    show(house, hours=0)
    orders.order(house.broker, house.operator, "shop-db", "data", OrderSpec("resize"))
    assert revealing.sweep(house.broker) == (volume,)
