"""A rotation as the broker sees it: each call, its repetition, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from keybroker.policy import Peer
from keybroker.service import endings, inventory, orders, provisioning, reports, rotation
from keybroker.wire.changes import PromoteRequest, StageRequest
from keybroker.wire.messages import DepositRequest
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Refusal
from keybroker.wire.reports import ReportRequest, VolumeReport
from keybroker.wire.secret import Secret
from tests.contract.broker_house import House, header, luks2

ONE, TWO = KeyVersion(1), KeyVersion(2)


def problem(ask: Callable[[], object]) -> Problem:
    with pytest.raises(KeybrokerError) as caught:
        ask()
    return caught.value.problem


@pytest.fixture
def peer(house: House) -> Peer:
    house.addon()
    record = house.volume()
    peer, _ = house.enrol()
    house.provision(peer, record)
    return peer


@pytest.fixture
def data(house: House, peer: Peer) -> VolumeId:
    return inventory.volume(house.broker, house.operator, "shop-db", "data").record.volume


def wanted(house: House) -> int:
    view, changed = orders.rotate(house.broker, house.operator, "shop-db", "data")
    assert changed
    return view.record.revision


def test_a_rotation_from_the_wish_to_the_end_is_on_record(house: House, peer: Peer, data: VolumeId) -> None:
    record = house.rotated(peer, data, 7)
    assert (record.current, record.wanted, record.staged, record.retiring) == (2, 2, None, None)
    assert record.sequence == 7
    said = [(verb, outcome) for verb, outcome, volume in house.audit() if volume == data][-6:]
    assert said == [
        ("volume.rotate", "done"),
        ("stage", "released"),
        ("backup", "done"),
        ("promote", "done"),
        ("backup", "done"),
        ("retire", "done"),
    ]


def test_a_rotation_that_is_under_way_is_not_asked_for_twice(house: House, data: VolumeId) -> None:
    revision = wanted(house)
    view, changed = orders.rotate(house.broker, house.operator, "shop-db", "data")
    assert (view.record.revision, changed) == (revision, False)


def test_staging_again_gives_the_very_same_key(house: House, peer: Peer, data: VolumeId) -> None:
    revision = wanted(house)
    first = rotation.stage(house.broker, peer, data, StageRequest(revision))
    again = rotation.stage(house.broker, peer, data, StageRequest(revision))
    assert first.record == again.record
    assert set(first.keys) == {ONE, TWO}
    assert [key.reveal() for key in first.keys.values()] == [key.reveal() for key in again.keys.values()]


def test_nothing_is_staged_that_nobody_wants_or_at_another_revision(
    house: House, peer: Peer, data: VolumeId
) -> None:
    revision = house.record(data).revision
    assert (
        problem(lambda: rotation.stage(house.broker, peer, data, StageRequest(revision))) is Problem.CONFLICT
    )
    wanted(house)
    assert (
        problem(lambda: rotation.stage(house.broker, peer, data, StageRequest(revision))) is Problem.CONFLICT
    )


def test_a_promotion_takes_a_proof_of_the_staged_key_and_nothing_else(
    house: House, peer: Peer, data: VolumeId
) -> None:
    staged = rotation.stage(house.broker, peer, data, StageRequest(wanted(house))).record
    seen = replace(header(staged), sequence=5)
    good = house.proof(data, 2, seen)
    for bad in (
        replace(good, proof="0" * 64),
        replace(good, sequence=6),
        replace(house.proof(data, 1, seen), version=TWO),
        replace(good, digest="sha256:" + "cd" * 32),
    ):
        request = PromoteRequest(staged.revision, bad)
        assert problem(lambda r=request: rotation.promote(house.broker, peer, data, r)) is (  # type: ignore[misc]
            Problem.HEADER_REFUSED
        )
    assert house.record(data) == staged
    promoted = rotation.promote(house.broker, peer, data, PromoteRequest(staged.revision, good))
    assert (promoted.current, promoted.retiring) == (2, 1)
    assert rotation.promote(house.broker, peer, data, PromoteRequest(staged.revision, good)) == promoted


def test_a_key_is_not_retired_before_a_header_copy_from_after_the_promotion(
    house: House, peer: Peer, data: VolumeId
) -> None:
    staged = rotation.stage(house.broker, peer, data, StageRequest(wanted(house))).record
    seen = replace(header(staged), sequence=5)
    house.back_up(peer, data, seen)
    revision = house.record(data).revision
    rotation.promote(house.broker, peer, data, PromoteRequest(revision, house.proof(data, 2, seen)))
    assert problem(lambda: rotation.retire(house.broker, peer, data, ONE)) is Problem.CONFLICT
    # the very same header, left once more, is a copy from after the promotion
    house.back_up(peer, data, seen)
    retired = rotation.retire(house.broker, peer, data, ONE)
    assert retired.retiring is None
    assert rotation.retire(house.broker, peer, data, ONE) == retired
    assert problem(lambda: rotation.retire(house.broker, peer, data, TWO)) is Problem.CONFLICT


def test_a_header_copy_of_a_ready_volume_needs_a_proof_by_the_current_key(
    house: House, peer: Peer, data: VolumeId
) -> None:
    record = house.record(data)
    seen = replace(header(record), sequence=9)
    good = DepositRequest(record.revision, seen, Secret(b"KBH1"), house.proof(data, 1, seen))
    assert good.proof is not None
    asks = {
        "none": (replace(good, proof=None), Problem.CONFLICT),
        "wrong": (replace(good, proof=replace(good.proof, proof="0" * 64)), Problem.HEADER_REFUSED),
        "of another header": (
            replace(good, header=replace(seen, sequence=10)),
            Problem.HEADER_REFUSED,
        ),
        "with a requirement": (
            replace(good, header=replace(seen, requirements=("online-reencrypt-v2",))),
            Problem.HEADER_REFUSED,
        ),
    }
    for name, (request, says) in asks.items():
        ask = lambda request=request: provisioning.deposit(house.broker, peer, data, request)  # noqa: E731
        assert problem(ask) is says, name
    saved = provisioning.deposit(house.broker, peer, data, good)
    assert saved.sequence == 9
    assert provisioning.deposit(house.broker, peer, data, good) == saved
    copies = house.broker.store.read(lambda reading: reading.headers(data))
    assert [copy.sequence for copy in copies] == [3, 9]


def test_after_the_retention_the_key_is_gone_and_with_it_the_copies_that_it_opens(
    house: House, peer: Peer, data: VolumeId
) -> None:
    house.rotated(peer, data, 7)
    assert set(house.keys(data)) == {ONE, TWO}
    assert endings.sweep(house.broker) == ()
    house.clock.forward(days=31)
    assert endings.sweep(house.broker) == ((data, ONE),)
    assert set(house.keys(data)) == {TWO}
    copies = house.broker.store.read(lambda reading: reading.headers(data))
    assert [(copy.sequence, copy.key_version) for copy in copies] == [(7, 2)]
    assert endings.sweep(house.broker) == ()
    assert ("destroy", "done", data) in house.audit()


def test_a_restored_snapshot_gets_the_retired_key_which_is_then_kept(
    house: House, peer: Peer, data: VolumeId
) -> None:
    house.rotated(peer, data, 7)
    old = house.unlock(peer, luks2(house.record(data), sequence=3)).grants[0]
    assert set(old.keys) == {ONE, TWO}
    house.clock.forward(days=31)
    assert endings.sweep(house.broker) == ()
    new = house.unlock(peer, luks2(house.record(data), sequence=7)).grants[0]
    assert set(new.keys) == {TWO}
    # the next rotation schedules it again
    house.rotated(peer, data, 11)
    house.clock.forward(days=31)
    assert set(endings.sweep(house.broker)) == {(data, ONE), (data, TWO)}


def test_after_a_compromise_an_older_header_gets_no_key_at_all(
    house: House, peer: Peer, data: VolumeId
) -> None:
    orders.rotate(house.broker, house.operator, "shop-db", "data", compromised=True)
    house.rotated(peer, data, 7)
    grant = house.unlock(peer, luks2(house.record(data), sequence=3)).grants[0]
    assert not grant.keys
    assert isinstance(grant.refused, Refusal)


def test_another_add_on_s_volume_does_not_exist(house: House, data: VolumeId) -> None:
    house.addon("other")
    stranger, _ = house.enrol("other")
    seen = header(house.record(data))
    proof = house.proof(data, 1, seen)
    for ask in (
        lambda: rotation.stage(house.broker, stranger, data, StageRequest(4)),
        lambda: rotation.promote(house.broker, stranger, data, PromoteRequest(4, proof)),
        lambda: rotation.retire(house.broker, stranger, data, ONE),
        lambda: provisioning.deposit(
            house.broker, stranger, data, DepositRequest(4, seen, Secret(b"KBH1"), proof)
        ),
    ):
        assert problem(ask) is Problem.UNKNOWN


def test_a_report_is_kept_its_proof_is_checked_and_the_wish_comes_back(
    house: House, peer: Peer, data: VolumeId
) -> None:
    seen = header(house.record(data))
    good = VolumeReport(data, "open", ONE, 3, proof=house.proof(data, 1, seen))
    ask = ReportRequest("00000000-0000-4000-8000-000000000000", "0" * 32, "0.1.0", (good,))
    rest = reports.report(house.broker, peer, ask)
    house.clock.forward(minutes=5)
    assert good.proof is not None
    bad = replace(good, proof=replace(good.proof, proof="0" * 64))
    wanted(house)
    busy = reports.report(house.broker, peer, replace(ask, volumes=(bad,)))
    assert busy.records[0].wanted == 2
    assert busy.again_seconds < rest.again_seconds
    view = inventory.volume(house.broker, house.operator, "shop-db", "data")
    assert view.proof is not None
    assert view.report is not None
    assert view.report.at - view.proof.at == timedelta(minutes=5)
    assert view.report.report.proof is None
    assert [(verb, outcome) for verb, outcome, _ in house.audit() if verb == "report"] == [
        ("report", "done"),
        ("report", "refused"),
    ]
