"""What operators ask for is done once, said again when repeated, and refused when it makes no sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from keybroker.service import health, inventory, trail
from keybroker.service.inventory import VolumeSpec
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.broker_house import GIB, House

SPEC = VolumeSpec(GIB, "aes-xts-plain64", "/srv/data", "ext4")


def problem(ask: Callable[[], object]) -> Problem:
    with pytest.raises(KeybrokerError) as caught:
        ask()
    return caught.value.problem


def put(house: House, name: str = "data", spec: VolumeSpec = SPEC, addon: str = "shop-db") -> bool:
    _view, created = inventory.put_volume(house.broker, house.operator, addon, name, spec)
    return created


def test_an_add_on_is_made_once(house: House) -> None:
    broker, operator = house.broker, house.operator
    view, created = inventory.put_addon(broker, operator, "shop-db", "postgresql")
    assert (view.name, view.engine, created) == ("shop-db", "postgresql", True)
    assert inventory.put_addon(broker, operator, "shop-db", "postgresql") == (view, False)
    assert problem(lambda: inventory.put_addon(broker, operator, "shop-db", "redis")) is Problem.EXISTS


@pytest.mark.parametrize(
    ("name", "engine"), [("Shop", "redis"), ("", "redis"), ("a" * 41, "redis"), ("a", "oracle")]
)
def test_an_add_on_that_makes_no_sense_is_not_made(house: House, name: str, engine: str) -> None:
    asks = problem(lambda: inventory.put_addon(house.broker, house.operator, name, engine))
    assert asks is Problem.MALFORMED
    assert inventory.addons(house.broker, house.operator) == ()


def test_an_add_on_counts_its_volumes_and_its_hosts_without_the_revoked(house: House) -> None:
    for name in ("shop-db", "blog-db"):
        house.addon(name)
    house.volume()
    house.volume(name="swap", filesystem="swap")
    kept = inventory.invite(house.broker, house.operator, "shop-db")
    gone = inventory.invite(house.broker, house.operator, "shop-db")
    inventory.revoke(house.broker, house.operator, gone.host, "mistake")
    blog, shop = inventory.addons(house.broker, house.operator)
    assert (blog.name, blog.volumes, blog.hosts) == ("blog-db", 0, 0)
    assert (shop.name, shop.volumes, shop.hosts) == ("shop-db", 2, 1)
    assert inventory.addon(house.broker, house.operator, "shop-db") == shop
    states = {view.host: view.state for view in inventory.hosts(house.broker, house.operator, "shop-db")}
    assert states == {kept.host: "invited", gone.host: "revoked"}


def test_a_volume_is_made_once_and_a_different_one_of_its_name_refused(house: House) -> None:
    house.addon()
    assert put(house)
    assert not put(house)
    for other in (
        replace(SPEC, size_bytes=2 * GIB),
        replace(SPEC, cipher="aes-cbc-essiv:sha256"),
        replace(SPEC, mount="/srv/other"),
        replace(SPEC, filesystem="xfs"),
        replace(SPEC, serial="disk-1"),
    ):
        assert problem(lambda other=other: put(house, spec=other)) is Problem.EXISTS  # type: ignore[misc]


def test_a_volume_s_disk_is_known_by_the_volume_s_id_unless_a_serial_is_given(house: House) -> None:
    house.addon()
    own, _created = inventory.put_volume(house.broker, house.operator, "shop-db", "data", SPEC)
    assert own.record.serial == own.record.volume
    given = replace(SPEC, serial="WD-0042", mount="/srv/wal")
    view, _created = inventory.put_volume(house.broker, house.operator, "shop-db", "wal", given)
    assert view.record.serial == "WD-0042"
    assert inventory.volume(house.broker, house.operator, "shop-db", "wal") == view
    assert not put(house, "wal", given)


def test_two_volumes_of_an_add_on_share_neither_mount_point_nor_serial(house: House) -> None:
    house.addon()
    house.addon("blog-db")
    put(house, spec=replace(SPEC, serial="disk-1"))
    assert problem(lambda: put(house, "wal", replace(SPEC, serial="disk-2"))) is Problem.EXISTS
    same_disk = replace(SPEC, serial="disk-1", mount="/srv/wal")
    assert problem(lambda: put(house, "wal", same_disk)) is Problem.EXISTS
    assert put(house, "data", replace(SPEC, serial="disk-1"), addon="blog-db")


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("Data", SPEC),
        ("a" * 25, SPEC),
        ("data", replace(SPEC, filesystem="ntfs")),
        ("data", replace(SPEC, size_bytes=(16 << 20) - 1)),
        ("data", replace(SPEC, size_bytes=1 << 63)),
        ("data", replace(SPEC, cipher="cipher_null-ecb")),
        ("data", replace(SPEC, mount="srv/data")),
        ("data", replace(SPEC, mount="/srv/../etc")),
        ("data", replace(SPEC, mount="/" + "a" * 200)),
        ("data", replace(SPEC, filesystem="none")),
        ("data", replace(SPEC, serial="a b")),
        ("swap", replace(SPEC, filesystem="swap")),
        ("swap", replace(SPEC, filesystem="swap", mount=None, size_bytes=(16 << 20) - 1)),
        ("swap", replace(SPEC, filesystem="swap", mount=None, cipher="aes-cbc-essiv:sha256")),
    ],
)
def test_a_volume_that_makes_no_sense_is_not_made(house: House, name: str, spec: VolumeSpec) -> None:
    house.addon()
    assert problem(lambda: put(house, name, spec)) is Problem.MALFORMED
    assert inventory.volumes(house.broker, house.operator) == ()


def test_an_add_on_has_no_more_volumes_than_a_boot_s_message_holds(house: House) -> None:
    house.addon()
    for i in range(64):
        put(house, f"data{i}", replace(SPEC, mount=None))
    assert problem(lambda: put(house, "data64", replace(SPEC, mount=None))) is Problem.CONFLICT


def test_nothing_is_found_that_is_not_there(house: House) -> None:
    broker, operator = house.broker, house.operator
    house.addon()
    asks: list[Callable[[], object]] = [
        lambda: inventory.addon(broker, operator, "nix"),
        lambda: inventory.volume(broker, operator, "shop-db", "nix"),
        lambda: inventory.volume(broker, operator, "nix", "data"),
        lambda: inventory.volumes(broker, operator, "nix"),
        lambda: inventory.hosts(broker, operator, "nix"),
        lambda: inventory.host(broker, operator, "kbh-aaaaaaaaaaaa"),
        lambda: inventory.revoke(broker, operator, "kbh-aaaaaaaaaaaa", "reason"),
        lambda: inventory.invite(broker, operator, "nix"),
        lambda: put(house, addon="nix"),
    ]
    assert [problem(ask) for ask in asks] == [Problem.UNKNOWN] * len(asks)


@pytest.mark.parametrize("seconds", [0, 59, 7 * 86400 + 1, -1])
def test_a_token_s_lifetime_has_bounds(house: House, seconds: int) -> None:
    house.addon()
    asks = problem(lambda: inventory.invite(house.broker, house.operator, "shop-db", seconds))
    assert asks is Problem.MALFORMED


def test_the_first_revocation_s_reason_stays(house: House) -> None:
    house.addon()
    invited = inventory.invite(house.broker, house.operator, "shop-db")
    first = inventory.revoke(house.broker, house.operator, invited.host, "stolen")
    house.clock.forward(days=1)
    assert inventory.revoke(house.broker, house.operator, invited.host, "returned") == first
    assert (first.state, first.reason) == ("revoked", "stolen")


@pytest.mark.parametrize("reason", ["", "a" * 501, "two\nlines"])
def test_a_revocation_says_why_in_one_line(house: House, reason: str) -> None:
    house.addon()
    invited = inventory.invite(house.broker, house.operator, "shop-db")
    asks = problem(lambda: inventory.revoke(house.broker, house.operator, invited.host, reason))
    assert asks is Problem.MALFORMED


def test_a_host_may_do_none_of_it_and_each_attempt_is_on_record(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    broker = house.broker
    asks: list[Callable[[], object]] = [
        lambda: inventory.put_addon(broker, peer, "mine", "redis"),
        lambda: inventory.addons(broker, peer),
        lambda: inventory.put_volume(broker, peer, "shop-db", "data", SPEC),
        lambda: inventory.volumes(broker, peer),
        lambda: inventory.invite(broker, peer, "shop-db"),
        lambda: inventory.hosts(broker, peer),
        lambda: inventory.revoke(broker, peer, peer.identity.name, "me"),
        lambda: trail.records(broker, peer),
        lambda: trail.checkpoints(broker, peer),
    ]
    assert [problem(ask) for ask in asks] == [Problem.NOT_ALLOWED] * len(asks)
    assert [outcome for _verb, outcome, _volume in house.audit()[-len(asks) :]] == ["denied"] * len(asks)


def test_a_broker_is_ready_until_it_is_closed(house: House) -> None:
    health.ready(house.broker)
    house.broker.close()
    assert problem(lambda: health.ready(house.broker)) is Problem.UNAVAILABLE
    assert (
        problem(lambda: inventory.put_addon(house.broker, house.operator, "a", "redis"))
        is Problem.UNAVAILABLE
    )
