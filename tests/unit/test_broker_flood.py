"""A clone that asks all the time keeps nobody from booting; and what is remembered of boots has an end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from keybroker.model import boots as model
from keybroker.policy import Peer
from keybroker.service import boot, boots, policies, provisioning
from keybroker.terms import Change, place
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.messages import ClaimRequest
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from tests.contract.broker_house import House, device, luks2
from tests.unit.test_broker_boots import CLONE, HERE, HOST, MACHINE, NEW, NOW, OLD, OTHER, THERE, known
from tests.unit.test_review_boots import asking, named, problem, report


def sixth(number: int) -> str:
    return f"2001:db8:0:{number:x}::1"


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    house.addon()
    return house


@pytest.fixture
def peer(house: House) -> Peer:
    return replace(house.enrol()[0], boot=AskingBoot(OLD, MACHINE))


@pytest.fixture
def data(house: House, peer: Peer) -> Record:
    data = house.provision(peer, house.volume())
    boot.unlock(house.broker, peer, asking(peer))
    return data


def unlock(house: House, peer: Peer, data: Record) -> bool:
    """Say whether a boot gets its key."""
    asked = replace(asking(peer), observations=(luks2(data),))
    return bool(boot.unlock(house.broker, peer, asked).grants[0].keys)


def flood(house: House, peer: Peer, times: int = 200) -> list[Problem | None]:
    """Ask under one name and under many, from another address."""
    said = []
    for number in range(times):
        for name in (AskingBoot(NEW, CLONE), AskingBoot(f"00000000-0000-4000-8000-{number:012}", CLONE)):
            liar = replace(peer, boot=name, address=THERE)
            said.append(problem(lambda liar=liar: boot.unlock(house.broker, liar, asking(liar))))  # type: ignore[misc]
    return said


def test_a_clone_that_floods_does_not_use_up_what_its_original_may_ask(
    house: House, peer: Peer, data: Record
) -> None:
    said = flood(house, peer)
    assert (said.count(Problem.BUSY) > 300, None in said) == (True, False)
    assert unlock(house, peer, data)


def test_nor_what_the_original_s_next_boot_may_ask(house: House, peer: Peer, data: Record) -> None:
    flood(house, peer)
    assert unlock(house, replace(peer, boot=AskingBoot(NEW, MACHINE)), data)


def test_nor_the_rate_of_the_add_on(house: House, peer: Peer, data: Record) -> None:
    policies.change(house.broker, house.operator, "shop-db", Change(addon_rate=5))
    house.clock.forward(minutes=2)
    report(house, peer)
    said = flood(house, peer, 20)
    assert set(said) == {Problem.PENDING}
    assert unlock(house, peer, data)


def test_a_host_that_says_no_boot_has_a_rate_too(house: House, peer: Peer, data: Record) -> None:
    policies.change(house.broker, house.operator, "shop-db", Change(rate=2))
    house.clock.forward(minutes=2)
    report(house, peer)
    silent = replace(peer, boot=None)
    copies = [problem(lambda: provisioning.header_copy(house.broker, silent, data.volume)) for _ in range(3)]
    assert copies == [None, None, Problem.BUSY]


def test_whoever_has_many_addresses_of_ipv6_has_one_place(house: House, peer: Peer, data: Record) -> None:
    assert place("2001:db8::1") == place("2001:db8::ffff") != place("2001:db8:0:1::1")
    assert place("192.0.2.1") != place("192.0.2.2")
    assert (place("::ffff:192.0.2.1"), place("local")) == ("::ffff:192.0.2.1", "local")
    policies.change(house.broker, house.operator, "shop-db", Change(rate=2))
    said = []
    for number in range(6):
        liar = replace(peer, boot=AskingBoot(NEW, CLONE), address=f"2001:db8::{number}")
        said.append(problem(lambda liar=liar: boot.unlock(house.broker, liar, asking(liar))))  # type: ignore[misc]
    assert said.count(Problem.BUSY) == 4


def test_a_denied_boot_that_reports_is_told_nothing_and_is_on_record_once(
    house: House, peer: Peer, data: Record
) -> None:
    liar = replace(peer, boot=AskingBoot(NEW, CLONE))
    assert problem(lambda: boot.unlock(house.broker, liar, asking(liar))) is Problem.PENDING
    boots.deny(house.broker, house.operator, named(house, AskingBoot(NEW, CLONE)))
    count = len(house.audit())
    for _ in range(5):
        assert problem(lambda: report(house, liar)) is Problem.BOOT_DENIED
        house.clock.forward(minutes=1)
        report(house, peer)
    assert len(house.audit()) - count <= 1
    seen = {one.boot.boot_id: one.is_live for one in boots.listing(house.broker, house.operator)}
    assert seen[NEW], "that it is up is known all the same"


@pytest.mark.parametrize("state", ["approved", "admitted", "denied"])
def test_a_boot_that_comes_from_ever_new_addresses_is_remembered_with_a_few_of_them(
    state: model.State,
) -> None:
    first = replace(known(state), first=NOW - timedelta(days=9))
    rows = {first.id: first}
    for number in range(50):
        now = NOW + timedelta(seconds=number)
        sight = model.Sight(OLD, MACHINE, sixth(number))
        judged = model.judge(HOST, list(rows.values()), sight, model.Rules(), now, asks=True)
        assert judged.boot.state == state
        for gone in model.forgotten(list(rows.values()), now):
            del rows[gone]
        rows[judged.boot.id] = judged.boot
    assert len(rows) == model.ADDRESSES
    assert first.id in rows
    assert sixth(49) in {boot.address for boot in rows.values()}


def test_no_other_boot_is_forgotten_for_that() -> None:
    rows = [known("denied", f"00000000-0000-4000-8000-{n:012}", CLONE, THERE) for n in range(100)]
    assert model.forgotten([*rows, known("approved", NEW)], NOW) == ()


def test_a_claim_of_a_clone_costs_its_original_nothing(house: House, peer: Peer, data: Record) -> None:
    policies.change(house.broker, house.operator, "shop-db", Change(rate=3))
    house.clock.forward(minutes=1)
    report(house, peer)
    liar = replace(peer, boot=AskingBoot(NEW, CLONE), address=THERE)
    claim = ClaimRequest(data.revision, device(data), liar.boot)
    for _ in range(5):
        with pytest.raises(KeybrokerError):
            provisioning.claim(house.broker, liar, data.volume, claim)
    assert unlock(house, replace(peer, address=HERE), data)


def test_an_approver_ends_the_doubt_about_a_host_once_the_denied_machine_is_gone(
    house: House, peer: Peer, data: Record
) -> None:
    liar = replace(peer, boot=AskingBoot(NEW, CLONE), address=THERE)
    assert problem(lambda: boot.unlock(house.broker, liar, asking(liar))) is Problem.PENDING
    boots.deny(house.broker, house.operator, named(house, AskingBoot(NEW, CLONE)))

    def clear(reason: str = "the clone is gone") -> None:
        boots.clear(house.broker, house.operator, host, reason)

    host = boots.listing(house.broker, house.operator)[0].boot.host
    assert problem(clear) is Problem.CONFLICT, "it is up"
    house.clock.forward(minutes=5)
    again = replace(peer, boot=AskingBoot(OTHER, MACHINE))
    assert problem(lambda: unlock(house, again, data)) is Problem.PENDING, "doubted"
    assert problem(lambda: clear("")) is Problem.MALFORMED
    clear()
    count = len(house.audit())
    clear()
    assert len(house.audit()) == count
    assert house.audit()[-1][:2] == ("boot.clear", "done")
    assert unlock(house, again, data)
    unknown = lambda: boots.clear(house.broker, house.operator, "kbh-nobody", "gone")  # noqa: E731
    assert problem(unknown) is Problem.UNKNOWN


def test_a_contest_is_decided_by_name_and_not_by_clearing_the_host(
    house: House, peer: Peer, data: Record
) -> None:
    report(house, peer)
    twin = replace(peer, boot=AskingBoot(NEW, MACHINE))
    boot.unlock(house.broker, twin, asking(twin))
    report(house, peer)
    host = boots.listing(house.broker, house.operator)[0].boot.host
    boots.clear(house.broker, house.operator, host, "x")
    assert problem(lambda: unlock(house, peer, data)) is Problem.PENDING, (
        "nothing was denied, nothing changed"
    )
    boots.deny(house.broker, house.operator, named(house, AskingBoot(NEW, MACHINE)))
    house.clock.forward(minutes=5)
    clear = lambda: boots.clear(house.broker, house.operator, host, "x")  # noqa: E731
    assert problem(clear) is Problem.CONFLICT
