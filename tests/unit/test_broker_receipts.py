"""A host that holds a receipt for a record which is not in the trail shows that the database was set back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest

from keybroker.service import boot, orders, reports, rotation, setback
from keybroker.wire.changes import StageRequest
from keybroker.wire.fields import Fields
from keybroker.wire.messages import UnlockRequest
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import Receipt
from keybroker.wire.reports import ReportReply, ReportRequest
from tests.contract.broker_house import House, luks2, request

REPORT = ReportRequest("00000000-0000-4000-8000-000000000000", "0" * 32, "0.1.0", ())


def set_back(house: House, meanwhile: Callable[[], Receipt]) -> Receipt:
    """Do something, put the database of before back as a file, and return the receipt that came of it."""
    house.broker.close()
    database = house.installation.database
    shutil.copyfile(database, database.with_name("kept"))
    house.broker = house.open()
    receipt = meanwhile()
    house.broker.close()
    shutil.copyfile(database.with_name("kept"), database)
    house.broker = house.open()
    return receipt


def is_held(house: House) -> bool:
    return house.broker.store.read(setback.standing).is_open


def noted(house: House) -> list[str]:
    return [
        entry.detail for entry in house.broker.store.audit_records() if '"problem":"set-back"' in entry.detail
    ]


def test_a_receipt_that_is_in_the_trail_says_nothing_and_each_reply_brings_the_next(house: House) -> None:
    house.addon()
    peer, _ = house.enrol()
    record = house.provision(peer, house.volume())
    first = house.unlock(peer, luks2(record)).receipt
    second = boot.unlock(house.broker, peer, replace(request(luks2(record)), receipt=first)).receipt
    third = reports.report(house.broker, peer, replace(REPORT, receipt=second)).receipt
    assert third == second, "a report that says nothing new leaves no record"
    assert first.sequence < second.sequence
    assert noted(house) == []
    assert not is_held(house)


@pytest.mark.parametrize("grown", [0, 30])
def test_an_older_database_is_recognised_at_the_first_boot_and_the_vm_boots(
    house: House, grown: int, caplog: pytest.LogCaptureFixture
) -> None:
    house.addon()
    peer, _ = house.enrol()
    record = house.provision(peer, house.volume())
    receipt = set_back(house, lambda: house.unlock(peer, luks2(record)).receipt)
    for number in range(grown):  # others came first, and the trail is as long again
        house.addon(f"a{number}")
    reply = boot.unlock(house.broker, peer, replace(request(luks2(record)), receipt=receipt))
    assert reply.grants[0].keys, "a VM that may boot does boot"
    assert len(noted(house)) == 1
    assert f'"sequence":{receipt.sequence}' in noted(house)[0]
    assert is_held(house)
    assert "was set back" in caplog.text
    # and its keys are safe meanwhile: nothing is minted until the host has reported
    orders.rotate(house.broker, house.operator, "shop-db", "data")
    revision = house.record(record.volume).revision
    with pytest.raises(KeybrokerError) as caught:
        rotation.stage(house.broker, peer, record.volume, StageRequest(revision))
    assert caught.value.problem is Problem.CONFLICT
    # the machine takes the new receipt, and says no more
    boot.unlock(house.broker, peer, replace(request(luks2(record)), receipt=reply.receipt))
    assert len(noted(house)) == 1


def test_an_older_database_is_recognised_at_the_first_report_though_no_volume_has_changed(
    house: House,
) -> None:
    house.addon()
    peer, _ = house.enrol()
    house.provision(peer, house.volume())

    def meanwhile() -> Receipt:
        house.addon("other")
        receipt = reports.report(house.broker, peer, REPORT).receipt
        assert receipt is not None
        return receipt

    receipt = set_back(house, meanwhile)
    reports.report(house.broker, peer, replace(REPORT, receipt=receipt))
    assert len(noted(house)) == 1
    assert is_held(house)


def test_messages_without_a_receipt_are_those_of_before(house: House) -> None:
    assert "receipt" not in request().as_json()
    assert "receipt" not in REPORT.as_json()
    held = Receipt(7, "ab" * 32)
    for one in (replace(request(), receipt=held), request()):
        assert UnlockRequest.read(Fields(one.as_json())) == one
    for other in (replace(REPORT, receipt=held), REPORT):
        assert ReportRequest.read(Fields(other.as_json())) == other
    for reply in (ReportReply((), 60), ReportReply((), 60, held)):
        assert ReportReply.read(Fields(reply.as_json())) == reply
    newer = {"sequence": 7, "hash": "ab" * 32, "more": 1}
    assert ReportReply.read(Fields({**ReportReply((), 60).as_json(), "receipt": newer})).receipt == held
    assert "writer" not in held.as_json()
    of_another = {"sequence": 7, "hash": "ab" * 32, "writer": "b2"}
    assert Receipt.read(Fields(of_another)).as_json() == of_another


@pytest.mark.parametrize(
    "wrong",
    [{}, {"sequence": 0, "hash": "ab" * 32}, {"sequence": 1, "hash": "AB" * 32}, {"sequence": 1, "hash": ""},
     {"sequence": 1, "hash": "ab" * 32, "more": 1}],
)  # fmt: skip
def test_a_receipt_that_is_none_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(KeybrokerError):
        UnlockRequest.read(Fields({**request().as_json(), "receipt": wrong}))
