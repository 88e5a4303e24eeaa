"""What a reviewer found in how deletions, boots, renewals and restores meet: none of it may come back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent import layout
from agent.plan import relapse
from keybroker.service import boots, endings, moving, orders, reports, rotation, setback
from keybroker.service.views import OrderSpec
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.changes import ErasedRequest, StageRequest, SwitchRequest
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.reports import ReportRequest, VolumeReport
from tests.contract.broker_house import House, device
from tests.contract.test_agent_enrolment import opened, signer  # noqa: F401  a fixture
from tests.unit.test_broker_boots import CLONE, MACHINE, NEW, OLD
from tests.unit.test_broker_deletions import SHOP, Shop
from tests.unit.test_broker_orders import migration
from tests.unit.test_broker_roster import add
from tests.unit.test_broker_setback import Old
from tests.unit.test_plan_relapse import AFTER, BEFORE, DATA

GIB = 1 << 30


def test_no_volume_is_made_under_the_name_of_a_disk_that_is_to_be_destroyed(house: House) -> None:
    """It would be destroyed with that: V1 was left, V2 was erased by its host, V1's deletion is pending."""
    shop = Shop(house)
    holder, successor = migration(house, shop.host, shop.volume)
    request = SwitchRequest(successor.revision, holder.revision, 2 * GIB, 4)
    moving.switch(house.broker, shop.host, successor.volume, request)
    orders.order(house.broker, shop.alice, SHOP, "data", OrderSpec("erase"))
    moved = house.record(successor.volume)
    erased = ErasedRequest(moved.revision, device(moved), 1 << 24, "zeros")
    moving.erased(house.broker, shop.host, moved.volume, erased)
    shop.delete()
    with pytest.raises(KeybrokerError) as refused:
        house.volume()
    assert refused.value.problem is Problem.CONFLICT
    shop.undelete()
    assert house.volume().stage == "new"


def deny(house: House, address_of_the_clone: str) -> None:
    """Have the host's own boot up, and a clone's, of the same identity, denied by an approver."""
    bob = add(house, "bob", "approver")
    (host,) = {boot.host for boot in house.broker.store.read(lambda reading: reading.boots_of("shop-db"))}
    (clone,) = [
        boot
        for boot in house.broker.store.read(lambda reading: reading.boots(host))
        if boot.boot_id == NEW and boot.address == address_of_the_clone
    ]
    boots.deny(house.broker, bob, clone.id)


@pytest.mark.parametrize("quiet", [0, 10], ids=["beside its original", "after its original"])
def test_a_denied_boot_gets_no_key_by_not_saying_which_it_is(house: House, quiet: int) -> None:
    house.addon()
    peer, _certified = house.enrol()
    volume = house.provision(peer, house.volume()).volume
    house.clock.forward(minutes=10)
    reports.report(house.broker, peer, ReportRequest(OLD, MACHINE, "0.1.0", ()))
    reports.report(house.broker, peer, ReportRequest(NEW, CLONE, "0.1.0", ()))
    deny(house, peer.address)
    orders.rotate(house.broker, house.operator, "shop-db", "data")
    house.clock.forward(minutes=quiet)
    for asking in (AskingBoot(NEW, CLONE), None):
        with pytest.raises(KeybrokerError) as refused:
            rotation.stage(house.broker, peer, volume, StageRequest(house.record(volume).revision, asking))
        assert refused.value.problem in (Problem.BOOT_DENIED, Problem.PENDING)


def test_a_denied_boots_report_lifts_nothing_that_is_held_after_a_restore(house: House) -> None:
    old = Old(house)
    old.set_back(old.rotate)
    house.clock.forward(days=31)
    reports.report(house.broker, old.peer, ReportRequest(OLD, MACHINE, "0.1.0", ()))
    clone = replace(old.peer, address="198.51.100.9")
    said = VolumeReport(old.volume, "open", named=old.record.current, revision=old.record.revision)
    reports.report(house.broker, clone, ReportRequest(NEW, CLONE, "0.1.0", (said,)))
    deny(house, clone.address)
    with pytest.raises(KeybrokerError) as refused:
        reports.report(house.broker, clone, ReportRequest(NEW, CLONE, "0.1.0", (said,)))
    assert refused.value.problem is Problem.BOOT_DENIED
    assert old.standing.left != ()
    assert not endings.sweep(house.broker)
    assert setback.end_if_settled(house.broker) is False


def test_a_renewal_does_not_forget_who_has_the_data(tmp_path: Path, signer: object) -> None:  # noqa: F811
    with opened(tmp_path, signer) as first:  # type: ignore[arg-type]
        first.enrol()
    (tmp_path / "later").mkdir()
    with opened(tmp_path / "later", signer, demand=signer.pem) as place:  # type: ignore
        place.state = tmp_path / "state"
        layout.save(place.state, tuple(AFTER))
        place.office.change = {"records": [record.as_json() for record in BEFORE]}
        assert place.renew(force=True).done
        assert relapse.names(layout.load(place.state).records, BEFORE) == {DATA}
