"""The tables of keybroker/terms.py, row by row; and what comes of them in the service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from keybroker.rights import Verb
from keybroker.service import policies
from keybroker.terms import Bucket, Change, Terms, draw, networks, outside, stored
from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.broker_house import House, blank, luks2

LISTED = Terms(allow=("192.0.2.0/24", "2001:db8::/32"))


def problem(ask: Callable[[], object]) -> KeybrokerError:
    with pytest.raises(KeybrokerError) as caught:
        ask()
    return caught.value


@pytest.mark.parametrize(
    ("terms", "address", "denied", "allowed"),
    [
        (LISTED, "192.0.2.0", False, True),
        (LISTED, "192.0.2.255", True, True),
        (LISTED, "192.0.3.0", False, False),
        (LISTED, "::ffff:192.0.2.9", False, True),
        (LISTED, "::ffff:192.0.3.9", False, False),
        (LISTED, "2001:db8:ffff::1", False, True),
        (LISTED, "2001:db9::1", False, False),
        (LISTED, "fe80::1%eth0", False, False),
        (Terms(allow=("fe80::/10",)), "fe80::1%eth0", False, True),
        (LISTED, "local", False, False),
        (Terms(allow=("0.0.0.0/0",)), "2001:db8::1", False, False),
        (Terms(), "198.51.100.1", False, True),
        (Terms(), "198.51.100.1", True, False),
        (Terms(allow=("0.0.0.0/0", "::/0")), "198.51.100.1", True, True),
    ],
)
def test_a_row_of_the_table_of_addresses(terms: Terms, address: str, denied: bool, allowed: bool) -> None:
    error = outside(terms, "unlock", address, denied=denied)
    assert (error is None) == allowed
    assert error is None or error.problem is Problem.WRONG_ADDRESS


@pytest.mark.parametrize(
    ("verb", "allowed"),
    [
        ("unlock", False),
        ("claim", False),
        ("stage", False),
        ("switch", False),
        ("report", True),
        ("renew", True),
    ],
)
def test_hosts_of_a_disabled_add_on_report_and_renew_and_no_more(verb: Verb, allowed: bool) -> None:
    error = outside(Terms(enabled=False), verb, "192.0.2.1", denied=False)
    assert (error is None) == allowed
    assert error is None or (error.problem, error.problem.temporary) == (Problem.DISABLED, False)


def test_a_wrong_address_is_said_before_anything_else() -> None:
    error = outside(replace(LISTED, enabled=False), "report", "198.51.100.1", denied=False)
    assert error is not None
    assert error.problem is Problem.WRONG_ADDRESS


def test_networks_have_one_spelling_and_are_there_once() -> None:
    given = ("2001:DB8:0::/32", "192.0.2.7", "10.0.0.0/8", "192.0.2.7/32")
    assert networks(given) == ("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32")


@pytest.mark.parametrize(
    "text", ["192.0.2.1/24", "any", "", "192.0.2.0/33", "2001:db8::1/32", "192.0.2", "a.b"]
)
def test_what_is_no_network_is_refused(text: str) -> None:
    assert problem(lambda: networks((text,))).problem is Problem.MALFORMED


def test_a_change_changes_what_it_names_and_a_stored_policy_comes_back() -> None:
    terms = LISTED.changed(Change(enabled=False, rate=0))
    assert terms == Terms(enabled=False, allow=LISTED.allow, rate=0)
    assert terms.changed(Change(allow=())).allow == ()
    assert stored('{"enabled": false, "allow": ["192.0.2.0/24"]}') == Terms(False, ("192.0.2.0/24",))


@pytest.mark.parametrize(
    "body", [{"rate": -1}, {"rate": 1_000_001}, {"enabled": 1}, {"allow": "any"}, {"hours": 1}]
)
def test_a_change_that_makes_no_sense_is_malformed(body: dict[str, object]) -> None:
    assert problem(lambda: Change.read(Fields(body))).problem is Problem.MALFORMED


def test_a_bucket_holds_a_minute_s_tokens_and_fills_evenly() -> None:
    bucket: Bucket | None = None
    for _ in range(30):
        bucket, wait = draw(bucket, 30, 100.0)
        assert wait == 0
    bucket, wait = draw(bucket, 30, 100.0)
    assert wait == pytest.approx(2.0)
    bucket, wait = draw(bucket, 30, 101.0)
    assert wait == pytest.approx(1.0)
    bucket, wait = draw(bucket, 30, 102.0)
    assert wait == 0
    assert draw(bucket, 30, 10_000.0)[0].tokens == 29


def test_a_clock_that_is_set_back_gives_no_tokens_and_takes_none() -> None:
    bucket, _wait = draw(Bucket(1.0, 100.0), 60, 50.0)
    assert bucket == Bucket(0.0, 50.0)
    assert draw(bucket, 60, 51.0) == (Bucket(0.0, 51.0), 0.0)


def change(house: House, change: Change) -> None:
    policies.change(house.broker, house.operator, "shop-db", change)


def test_keys_go_to_listed_addresses_only_and_the_refusal_is_on_record(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    record = house.provision(peer, house.volume())
    change(house, Change(allow=("198.51.100.0/24",)))
    assert problem(lambda: house.unlock(peer, luks2(record))).problem is Problem.WRONG_ADDRESS
    assert house.audit()[-1] == ("unlock", "denied", None)
    moved = replace(peer, address="198.51.100.7")
    assert house.unlock(moved, luks2(record)).grants[0].keys


def test_a_token_from_a_wrong_address_is_refused_and_stays_good(house: House) -> None:
    house.addon()
    change(house, Change(allow=("198.51.100.0/24",)))
    assert problem(house.enrol).problem is Problem.TOKEN_REFUSED
    assert house.audit()[-1] == ("enrol", "denied", None)
    change(house, Change(allow=()))
    house.enrol()


def test_a_disabled_add_on_hands_out_nothing_until_it_is_enabled(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    record = house.provision(peer, house.volume())
    change(house, Change(enabled=False))
    assert problem(lambda: house.unlock(peer, luks2(record))).problem is Problem.DISABLED
    assert problem(lambda: house.provision(peer, house.volume(name="more"))).problem is Problem.DISABLED
    change(house, Change(enabled=True))
    assert house.unlock(peer, luks2(record)).grants[0].keys


def test_an_unchanged_policy_leaves_no_record(house: House) -> None:
    house.addon()
    change(house, Change(rate=7))
    count = len(house.audit())
    change(house, Change(rate=7))
    change(house, Change())
    assert len(house.audit()) == count
    entry = list(house.broker.store.audit_records())[-1]
    assert (entry.verb, entry.detail) == ("addon.policy", '{"policy":{"rate":7}}')


def test_a_host_that_asks_too_often_waits_and_one_refusal_a_minute_is_on_record(house: House) -> None:
    house.addon()
    change(house, Change(rate=3))
    peer, _certified = house.enrol()
    other, _certified = house.enrol()
    record = house.volume()
    for _ in range(1 + 3):  # one as a new boot, three as the one that it is then
        house.unlock(peer, blank(record))
    error = problem(lambda: house.unlock(peer))
    assert error.problem is Problem.BUSY
    assert error.retry_after == pytest.approx(20.0)
    count = len(house.audit())
    assert problem(lambda: house.unlock(peer)).problem is Problem.BUSY
    assert len(house.audit()) == count
    house.unlock(other)
    house.clock.forward(seconds=20)
    house.unlock(peer)


def test_an_add_on_has_a_rate_of_its_own(house: House) -> None:
    house.addon()
    house.addon("blog-db")
    change(house, Change(addon_rate=2))
    peers = [house.enrol()[0] for _ in range(3)]
    for peer in peers[:2]:
        house.unlock(peer)
    assert problem(lambda: house.unlock(peers[2])).problem is Problem.BUSY
    house.unlock(house.enrol("blog-db")[0])
