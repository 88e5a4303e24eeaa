"""Destruction is scheduled, can be called off until the last moment, and is whole or not done."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from keybroker import statement
from keybroker.policy import Peer
from keybroker.service import (
    deletions,
    destruction,
    inventory,
    moving,
    orders,
    policies,
    provisioning,
    recovery,
    revealing,
    rotation,
)
from keybroker.service.views import OrderSpec
from keybroker.store.rows import AddonRow, VolumeRow
from keybroker.terms import Change
from keybroker.wire.changes import ErasedRequest, PhaseRequest, StageRequest
from keybroker.wire.messages import ClaimRequest, ReadyRequest
from keybroker.wire.names import AddonName, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from tests.contract.broker_house import House, deposit_request, device, luks2
from tests.unit.test_broker_roster import add

SHOP = AddonName("shop-db")
RECIPIENT = "age1n7x7um8gucwduv28u440sc59mpcv52jekdft8lwst57erd5upvqq9dvr2c"


def problem(ask: Callable[[], object]) -> Problem:
    with pytest.raises(KeybrokerError) as caught:
        ask()
    return caught.value.problem


class Shop:
    """An add-on with a host, and a volume in use that has been rotated once."""

    def __init__(self, house: House) -> None:
        self.house = house
        house.addon()
        self.host, _ = house.enrol()
        self.volume = house.provision(self.host, house.volume()).volume
        house.rotated(self.host, self.volume, 12)
        self.alice = house.operator
        self.bob = add(house, "bob", "approver")

    def row(self, volume: VolumeId | None = None) -> VolumeRow:
        found = self.house.broker.store.read(lambda reading: reading.volume(volume or self.volume))
        assert found is not None
        return found

    @property
    def record(self) -> Record:
        return self.row().volume.record

    def addon_row(self) -> AddonRow:
        found = self.house.broker.store.read(lambda reading: reading.addon(SHOP))
        assert found is not None
        return found

    def delete(self, days: int | None = None, *, by: Peer | None = None) -> bool:
        return deletions.delete_volume(self.house.broker, by or self.alice, SHOP, "data", "TICKET-1", days)[1]

    def undelete(self, *, by: Peer | None = None) -> bool:
        return deletions.undelete_volume(self.house.broker, by or self.alice, SHOP, "data")[1]

    def delete_addon(self, days: int | None = None) -> bool:
        return deletions.delete_addon(self.house.broker, self.alice, SHOP, "TICKET-2", days)[1]

    def sweep_hours(self, hours: int) -> list[str]:
        """Let time pass, with a sweep each hour; return what was destroyed."""
        done: list[str] = []
        for _hour in range(hours):
            self.house.clock.forward(hours=1)
            done += destruction.sweep(self.house.broker)
        return done

    def granted(self) -> dict[VolumeId, list[int]]:
        reply = self.house.unlock(self.host, luks2(self.record, sequence=12))
        return {grant.record.volume: sorted(grant.keys) for grant in reply.grants if grant.keys}

    def refusals(self) -> list[Problem]:
        reply = self.house.unlock(self.host, luks2(self.record, sequence=12))
        return [grant.refused.problem for grant in reply.grants if grant.refused is not None]

    def details(self, verb: str) -> list[dict[str, object]]:
        entries = self.house.broker.store.audit_records()
        return [json.loads(entry.detail) for entry in entries if entry.verb == verb]


@pytest.fixture
def shop(house: House) -> Shop:
    return Shop(house)


def test_from_the_moment_on_no_key_leaves_and_the_refusal_says_why(shop: Shop) -> None:
    assert shop.granted() == {shop.volume: [2]}
    assert shop.delete()
    reply = shop.house.unlock(shop.host, luks2(shop.record, sequence=12))
    (grant,) = reply.grants
    assert grant.refused is not None
    assert grant.keys == {}
    assert grant.refused.problem is Problem.DELETED
    assert "to be destroyed after 2026-01-15 12:00:00Z" in grant.refused.detail
    assert "keybroker volume undelete shop-db data" in grant.refused.detail
    view = inventory.volume(shop.house.broker, shop.alice, SHOP, "data").as_json()
    assert view["deletion"]["due"] == "2026-01-15T12:00:00.000000Z"
    assert (view["deletion"]["by"], view["deletion"]["addon"]) == ("alice", False)


def test_an_add_on_may_have_its_own_days_before_a_destruction(shop: Shop) -> None:
    broker = shop.house.broker
    policies.change(broker, shop.alice, SHOP, Change(deletion_days=90))
    assert shop.delete()
    view = inventory.volume(broker, shop.alice, SHOP, "data").as_json()
    assert view["deletion"]["due"] == "2026-04-01T12:00:00.000000Z"
    shop.undelete()
    assert shop.delete_addon()
    shown = inventory.addon(broker, shop.alice, SHOP).as_json()
    assert shown["deletion"]["due"] == "2026-04-01T12:00:00.000000Z"
    assert shown["policy"]["deletion_days"] == 90


def test_every_way_by_which_a_key_or_a_copy_could_leave_is_shut(shop: Shop) -> None:
    broker, volume, revision = shop.house.broker, shop.volume, shop.record.revision + 1
    recovery.set_key(broker, shop.alice, [RECIPIENT])
    recovery.renew(broker, shop.alice)
    orders.rotate(broker, shop.alice, SHOP, "data")
    rotation.stage(broker, shop.host, volume, StageRequest(shop.record.revision))
    assert recovery.volumes(broker, shop.alice) != ()
    shop.delete()
    hosts: list[Callable[[], object]] = [
        lambda: rotation.stage(broker, shop.host, volume, StageRequest(revision)),
        lambda: provisioning.claim(broker, shop.host, volume, ClaimRequest(revision, device(shop.record))),
        lambda: provisioning.header_copy(broker, shop.host, volume),
        lambda: provisioning.deposit(broker, shop.host, volume, deposit_request(shop.record)),
        lambda: provisioning.ready(broker, shop.host, volume, ReadyRequest(revision)),
        lambda: orders.announce(broker, shop.host, volume, PhaseRequest(revision, 1, None)),
        lambda: orders.finish(broker, shop.host, volume, 1),
        lambda: moving.erased(
            broker, shop.host, volume, ErasedRequest(revision, device(shop.record), 1 << 24, "zeros")
        ),
    ]
    assert {problem(ask) for ask in hosts} == {Problem.DELETED}
    operators: list[Callable[[], object]] = [
        lambda: revealing.reveal(broker, shop.alice, SHOP, "data", "INC-1"),
        lambda: orders.rotate(broker, shop.alice, SHOP, "data"),
        lambda: orders.order(broker, shop.alice, SHOP, "data", OrderSpec("erase")),
        lambda: orders.cancel(broker, shop.alice, SHOP, "data"),
    ]
    assert {problem(ask) for ask in operators} == {Problem.CONFLICT}
    assert recovery.volumes(broker, shop.alice) == ()
    assert shop.refusals() == [Problem.DELETED]


def test_all_that_was_possible_is_possible_again_once_it_is_called_off(shop: Shop) -> None:
    before = shop.row()
    shop.delete()
    assert shop.sweep_hours(14 * 24 - 1) == []
    assert shop.undelete(by=shop.bob)
    assert not shop.undelete()
    assert shop.sweep_hours(20 * 24) == []
    after = shop.row()
    assert after.wrapped == before.wrapped
    keys = before.volume.keyring and before.volume.keyring.postponed(timedelta(hours=14 * 24 - 1))
    assert after.volume == replace(before.volume, keyring=keys, revision=before.volume.revision + 2)
    assert shop.granted() == {shop.volume: [2]}


def test_reminders_are_on_record_and_then_all_of_it_is_destroyed_and_stated(shop: Shop) -> None:
    recovery.set_key(shop.house.broker, shop.alice, [RECIPIENT])
    recovery.renew(shop.house.broker, shop.alice)
    revealing.reveal(shop.house.broker, shop.alice, SHOP, "data", "INC-1", hours=720)
    shop.delete()
    assert shop.sweep_hours(14 * 24 - 1) == []
    said = [facts["reminder_days"] for facts in shop.details("volume.delete") if "reminder_days" in facts]
    assert said == [7, 3, 1]
    assert shop.sweep_hours(1) == ["shop-db/data"]
    assert shop.sweep_hours(48) == []
    row = shop.row()
    assert (row.volume.stage, row.wrapped, row.volume.recoveries) == ("erased", {}, ())
    assert row.volume.keyring is not None
    assert (row.volume.keyring.kept, row.volume.keyring.destroyed) == ((), (1, 2))
    store = shop.house.broker.store
    assert store.read(lambda reading: reading.headers(shop.volume)) == []
    assert all(one.rotated for one in store.read(lambda reading: reading.reveals(shop.volume)))
    (view,) = inventory.statements(shop.house.broker, shop.alice, SHOP, "data")
    facts = statement.check(view.row.document, view.row.signature, view.row.public)
    assert (facts["what"], facts["keys_kept"], facts["destroyed_now"]) == ("destroyed", [], [1, 2])
    assert (facts["asked_by"], facts["reason"], facts["approved_by"]) == ("alice", "TICKET-1", None)
    assert facts["header_copies_destroyed"] == 2
    assert any("memory of a VM" in words for words in facts["remains"])
    assert shop.details("destroy")[-1]["versions"] == [1, 2]
    assert problem(shop.delete) is Problem.DELETED
    assert problem(shop.undelete) is Problem.DELETED
    shop.house.reopen()
    assert shop.refusals() == [Problem.HEADER_REFUSED]


def test_the_bytes_are_gone_from_the_database_and_its_log(shop: Shop) -> None:
    wrapped = [bytes(each) for each in shop.row().wrapped.values()]
    copies = [bytes(each.wrapped) for each in shop.house.broker.store.read(lambda r: r.headers(shop.volume))]

    def found() -> list[bool]:
        database = shop.house.installation.database
        files = [path.read_bytes() for path in database.parent.glob(database.name + "*")]
        return [any(secret[:64] in text for text in files) for secret in (*wrapped, *copies)]

    assert all(found())
    shop.delete()
    shop.sweep_hours(15 * 24)
    assert not any(found())


def test_until_when_backups_may_hold_it_is_said_if_the_configuration_says_so(house: House) -> None:
    settings = replace(house.broker.settings, backups_kept=timedelta(days=90))
    house.installation = replace(house.installation, settings=settings)
    house.reopen()
    shop = Shop(house)
    shop.delete()
    shop.sweep_hours(15 * 24)
    facts = json.loads(inventory.statements(house.broker, shop.alice, SHOP, "data")[0].row.document)
    assert facts["backups_until"] == "2026-04-15T12:00:00.000000Z"
    assert any("is kept until 2026-04-15" in words for words in facts["remains"])


def test_sooner_takes_another_person_and_at_once_is_at_once(shop: Shop) -> None:
    assert shop.delete(0)
    due = shop.row().volume.deletion
    assert due is not None
    assert (sooner := due.sooner) is not None
    broker = shop.house.broker
    approve = deletions.approve_volume
    assert problem(lambda: approve(broker, shop.alice, SHOP, "data", sooner)) is Problem.NOT_ALLOWED
    assert problem(lambda: approve(broker, shop.bob, SHOP, "data", due.due)) is Problem.CONFLICT
    assert problem(lambda: shop.delete(by=shop.bob)) is Problem.NOT_ALLOWED
    assert destruction.sweep(broker) == ()
    shop.house.clock.forward(hours=5)
    assert approve(broker, shop.bob, SHOP, "data", sooner).record.stage == "erased"
    assert shop.row().wrapped == {}
    assert approve(broker, shop.bob, SHOP, "data", sooner).record.stage == "erased"
    facts = json.loads(inventory.statements(broker, shop.alice, SHOP, "data")[0].row.document)
    assert (facts["asked_by"], facts["sooner_by"], facts["approved_by"]) == ("alice", "alice", "bob")


def test_an_approval_that_no_sweep_followed_is_carried_out_by_the_next_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the broker was killed in between."""
    shop.delete(0)
    pending = shop.row().volume.deletion
    assert pending is not None
    assert pending.sooner is not None

    def die(*_anything: object, **_more: object) -> None:
        raise KeybrokerError(Problem.UNAVAILABLE, "killed")

    with monkeypatch.context() as patched:
        patched.setattr(destruction, "sweep_volumes", die)
        with pytest.raises(KeybrokerError):
            deletions.approve_volume(shop.house.broker, shop.bob, SHOP, "data", pending.sooner)
    assert shop.row().volume.stage == "ready"
    assert destruction.sweep(shop.house.broker) == ("shop-db/data",)
