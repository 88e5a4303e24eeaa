"""Operators appoint operators, nobody gets more than they have, and the last one stays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from keybroker.ca import new_key
from keybroker.csr import signing_request
from keybroker.policy import Peer
from keybroker.service import inventory, roster
from keybroker.service.roster import Appointment
from keybroker.wire.names import Identity
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.broker_house import TRUST_DOMAIN, House, csr, fingerprint


def as_peer(made: Appointment) -> Peer:
    name = made.operator.name
    return Peer(Identity(TRUST_DOMAIN, "operator", name), fingerprint(made.certificate), "192.0.2.7")


def add(house: House, name: str, *roles: str, by: Peer | None = None) -> Peer:
    made, _new = roster.add(house.broker, by or house.operator, name, roles, csr())
    return as_peer(made)


def problem(ask: Callable[[], object]) -> Problem:
    with pytest.raises(KeybrokerError) as caught:
        ask()
    return caught.value.problem


def test_the_first_operator_has_all_roles_but_metrics(house: House) -> None:
    view = roster.myself(house.broker, house.operator)
    assert (view.name, view.roles, view.added_by) == ("alice", ("approver", "auditor", "operator"), None)
    assert view.expires == house.clock.now + timedelta(days=365)


def test_an_operator_is_added_with_roles_and_a_certificate_and_says_who_added_it(house: House) -> None:
    bob = add(house, "bob", "auditor", "metrics")
    view = roster.myself(house.broker, bob)
    assert (view.roles, view.added_by, view.state) == (("auditor", "metrics"), "alice", "active")
    assert roster.operators(house.broker, bob)[1] == view
    assert roster.operator(house.broker, house.operator, "bob") == view
    assert problem(lambda: inventory.put_addon(house.broker, bob, "x", "redis")) is Problem.NOT_ALLOWED
    assert house.audit()[-2:] == [("operator.add", "done", None), ("addon.add", "denied", None)]


def test_the_same_again_gives_the_same_certificate_and_anything_else_is_a_conflict(house: House) -> None:
    key, broker = new_key(), house.broker
    first, new = roster.add(broker, house.operator, "bob", ["auditor"], signing_request(key))
    again, newer = roster.add(broker, house.operator, "bob", ["auditor"], signing_request(key))
    assert (new, newer, again) == (True, False, first)
    for roles, asked in ((["metrics"], signing_request(key)), (["auditor"], csr())):
        assert problem(lambda: roster.add(broker, house.operator, "bob", roles, asked)) is Problem.EXISTS  # noqa: B023


@pytest.mark.parametrize(
    ("name", "roles", "asked"),
    [
        ("Bob", ["auditor"], csr()),
        ("../bob", ["auditor"], csr()),
        ("bob", [], csr()),
        ("bob", ["root"], csr()),
        ("bob", ["auditor"], "no request"),
    ],
)
def test_what_is_no_name_role_or_request_is_refused(
    house: House, name: str, roles: list[str], asked: str
) -> None:
    assert problem(lambda: roster.add(house.broker, house.operator, name, roles, asked)) is Problem.MALFORMED
    assert len(roster.operators(house.broker, house.operator)) == 1


@pytest.mark.parametrize("role", ["approver", "auditor"])
def test_nobody_gives_a_role_that_they_lack_to_others_or_themselves(house: House, role: str) -> None:
    broker, only = house.broker, add(house, "only", "operator")
    bob = add(house, "bob", "metrics")
    refused = [
        lambda: roster.add(broker, only, "eve", [role], csr()),
        lambda: roster.change_roles(broker, only, "only", ["operator", role]),
        lambda: roster.change_roles(broker, only, "bob", ["metrics", role]),
        lambda: roster.change_roles(broker, only, "alice", ["operator"]),
        lambda: roster.certify(broker, only, "alice", csr()),
    ]
    for ask in refused:
        assert problem(ask) is Problem.NOT_ALLOWED
        assert house.audit()[-1][1] == "refused"
    assert roster.myself(broker, only).roles == ("operator",)
    assert roster.myself(broker, bob).roles == ("metrics",)
    assert roster.myself(broker, house.operator).roles == ("approver", "auditor", "operator")


def test_metrics_and_the_roles_that_one_has_may_be_given(house: House) -> None:
    only = add(house, "only", "operator")
    bob = add(house, "bob", "operator", "metrics", by=only)
    assert roster.myself(house.broker, bob).added_by == "only"
    assert roster.change_roles(house.broker, only, "bob", ["metrics"]).roles == ("metrics",)


@pytest.mark.parametrize("role", ["approver", "auditor", "metrics"])
def test_without_the_role_operator_nobody_manages_operators(house: House, role: str) -> None:
    broker, bob = house.broker, add(house, "bob", role)
    for ask in (
        lambda: roster.add(broker, bob, "eve", [role], csr()),
        lambda: roster.change_roles(broker, bob, "bob", ["operator"]),
        lambda: roster.certify(broker, bob, "alice", csr()),
        lambda: roster.revoke(broker, bob, "alice", "x"),
    ):
        assert problem(ask) is Problem.NOT_ALLOWED
    assert as_peer(roster.renew(broker, bob, csr())).identity == bob.identity


def test_a_change_of_roles_holds_at_the_very_next_request(house: House) -> None:
    bob = add(house, "bob", "auditor")
    assert problem(lambda: inventory.put_addon(house.broker, bob, "x", "redis")) is Problem.NOT_ALLOWED
    roster.change_roles(house.broker, house.operator, "bob", ["operator"])
    inventory.put_addon(house.broker, bob, "x", "redis")
    roster.change_roles(house.broker, house.operator, "bob", ["metrics"])
    assert problem(lambda: inventory.addons(house.broker, bob)) is Problem.NOT_ALLOWED
    before = house.audit()
    roster.change_roles(house.broker, house.operator, "bob", ["metrics"])
    assert house.audit() == before


def test_a_revoked_operator_is_turned_away_at_the_next_request_and_its_name_is_not_used_again(
    house: House,
) -> None:
    broker, bob = house.broker, add(house, "bob", "operator")
    view = roster.revoke(broker, house.operator, "bob", "left")
    assert (view.state, view.reason, view.revoked) == ("revoked", "left", house.clock.now)
    assert roster.revoke(broker, house.operator, "bob", "again").reason == "left"
    assert problem(lambda: roster.myself(broker, bob)) is Problem.REVOKED
    assert problem(lambda: roster.add(broker, house.operator, "bob", ["operator"], csr())) is Problem.EXISTS
    assert problem(lambda: roster.certify(broker, house.operator, "bob", csr())) is Problem.CONFLICT
    assert (
        problem(lambda: roster.change_roles(broker, house.operator, "bob", ["metrics"])) is Problem.CONFLICT
    )
    assert problem(lambda: roster.recover(broker, "bob", ["operator"], csr())) is Problem.CONFLICT


def test_the_last_one_who_can_manage_operators_stays(house: House) -> None:
    broker, alice = house.broker, house.operator
    add(house, "bob", "auditor")
    for ask in (
        lambda: roster.revoke(broker, alice, "alice", "tired"),
        lambda: roster.change_roles(broker, alice, "alice", ["auditor"]),
    ):
        assert problem(ask) is Problem.CONFLICT
    carl = add(house, "carl", "operator")
    assert roster.revoke(broker, alice, "alice", "tired").state == "revoked"
    assert problem(lambda: roster.revoke(broker, carl, "carl", "tired")) is Problem.CONFLICT


def test_one_whose_certificate_is_over_is_not_counted_on(house: House) -> None:
    add(house, "carl", "operator")
    house.clock.forward(days=200)
    alice = as_peer(roster.renew(house.broker, house.operator, csr()))
    house.clock.forward(days=200)
    assert problem(lambda: roster.revoke(house.broker, alice, "alice", "tired")) is Problem.CONFLICT


def test_ones_own_next_certificate_leaves_the_old_one_good(house: House) -> None:
    key, broker = new_key(), house.broker
    first = roster.renew(broker, house.operator, signing_request(key))
    assert roster.renew(broker, as_peer(first), signing_request(key)).certificate == first.certificate
    house.clock.forward(days=200)
    later = roster.renew(broker, as_peer(first), signing_request(key))
    assert later.certificate != first.certificate
    for who in (house.operator, as_peer(first), as_peer(later)):
        assert roster.myself(broker, who).name == "alice"


def test_a_certificate_for_somebodys_new_key_replaces_those_from_before(house: House) -> None:
    broker, bob = house.broker, add(house, "bob", "operator", "auditor")
    house.clock.forward(seconds=1)
    asked = csr()
    new = roster.certify(broker, house.operator, "bob", asked)
    assert problem(lambda: roster.myself(broker, bob)) is Problem.REVOKED
    assert roster.myself(broker, as_peer(new)).roles == ("auditor", "operator")
    assert roster.certify(broker, house.operator, "bob", asked).certificate == new.certificate
    assert roster.myself(broker, as_peer(new)).name == "bob"


def test_recovery_makes_one_who_can_manage_operators_and_is_on_record(house: House) -> None:
    house.clock.forward(days=366)
    assert problem(lambda: roster.myself(house.broker, house.operator)) is Problem.CERTIFICATE
    alice = as_peer(roster.recover(house.broker, "alice", ["operator"], csr()))
    assert house.audit()[-1] == ("operator.recover", "done", None)
    assert roster.myself(house.broker, alice).roles == ("approver", "auditor", "operator")
    carl = roster.recover(house.broker, "carl", ["auditor", "operator"], csr())
    assert (carl.operator.roles, carl.operator.added_by) == (("auditor", "operator"), None)
    assert house.broker.store.read(lambda reading: roster.managers(reading, house.clock.now)) == [
        "alice",
        "carl",
    ]


def test_a_host_has_no_roles_and_manages_nobody(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    for ask in (
        lambda: roster.myself(house.broker, peer),
        lambda: roster.operators(house.broker, peer),
        lambda: roster.add(house.broker, peer, "eve", ["metrics"], csr()),
        lambda: roster.renew(house.broker, peer, csr()),
    ):
        assert problem(ask) is Problem.NOT_ALLOWED
