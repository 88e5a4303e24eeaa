"""Claim, deposit, ready: each once, repeated without harm, refused on record."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from keybroker.service import inventory, provisioning
from keybroker.wire.messages import LARGEST_HEADER_COPY, ClaimRequest, DepositRequest, ReadyRequest
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Device
from keybroker.wire.secret import Secret
from tests.contract.broker_house import House, deposit_request, device, header


def problem(ask: Callable[[], object]) -> Problem:
    with pytest.raises(KeybrokerError) as caught:
        ask()
    return caught.value.problem


def test_a_volume_becomes_ready_and_each_step_is_on_record(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    record = house.volume()
    ready = house.provision(peer, record)
    assert (ready.stage, ready.revision, ready.pin) == ("ready", 4, header(record).pin)
    assert house.audit()[-3:] == [
        ("claim", "released", record.volume),
        ("deposit", "done", record.volume),
        ("ready", "done", record.volume),
    ]


def test_repeating_each_step_gives_the_same_and_changes_nothing(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    record = house.volume()
    volume = record.volume
    asks = ClaimRequest(1, device(record))
    first = provisioning.claim(house.broker, peer, volume, asks)
    again = provisioning.claim(house.broker, peer, volume, asks)
    assert (first.record, first.keys) == (again.record, again.keys)
    deposit = deposit_request(first.record)
    deposited = provisioning.deposit(house.broker, peer, volume, deposit)
    assert provisioning.deposit(house.broker, peer, volume, deposit) == deposited
    ready = provisioning.ready(house.broker, peer, volume, ReadyRequest(3))
    assert provisioning.ready(house.broker, peer, volume, ReadyRequest(3)) == ready


def test_a_claim_repeated_later_hands_out_no_key_past_the_header_s_check(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    record = house.volume()
    house.provision(peer, record)
    grant = provisioning.claim(house.broker, peer, record.volume, ClaimRequest(1, device(record)))
    assert (grant.record.stage, grant.keys) == ("ready", {})


def test_a_swap_volume_is_claimed_without_a_key_and_made_ready_without_a_header(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    record = house.volume(name="swap", filesystem="swap")
    assert (record.current, record.mount) == (None, None)
    grant = provisioning.claim(house.broker, peer, record.volume, ClaimRequest(1, device(record)))
    assert grant.keys == {}
    ready = provisioning.ready(house.broker, peer, record.volume, ReadyRequest(2))
    assert ready.stage == "ready"
    assert house.unlock(peer).grants[0].keys == {}


def test_another_add_on_s_volume_does_not_exist_for_a_host(house: House) -> None:
    house.addon()
    house.addon("blog-db")
    foreign = house.volume("blog-db")
    peer, _certified = house.enrol()
    broker, volume = house.broker, foreign.volume
    asks: list[Callable[[], object]] = [
        lambda: provisioning.claim(broker, peer, volume, ClaimRequest(1, device(foreign))),
        lambda: provisioning.deposit(broker, peer, volume, deposit_request(foreign)),
        lambda: provisioning.header_copy(broker, peer, volume),
        lambda: provisioning.ready(broker, peer, volume, ReadyRequest(1)),
    ]
    assert [problem(ask) for ask in asks] == [Problem.UNKNOWN] * 4
    assert [outcome for _verb, outcome, _volume in house.audit()[-4:]] == ["refused"] * 4


def test_a_wrong_device_is_refused_on_record_and_the_right_one_still_claimed(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    record = house.volume()
    wrong = ClaimRequest(1, Device("somebody-elses", record.size_bytes))
    assert problem(
        lambda: provisioning.claim(house.broker, peer, record.volume, wrong)
    ) is Problem.WRONG_DEVICE  # fmt: skip
    assert house.audit()[-1][:2] == ("claim", "refused")
    right = provisioning.claim(house.broker, peer, record.volume, ClaimRequest(1, device(record)))
    assert right.record.stage == "claimed"


def test_the_header_s_copy_comes_back_whole_and_lies_wrapped(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    record = house.volume()
    assert problem(
        lambda: provisioning.header_copy(house.broker, peer, record.volume)
    ) is Problem.UNKNOWN  # fmt: skip
    claimed = provisioning.claim(house.broker, peer, record.volume, ClaimRequest(1, device(record))).record
    copy = Secret(b"KBH1" + house.random.randbytes(300 << 10))
    request = DepositRequest(2, header(claimed), copy)
    provisioning.deposit(house.broker, peer, record.volume, request)
    assert provisioning.header_copy(house.broker, peer, record.volume).copy == copy
    house.broker.close()
    stored = house.installation.database.read_bytes()
    assert copy.reveal()[4:100] not in stored
    house.broker = house.open()


@pytest.mark.parametrize("size", [0, LARGEST_HEADER_COPY + 1])
def test_a_copy_that_is_empty_or_too_large_is_malformed(house: House, size: int) -> None:
    house.addon()
    peer, _certified = house.enrol()
    record = house.volume()
    request = DepositRequest(1, header(record), Secret(bytes(size)))
    assert problem(
        lambda: provisioning.deposit(house.broker, peer, record.volume, request)
    ) is Problem.MALFORMED  # fmt: skip


def test_no_passphrase_lies_in_the_database_or_comes_with_lists(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    record = house.volume()
    grant = provisioning.claim(house.broker, peer, record.volume, ClaimRequest(1, device(record)))
    (key,) = grant.keys.values()
    shown = [
        *(view.as_json() for view in inventory.volumes(house.broker, house.operator)),
        inventory.volume(house.broker, house.operator, "shop-db", "data").as_json(),
        *(entry.as_json() for entry in house.broker.store.audit_records()),
    ]
    assert key.reveal().decode() not in str(shown)
    house.broker.close()
    assert key.reveal() not in house.installation.database.read_bytes()
    house.broker = house.open()
