"""Destruction where it could go wrong: whole add-ons, moves, races, crashes, a database set back."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from keybroker import statement
from keybroker.model import Deletion
from keybroker.policy import Peer
from keybroker.service import (
    boot,
    deletions,
    destruction,
    drill,
    endings,
    enrolment,
    inventory,
    masters,
    moving,
    orders,
    policies,
    reports,
    revealing,
    rewrap,
    setback,
)
from keybroker.service.admission import Caller
from keybroker.service.views import OrderSpec, VolumeSpec, VolumeView
from keybroker.store import Reading
from keybroker.store.writing import SqlWriting
from keybroker.terms import Change
from keybroker.wire.changes import PhaseRequest, SwitchRequest
from keybroker.wire.messages import EnrolmentRequest
from keybroker.wire.names import AddonName, KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.reports import ReportRequest, VolumeReport
from tests.contract.broker_house import GIB, House, csr, luks2, request
from tests.unit.test_broker_deletions import SHOP, Shop, problem
from tests.unit.test_broker_orders import BUSY, NEW_DIGEST, migration, reencrypted
from tests.unit.test_broker_roster import add
from tests.unit.test_broker_setback import Old

FORTNIGHT = 14 * 24


@pytest.fixture
def shop(house: House) -> Shop:
    return Shop(house)


@pytest.fixture
def old(house: House) -> Old:
    return Old(house)


def report(shop: Shop, named: int | None = None, revision: int | None = None) -> None:
    said = VolumeReport(shop.volume, "open", named=named, revision=revision)  # type: ignore[arg-type]
    asked = ReportRequest("00000000-0000-4000-8000-000000000000", "0" * 32, "0.1.0", (said,))
    reports.report(shop.house.broker, shop.host, asked)


def sooner(pending: Deletion | None) -> datetime:
    assert pending is not None
    assert pending.sooner is not None
    return pending.sooner


# whole add-ons


def test_an_add_on_that_is_to_be_destroyed_serves_nobody_and_takes_nothing_new(shop: Shop) -> None:
    broker = shop.house.broker
    invited = inventory.invite(broker, shop.alice, SHOP)
    assert shop.delete_addon()
    assert not shop.delete_addon()
    assert problem(shop.granted) is Problem.DELETED
    report(shop)
    asked: list[Callable[[], object]] = [
        lambda: inventory.invite(broker, shop.alice, SHOP),
        lambda: inventory.put_volume(
            broker, shop.alice, SHOP, "more", VolumeSpec(GIB, "aes-xts-plain64", None, "none")
        ),
        lambda: revealing.reveal(broker, shop.alice, SHOP, "data", "INC-1"),
        lambda: orders.rotate(broker, shop.alice, SHOP, "data"),
        lambda: masters.renew_addon(broker, shop.alice, SHOP, 2),
        lambda: policies.change(broker, shop.alice, SHOP, Change(enabled=False)),
        shop.undelete,
    ]
    assert [problem(ask) for ask in asked] == [Problem.CONFLICT] * 7
    enrolment.enrol(broker, "192.0.2.1", EnrolmentRequest(invited.token, csr()))
    view = inventory.volume(broker, shop.alice, SHOP, "data").as_json()
    assert (view["deletion"]["addon"], view["deletion"]["reason"]) == (True, "TICKET-2")
    (listed,) = inventory.volumes(broker, shop.alice)
    assert listed.as_json()["deletion"]["addon"] is True
    assert deletions.undelete_addon(broker, shop.bob, SHOP)[1]
    assert shop.granted() == {shop.volume: [2]}


def test_an_add_on_goes_with_its_volumes_its_key_and_its_hosts(shop: Shop) -> None:
    broker = shop.house.broker
    invited = inventory.invite(broker, shop.alice, SHOP, 7 * 86400)
    shop.house.volume(name="swap", filesystem="swap")
    gone = shop.house.volume(name="gone")
    orders.order(broker, shop.alice, SHOP, "gone", OrderSpec("erase", disk_gone=True))
    shop.delete_addon()
    assert shop.sweep_hours(FORTNIGHT - 1) == []
    said = [facts["reminder_days"] for facts in shop.details("addon.delete") if "reminder_days" in facts]
    assert said == [7, 3, 1]
    assert shop.sweep_hours(1) == ["shop-db"]
    assert shop.sweep_hours(48) == []
    store = broker.store
    rows = store.read(lambda reading: reading.volumes(SHOP))
    assert [(row.volume.stage, row.wrapped) for row in rows] == [("erased", {})] * 3
    assert store.read(lambda reading: reading.addon_keys(SHOP)) == []
    assert all(host.revoked for host in store.read(lambda reading: reading.hosts(SHOP)))
    assert problem(shop.granted) is Problem.REVOKED
    assert (
        problem(lambda: enrolment.enrol(broker, "192.0.2.1", EnrolmentRequest(invited.token, csr())))
        is Problem.TOKEN_REFUSED
    )
    (view,) = inventory.addon_statements(broker, shop.alice, SHOP)
    facts = statement.check(view.row.document, view.row.signature, view.row.public)
    assert (facts["what"], facts["addon_keys_destroyed"]) == ("add-on destroyed", [1])
    assert {one["name"] for one in facts["volumes"]} == {"data", "gone", "swap"}
    assert len(facts["hosts_revoked"]) == 2
    assert endings.sweep(broker) == ()
    assert gone.volume in {one["volume"] for one in facts["volumes"]}


def test_a_destroyed_add_ons_name_is_not_used_again_and_all_else_goes_on(shop: Shop) -> None:
    broker = shop.house.broker
    shop.house.addon("other")
    shop.house.volume("other")
    shop.delete_addon()
    shop.sweep_hours(FORTNIGHT)
    asked: list[Callable[[], object]] = [
        shop.house.addon,
        lambda: inventory.invite(broker, shop.alice, SHOP),
        shop.house.volume,
        lambda: masters.renew_addon(broker, shop.alice, SHOP, 1),
        lambda: masters.addon_generation(broker, shop.alice, SHOP),
        lambda: policies.change(broker, shop.alice, SHOP, Change(enabled=False)),
        lambda: deletions.delete_addon(broker, shop.alice, SHOP, "again"),
        lambda: deletions.undelete_addon(broker, shop.alice, SHOP),
    ]
    assert [problem(ask) for ask in asked] == [Problem.DELETED] * 8
    views = {view.name: view for view in inventory.addons(broker, shop.alice)}
    assert views[SHOP].destroyed is not None
    assert views[AddonName("other")].destroyed is None
    said = broker.store.read(lambda reading: drill.unwrap_all(reading, broker.masterkey))
    assert said.startswith("unwrapped: 1 add-on keys, 1 passphrases")
    assert not rewrap.is_wanted(broker)
    shop.house.reopen()


def test_an_empty_add_on_is_destroyed_likewise_and_two_people_do_it_at_once(house: House) -> None:
    house.addon("empty")
    shop = Shop(house)
    deletions.delete_addon(house.broker, shop.alice, "empty", "TICKET-3", 0)
    pending = house.broker.store.read(lambda reading: reading.addon("empty"))
    due = sooner(pending.deletion if pending else None)
    for _again in range(2):
        assert deletions.approve_addon(house.broker, shop.bob, "empty", due).destroyed is not None
    facts = json.loads(inventory.addon_statements(house.broker, shop.alice, "empty")[0].row.document)
    assert (facts["volumes"], facts["approved_by"]) == ([], "bob")
    assert shop.granted() == {shop.volume: [2]}


# volumes in the middle of something


def test_all_disks_that_a_name_stands_for_go_together_and_come_back_together(shop: Shop) -> None:
    holder, successor = migration(shop.house, shop.host, shop.volume)
    shop.delete()
    switch = SwitchRequest(successor.revision + 1, holder.revision + 1, GIB, 4)
    ask = lambda: moving.switch(shop.house.broker, shop.host, successor.volume, switch)  # noqa: E731
    assert problem(ask) is Problem.DELETED
    shop.undelete()
    for volume in (shop.volume, successor.volume):
        assert shop.row(volume).volume.deletion is None
        assert shop.row(volume).wrapped != {}
    record = shop.house.record(successor.volume)
    after = SwitchRequest(record.revision, shop.record.revision, GIB, 4)
    moving.switch(shop.house.broker, shop.host, successor.volume, after)
    assert shop.row().volume.role == "former"
    shop.delete()
    assert shop.sweep_hours(FORTNIGHT) == ["shop-db/data"]
    for volume in (shop.volume, successor.volume):
        row = shop.row(volume)
        assert (row.volume.stage, row.wrapped, row.volume.partner) == ("erased", {}, None)
    assert len(inventory.statements(shop.house.broker, shop.alice, SHOP, "data")) == 2
    again = shop.house.volume()
    assert shop.row(again.volume).wrapped != {}
    assert shop.sweep_hours(48) == []


def test_a_successor_that_nothing_was_moved_to_is_destroyed_with_its_holder(shop: Shop) -> None:
    _holder, successor = migration(shop.house, shop.host, shop.volume)
    shop.delete()
    shop.sweep_hours(FORTNIGHT)
    assert (shop.row(successor.volume).volume.role, shop.row(successor.volume).wrapped) == ("former", {})


def test_a_re_encryption_that_is_under_way_goes_on_once_the_deletion_is_called_off(shop: Shop) -> None:
    house, volume = shop.house, shop.volume
    orders.order(house.broker, shop.alice, SHOP, "data", OrderSpec("reencrypt"))
    rotated = house.rotated(shop.host, volume, 17)
    begun = orders.announce(house.broker, shop.host, volume, PhaseRequest(rotated.revision, 1))
    shop.delete()
    revision = shop.record.revision
    told = PhaseRequest(revision, 1, NEW_DIGEST)
    assert problem(lambda: orders.announce(house.broker, shop.host, volume, told)) is Problem.DELETED
    midway = luks2(begun, sequence=18, requirements=BUSY)
    assert house.unlock(shop.host, midway).grants[0].keys == {}
    shop.sweep_hours(FORTNIGHT - 1)
    shop.undelete()
    assert sorted(house.unlock(shop.host, midway).grants[0].keys) == [3]
    announced = orders.announce(
        house.broker, shop.host, volume, PhaseRequest(shop.record.revision, 1, NEW_DIGEST)
    )
    house.back_up(shop.host, volume, reencrypted(announced, 20))
    assert orders.finish(house.broker, shop.host, volume, 1).order is None


# races


def test_a_boot_that_was_decided_before_the_deletion_gets_no_key_after_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = boot._decide

    def decide(broker: object, reading: Reading, caller: Caller, asked: object) -> object:
        found = real(broker, reading, caller, asked)  # type: ignore[arg-type]
        monkeypatch.setattr(boot, "_decide", real)
        shop.delete()
        return found

    monkeypatch.setattr(boot, "_decide", decide)
    reply = boot.unlock(shop.house.broker, shop.host, request(luks2(shop.record, sequence=12)))
    assert [grant.refused and grant.refused.problem for grant in reply.grants] == [Problem.DELETED]
    assert ("unlock", "released", shop.volume) not in shop.house.audit()


def test_what_is_called_off_while_the_sweep_is_about_to_destroy_it_stays(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.delete()
    assert shop.sweep_hours(FORTNIGHT - 1) == []
    shop.house.clock.forward(hours=1)
    real = destruction._sweep_volume

    def late(*arguments: object) -> bool:
        shop.undelete()
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(destruction, "_sweep_volume", late)
    assert destruction.sweep(shop.house.broker) == ()
    assert shop.granted() == {shop.volume: [2]}


def test_a_crash_in_the_middle_leaves_it_whole_and_the_next_sweep_does_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.house.volume(name="more")
    shop.delete_addon()
    assert shop.sweep_hours(FORTNIGHT - 1) == []
    shop.house.clock.forward(hours=1)
    before = shop.house.broker.store.read(
        lambda reading: [(row, reading.headers(row.volume.id)) for row in reading.volumes()]
    )
    real = SqlWriting.append

    for after in range(1, 4):
        writes = 0

        def append(self: SqlWriting, *events: object, after: int = after) -> tuple[int, str]:
            nonlocal writes
            writes += 1
            if writes == after:
                raise KeybrokerError(Problem.UNAVAILABLE, "database: the disk is full")
            return real(self, *events)  # type: ignore[arg-type]

        monkeypatch.setattr(SqlWriting, "append", append)
        with pytest.raises(KeybrokerError):
            destruction.sweep(shop.house.broker)
        monkeypatch.setattr(SqlWriting, "append", real)
        now = shop.house.broker.store.read(
            lambda reading: [(row, reading.headers(row.volume.id)) for row in reading.volumes()]
        )
        assert now == before
        assert len(shop.house.broker.store.read(lambda reading: reading.addon_keys(SHOP))) == 1
    assert destruction.sweep(shop.house.broker) == ("shop-db",)


# a database that was set back


def test_nothing_is_destroyed_while_the_database_may_be_an_old_one(old: Old) -> None:
    house = old.house
    deletions.delete_volume(house.broker, house.operator, "shop-db", "data", "TICKET-1")
    old.set_back(lambda: deletions.undelete_volume(house.broker, house.operator, "shop-db", "data"))
    for _hour in range(FORTNIGHT * 2):
        house.clock.forward(hours=1)
        assert destruction.sweep(house.broker) == ()
    assert house.keys(old.volume) != {}
    # its host has heard of the call-off, and shows it: held until somebody decides
    old.report(revision=old.record.revision + 1)
    for _hour in range(48):
        house.clock.forward(hours=1)
        assert destruction.sweep(house.broker) == ()
    house.broker.store.write(
        lambda writing: setback.accept(writing, "shop-db", "data", "root", house.clock.now)
    )
    # even then it is reminded of first, and stands for a day
    assert destruction.sweep(house.broker) == ()
    for _hour in range(23):
        house.clock.forward(hours=1)
        assert destruction.sweep(house.broker) == ()
    house.clock.forward(hours=1)
    assert destruction.sweep(house.broker) == ("shop-db/data",)


def test_two_people_cannot_destroy_at_once_what_is_held(old: Old) -> None:
    house = old.house
    bob = add(house, "bob", "approver")
    old.set_back(lambda: None)
    view, _ = deletions.delete_volume(house.broker, house.operator, "shop-db", "data", "TICKET-1", 0)
    due = sooner(view.volume.deletion)

    def ask() -> VolumeView:
        return deletions.approve_volume(house.broker, bob, "shop-db", "data", due)

    assert problem(ask) is Problem.CONFLICT
    old.report()
    assert ask().record.stage == "erased"


def test_an_add_on_of_which_a_newer_database_knows_more_is_held(shop: Shop) -> None:
    shop.delete_addon()
    said = VolumeReport(VolumeId("kbv-" + "z" * 12), "open")
    asked = ReportRequest("00000000-0000-4000-8000-000000000000", "0" * 32, "0.1.0", (said,))
    reports.report(shop.house.broker, shop.host, asked)
    assert shop.sweep_hours(FORTNIGHT * 2) == []


# retired keys


@pytest.mark.parametrize("whole", [False, True])
def test_a_retired_key_outlives_a_deletion_that_is_called_off_by_the_time_that_no_host_could_ask_for_it(
    shop: Shop, whole: bool
) -> None:
    broker = shop.house.broker
    shop.house.clock.forward(days=29)
    if whole:
        shop.delete_addon(20)
    else:
        shop.delete(20)
    shop.house.clock.forward(days=10)
    assert endings.sweep(broker) == ()
    if whole:
        deletions.undelete_addon(broker, shop.alice, SHOP)
    else:
        shop.undelete()
    shop.house.clock.forward(hours=23)
    assert endings.sweep(broker) == ()
    older = luks2(shop.record, sequence=3)
    assert sorted(shop.house.unlock(shop.host, older).grants[0].keys) == [1, 2]
    shop.house.clock.forward(days=30)
    assert endings.sweep(broker) == (), "an old snapshot needs it after all"


@pytest.mark.parametrize("addon_first", [False, True], ids=["volume first", "add-on first"])
@pytest.mark.parametrize(("addon_day", "volume_day"), [(0, 50), (50, 0)])
def test_a_retired_key_outlives_deletions_that_overlap_by_all_the_time_that_no_host_could_ask_for_it(
    shop: Shop, addon_day: int, volume_day: int, addon_first: bool
) -> None:
    broker = shop.house.broker
    shop.house.clock.forward(days=29)  # the retired key has a day left, whenever nothing is pending
    asks: dict[int, Callable[[], object]] = {
        addon_day: lambda: shop.delete_addon(400),
        volume_day: lambda: shop.delete(400),
    }
    asks[0]()
    shop.house.clock.forward(days=50)
    asks[50]()
    shop.house.clock.forward(days=10)
    calls: list[Callable[[], object]] = [
        lambda: deletions.undelete_addon(broker, shop.alice, SHOP),
        shop.undelete,
    ]
    first, last = calls if addon_first else reversed(calls)
    first()
    shop.house.clock.forward(days=10)
    assert endings.sweep(broker) == ()
    last()
    shop.house.clock.forward(hours=23)
    assert endings.sweep(broker) == ()
    shop.house.clock.forward(hours=1)
    assert endings.sweep(broker) == ((shop.volume, 1),), "and by no more than that"


def test_nothing_of_an_erased_volume_is_shown_while_its_add_on_is_to_be_destroyed(shop: Shop) -> None:
    orders.order(shop.house.broker, shop.alice, SHOP, "data", OrderSpec("erase", disk_gone=True))

    def ask() -> revealing.Revealed:
        broker = shop.house.broker
        return revealing.reveal(broker, shop.alice, SHOP, "data", "INC-1", version=KeyVersion(2))

    assert ask().version == 2
    shop.delete_addon()
    assert problem(ask) is Problem.CONFLICT


# clocks


def test_a_clock_that_jumps_ahead_destroys_nothing_before_somebody_could_see_it(shop: Shop) -> None:
    shop.delete()
    right = shop.house.clock.now
    shop.house.clock.forward(days=3650)
    assert destruction.sweep(shop.house.broker) == ()
    shop.house.clock.forward(hours=23)
    assert destruction.sweep(shop.house.broker) == ()
    shop.house.clock.now = right + timedelta(days=1)
    assert shop.sweep_hours(12 * 24) == []
    assert shop.sweep_hours(24) == ["shop-db/data"]


def test_a_broker_that_was_down_all_the_while_reminds_first(shop: Shop) -> None:
    shop.delete()
    shop.house.clock.forward(days=60)
    assert destruction.sweep(shop.house.broker) == ()
    assert shop.undelete()


def test_a_shown_passphrase_is_not_rotated_while_its_volume_is_to_be_destroyed(shop: Shop) -> None:
    revealing.reveal(shop.house.broker, shop.alice, SHOP, "data", "INC-1", hours=0)
    shop.delete()
    assert revealing.sweep(shop.house.broker) == ()
    assert shop.record.wanted == 2
    shop.undelete()
    assert revealing.sweep(shop.house.broker) == (shop.volume,)


def test_who_may_do_what(shop: Shop) -> None:
    auditor: Peer = add(shop.house, "carol", "auditor")
    for by, allowed in ((auditor, False), (shop.bob, False), (shop.alice, True)):
        if allowed:
            assert shop.delete(0, by=by)
        else:
            assert problem(lambda by=by: shop.delete(by=by)) is Problem.NOT_ALLOWED  # type: ignore[misc]
    assert problem(lambda: shop.undelete(by=auditor)) is Problem.NOT_ALLOWED
    assert problem(lambda: shop.undelete(by=shop.host)) is Problem.NOT_ALLOWED


def test_only_what_is_there_can_be_deleted_and_for_a_reason(shop: Shop) -> None:
    broker = shop.house.broker
    delete = deletions.delete_volume
    assert problem(lambda: delete(broker, shop.alice, SHOP, "nosuch", "x")) is Problem.UNKNOWN
    assert problem(lambda: delete(broker, shop.alice, SHOP, "data", "")) is Problem.MALFORMED
    assert problem(lambda: delete(broker, shop.alice, SHOP, "data", "x", 3651)) is Problem.MALFORMED
    assert problem(lambda: delete(broker, shop.alice, SHOP, "data", "two\nlines")) is Problem.MALFORMED
    assert not shop.undelete()
