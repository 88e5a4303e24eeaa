"""Which boots get keys: the table of keybroker/model/boots.py row by row, and the service by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keybroker.audit import AuditEntry
from keybroker.model import boots as model
from keybroker.model.boots import Boot, Judged, Rules, Sight, State
from keybroker.policy import Peer
from keybroker.service import (
    boot,
    boots,
    inventory,
    orders,
    policies,
    provisioning,
    reports,
    rotation,
    sentry,
)
from keybroker.terms import Change, Terms, loosens
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.changes import StageRequest
from keybroker.wire.messages import ClaimRequest, UnlockReply, UnlockRequest
from keybroker.wire.names import HostId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Observation, Record
from keybroker.wire.reports import ReportRequest
from tests.contract.broker_house import House, device, luks2

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOST = HostId("kbh-aaaaaaaaaaaa")
HERE, THERE, SIXTH = "192.0.2.1", "192.0.2.7", "2001:db8::1"
OLD, NEW, OTHER, LATER, LAST = (f"00000000-0000-4000-8000-00000000000{i}" for i in range(5))
MACHINE, CLONE = "0" * 32, "1" * 32


def known(
    state: State, boot_id: str = OLD, machine: str = MACHINE, address: str = HERE, ago: float = 30
) -> Boot:
    seen = NOW - timedelta(seconds=ago)
    return Boot(HOST, boot_id, machine, address, state, seen, seen)


def judged(
    *there: Boot,
    boot_id: str = NEW,
    machine: str = MACHINE,
    address: str = HERE,
    rules: Rules = Rules(),  # noqa: B008
    asks: bool = True,
) -> Judged:
    return model.judge(HOST, there, Sight(boot_id, machine, address), rules, NOW, asks=asks)


def test_a_first_boot_and_an_ordinary_reboot_go_on_at_once() -> None:
    first = judged()
    assert (first.boot.state, first.why, first.others) == ("admitted", None, ())
    again = judged(known("admitted"))
    assert (again.boot.state, again.why) == ("admitted", None)
    assert [(other.boot_id, other.state) for other in again.others] == [(OLD, "replaced")]


@pytest.mark.parametrize("before", ["up", "admitted", "approved"])
def test_a_reboot_replaces_whatever_the_boot_before_was(before: State) -> None:
    assert judged(known(before)).why is None


@pytest.mark.parametrize(("machine", "address"), [(CLONE, HERE), (MACHINE, THERE), (CLONE, THERE)])
@pytest.mark.parametrize("state", ["up", "admitted", "approved"])
def test_a_second_boot_of_another_machine_id_or_address_pends(
    state: State, machine: str, address: str
) -> None:
    found = judged(known(state), machine=machine, address=address)
    assert (found.boot.state, found.why, found.others) == ("waiting", "second", ())
    assert found.beside is not None
    refusing = judged(known(state), machine=machine, address=address, rules=Rules("refuse"))
    assert (refusing.boot.state, refusing.why) == ("refused", "second")


def test_the_same_boot_id_at_another_address_is_a_copy_that_was_resumed() -> None:
    assert judged(known("admitted"), boot_id=OLD, address=THERE).why == "second"


def test_one_boot_may_come_by_ipv4_and_by_ipv6() -> None:
    found = judged(known("admitted"), boot_id=OLD, address=SIXTH)
    assert (found.boot.state, found.why, found.boot.address) == ("admitted", None, SIXTH)
    assert judged(known("denied"), boot_id=OLD, address=SIXTH).why == "denied"
    assert judged(known("contested"), boot_id=OLD, address=SIXTH).why == "contested"


def test_a_boot_that_was_not_heard_of_for_three_minutes_is_in_nobody_s_way() -> None:
    assert judged(known("admitted", ago=179.9), address=THERE).why == "second"
    found = judged(known("admitted", ago=180), address=THERE)
    assert (found.why, [other.state for other in found.others]) == (None, ["replaced"])


@pytest.mark.parametrize("state", ["waiting", "refused", "replaced"])
def test_what_has_no_keys_is_in_nobody_s_way(state: State) -> None:
    assert judged(known(state, machine=CLONE, address=THERE)).why is None


def test_a_boot_that_waited_goes_on_once_the_other_is_gone() -> None:
    waiting = known("waiting", NEW, CLONE, THERE)
    there = (known("admitted", ago=60), waiting)
    assert judged(*there, boot_id=NEW, machine=CLONE, address=THERE).why == "second"
    gone = (known("admitted", ago=200), waiting)
    assert judged(*gone, boot_id=NEW, machine=CLONE, address=THERE).boot.state == "admitted"


def test_a_boot_that_goes_on_stays_so_whoever_else_asks() -> None:
    there = (known("admitted"), known("waiting", NEW, CLONE, THERE), known("denied", OTHER, CLONE, THERE))
    assert judged(*there, boot_id=OLD).why is None


@pytest.mark.parametrize("asks", [True, False])
def test_a_replaced_boot_that_is_heard_of_again_makes_both_contested(asks: bool) -> None:
    there = (known("replaced"), known("admitted", NEW))
    found = judged(*there, boot_id=OLD, asks=asks)
    assert (found.boot.state, found.why) == ("contested", "contested")
    assert [(other.boot_id, other.state) for other in found.others] == [(NEW, "contested")]
    both = (found.boot, *found.others)
    for boot_id in (OLD, NEW):
        assert judged(*both, boot_id=boot_id).why == "contested"


def test_another_boot_id_is_no_way_out_of_a_contest() -> None:
    there = (known("contested", ago=9000), known("contested", NEW, ago=9000))
    for machine, address in ((MACHINE, HERE), (CLONE, THERE)):
        found = judged(*there, boot_id=OTHER, machine=machine, address=address)
        assert (found.boot.state, found.why) == ("waiting", "contested")


def test_a_replaced_boot_does_not_contest_what_is_gone_or_what_was_approved() -> None:
    assert judged(known("replaced"), known("admitted", NEW, ago=200), boot_id=OLD).boot.state == "admitted"
    found = judged(known("replaced", address=THERE), known("approved", NEW), boot_id=OLD, address=THERE)
    assert (found.boot.state, found.why, found.others) == ("waiting", "second", ())


def test_a_contest_leaves_no_address_of_the_other_boot_out() -> None:
    there = (known("replaced"), known("admitted", NEW), known("admitted", NEW, address=SIXTH, ago=900))
    assert {other.address for other in judged(*there, boot_id=OLD).others} == {HERE, SIXTH}


def test_a_denied_boot_is_denied_wherever_it_asks_from() -> None:
    assert judged(known("denied"), boot_id=OLD).why == "denied"
    assert judged(known("denied", ago=9000), boot_id=OLD, address=THERE).why == "denied"


def test_a_report_makes_a_boot_up_and_a_clone_is_known_by_its_report_already() -> None:
    assert judged(asks=False).boot.state == "up"
    assert judged(known("up"), boot_id=OLD, asks=False).boot.state == "up"
    assert judged(known("up"), boot_id=OLD).boot.state == "admitted"
    assert judged(known("admitted"), address=THERE, asks=False).boot.state == "waiting"


def test_no_more_hosts_are_up_than_the_add_on_may_have() -> None:
    assert judged(rules=Rules(hosts=2, others=1)).why is None
    found = judged(rules=Rules(hosts=2, others=2))
    assert (found.boot.state, found.why) == ("waiting", "crowded")
    assert judged(rules=Rules("refuse", hosts=2, others=2)).boot.state == "refused"
    assert judged(known("admitted"), boot_id=OLD, rules=Rules(hosts=2, others=2)).why is None


def test_an_approver_who_decides_for_one_decides_against_the_others() -> None:
    one, other = known("contested"), known("contested", NEW)
    dead = known("admitted", OTHER, address=THERE, ago=900)
    after = model.approve((one, other, dead), one, NOW)
    assert [(each.boot_id, each.state) for each in after] == [
        (OLD, "approved"),
        (NEW, "denied"),
        (OTHER, "replaced"),
    ]
    assert judged(*after, boot_id=OLD).why is None
    assert judged(*after, boot_id=NEW).why == "denied"
    assert model.approve(after, after[0], NOW) == ()


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("ago", [30, 9000])
@pytest.mark.parametrize("address", [HERE, THERE])
def test_another_boot_id_is_no_way_out_of_a_denial_however_quiet_the_original_is(
    asks: bool, ago: float, address: str
) -> None:
    there = (known("admitted", ago=ago), known("denied", NEW, CLONE, address, ago=ago))
    for machine, at in ((MACHINE, HERE), (CLONE, THERE), (MACHINE, THERE), (CLONE, HERE)):
        found = judged(*there, boot_id=OTHER, machine=machine, address=at, asks=asks)
        assert (found.boot.state, found.why, found.others) == ("waiting", "doubted", ())
        assert found.beside == there[1]
    assert judged(*there, boot_id=OLD).why is None, "what goes on stays so"


def test_a_machine_that_was_vouched_for_reboots_where_it_is_and_nobody_else_does() -> None:
    waiting, denied = known("waiting", OTHER), known("denied", NEW, CLONE, THERE)
    (one,) = model.approve((waiting, denied), waiting, NOW)
    later = judged(one, denied, boot_id=LATER)
    assert (later.boot.state, later.why, later.others[0].state) == ("admitted", None, "replaced")
    again = judged(later.boot, *later.others, denied, boot_id=LAST)
    assert (again.boot.state, again.why) == ("admitted", None)
    for machine, address in ((MACHINE, THERE), (CLONE, HERE), (MACHINE, SIXTH)):
        assert judged(one, denied, boot_id=LATER, machine=machine, address=address).why == "doubted"
    as_near = replace(denied, address=HERE)
    assert judged(one, as_near, boot_id=LATER).why == "doubted", "they cannot be told apart there"


def test_a_twin_of_a_machine_that_was_vouched_for_is_contested_all_the_same() -> None:
    denied, one = known("denied", NEW, CLONE, THERE), replace(known("approved"), vouched=True)
    twin = judged(one, denied, boot_id=OTHER)
    found = judged(twin.boot, *twin.others, denied, boot_id=OLD)
    assert (found.boot.state, found.others[0].state) == ("contested", "contested")


def test_approving_a_boot_where_it_moved_to_does_not_deny_that_very_boot() -> None:
    before, waiting = known("admitted"), known("waiting", address=THERE)
    after = model.approve((before, waiting), waiting, NOW)
    assert [(each.address, each.state) for each in after] == [(THERE, "approved"), (HERE, "replaced")]
    assert judged(*after, boot_id=OLD, address=THERE).why is None
    assert judged(*after, boot_id=OLD, address=SIXTH).boot.state == "approved"
    back = judged(*after, boot_id=OLD)
    assert (back.boot.state, back.why) == ("waiting", "second"), "a copy that stayed there waits"


def test_a_yes_at_one_address_and_a_no_at_another_decide_nothing_at_a_third() -> None:
    there = (known("approved", address=THERE), known("denied"))
    assert judged(*there, boot_id=OLD, address=THERE).why is None
    assert judged(*there, boot_id=OLD).why == "denied"
    for address in (SIXTH, "192.0.2.9"):
        found = judged(*there, boot_id=OLD, address=address)
        assert (found.boot.state, found.why) == ("waiting", "doubted")


def test_approving_a_reboot_does_not_deny_the_boot_that_it_is_a_reboot_of() -> None:
    before, waiting = known("admitted"), known("waiting", NEW)
    after = model.approve((before, waiting), waiting, NOW)
    assert [(each.boot_id, each.state) for each in after] == [(NEW, "approved"), (OLD, "replaced")]
    found = judged(*after, boot_id=OLD)
    assert (found.boot.state, found.others) == ("contested", ()), (
        "if it is none, that shows, and changes nothing"
    )
    assert judged(found.boot, after[0], boot_id=NEW).why is None
    assert judged(found.boot, after[0], boot_id=OTHER).why == "contested"


def test_what_was_heard_of_in_the_future_is_not_live_for_ever() -> None:
    assert known("admitted", ago=-179).live(NOW)
    assert not known("admitted", ago=-180).live(NOW)
    assert judged(known("admitted", ago=-1e8), address=THERE).why is None


def test_a_contest_ends_in_denials_when_nothing_was_heard_for_a_month_and_still_releases_nobody() -> None:
    for ago in (30 * 86400 + 1, -31 * 86400):
        old, other = known("contested", ago=ago), known("contested", NEW, CLONE, THERE, ago=60)
        assert judged(old, other, boot_id=OLD).why == "denied"
        assert judged(old, other, boot_id=NEW, machine=CLONE, address=THERE).why == "contested"
        assert judged(old, boot_id=OTHER).why == "doubted"
    kept = known("contested", ago=30 * 86400 - 1)
    assert judged(kept, boot_id=OLD).why == "contested"


def test_an_approver_decides_on_both_addresses_of_a_boot() -> None:
    one, alias = known("contested"), known("contested", address=SIXTH)
    assert {each.state for each in model.approve((one, alias), one, NOW)} == {"approved"}
    assert [each.address for each in model.deny((one, alias), one)] == [HERE, SIXTH]
    assert model.deny((), replace(one, state="denied")) == ()


def test_what_was_denied_or_may_have_keys_is_not_forgotten() -> None:
    kept = [known("denied", ago=1e8), known("admitted", NEW, ago=1e8), known("contested", OTHER, ago=1e8)]
    old = known("replaced", "00000000-0000-4000-8000-00000000aaaa", ago=31 * 86400)
    many = [known("waiting", f"00000000-0000-4000-8000-{i:012}", ago=i) for i in range(100, 160)]
    assert model.forgotten([*kept, old], NOW) == (old.id,)
    assert model.forgotten([*kept, *many], NOW) == ()
    more = [*kept, *many, known("waiting", "00000000-0000-4000-8000-00000000bbbb", ago=1000)]
    assert model.forgotten(more, NOW) == (more[-1].id,)


# what comes of it


def unlock(
    house: House, peer: Peer, *seen: Observation, boot_id: str = OLD, machine: str = MACHINE
) -> UnlockReply:
    return boot.unlock(house.broker, peer, UnlockRequest(boot_id, machine, "0.1.0", seen))


def report(house: House, peer: Peer, boot_id: str = OLD, machine: str = MACHINE) -> None:
    reports.report(house.broker, peer, ReportRequest(boot_id, machine, "0.1.0", ()))


def problem(ask: Callable[[], object]) -> KeybrokerError:
    with pytest.raises(KeybrokerError) as caught:
        ask()
    return caught.value


def change(house: House, change: Change) -> None:
    policies.change(house.broker, house.operator, "shop-db", change)


def trail(house: House) -> list[AuditEntry]:
    return list(house.broker.store.audit_records())


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    house.addon()
    return house


@pytest.fixture
def host(house: House) -> Peer:
    return house.enrol()[0]


@pytest.fixture
def data(house: House, host: Peer) -> Record:
    return house.provision(host, house.volume())


def clone_of(peer: Peer) -> Peer:
    return replace(peer, address=THERE)


def test_a_clone_gets_no_key_and_is_on_record_once_however_often_it_asks(
    house: House, host: Peer, data: Record
) -> None:
    assert unlock(house, host, luks2(data)).grants[0].keys
    count = len(trail(house))
    for _ in range(3):
        error = problem(lambda: unlock(house, clone_of(host), luks2(data), boot_id=NEW))
        assert error.problem is Problem.PENDING
        assert error.retry_after == sentry.AGAIN_SECONDS
        house.clock.forward(seconds=sentry.AGAIN_SECONDS)
    entry, *more = trail(house)[count:]
    assert more == []
    assert (entry.verb, entry.outcome, entry.address) == ("unlock", "refused", THERE)
    assert '"problem":"pending"' in entry.detail
    assert HERE in entry.detail
    assert unlock(house, host, luks2(data)).grants[0].keys


def test_an_approver_lets_a_boot_in_and_the_other_one_is_out(house: House, host: Peer, data: Record) -> None:
    unlock(house, host, luks2(data))
    clone = clone_of(host)
    problem(lambda: unlock(house, clone, luks2(data), boot_id=NEW))
    (waiting,) = (one for one in boots.listing(house.broker, house.operator) if one.boot.state == "waiting")
    said = boots.approve(house.broker, house.operator, waiting.boot.id)
    assert (said.boot.state, said.is_live) == ("approved", True)
    assert unlock(house, clone, luks2(data), boot_id=NEW).grants[0].keys
    error = problem(lambda: unlock(house, host, luks2(data)))
    assert (error.problem, error.problem.temporary) == (Problem.BOOT_DENIED, False)
    verbs = [(entry.verb, entry.outcome) for entry in trail(house)]
    assert verbs.count(("boot.approve", "done")) == 2
    count = len(verbs)
    boots.approve(house.broker, house.operator, waiting.boot.id)
    assert len(trail(house)) == count


def test_an_approver_s_no_is_final_and_each_attempt_is_on_record(
    house: House, host: Peer, data: Record
) -> None:
    unlock(house, host, luks2(data))
    problem(lambda: unlock(house, clone_of(host), luks2(data), boot_id=NEW))
    (waiting,) = (one for one in boots.listing(house.broker, house.operator) if one.boot.state == "waiting")
    assert boots.deny(house.broker, house.operator, waiting.boot.id).boot.state == "denied"
    for _ in range(2):
        error = problem(lambda: unlock(house, clone_of(host), luks2(data), boot_id=NEW))
        assert error.problem is Problem.BOOT_DENIED
    assert [entry.detail.count("boot-denied") for entry in trail(house)[-2:]] == [1, 1]
    assert unlock(house, host, luks2(data)).grants[0].keys


def test_an_ordinary_reboot_gets_its_keys_at_once(house: House, host: Peer, data: Record) -> None:
    unlock(house, host, luks2(data))
    assert unlock(house, host, luks2(data), boot_id=NEW).grants[0].keys
    assert {one.boot.state for one in boots.listing(house.broker, house.operator)} == {"admitted", "replaced"}


def test_a_clone_behind_the_same_address_shows_at_the_original_s_next_report(
    house: House, host: Peer, data: Record
) -> None:
    unlock(house, host, luks2(data))
    unlock(house, host, luks2(data), boot_id=NEW)
    house.clock.forward(seconds=60)
    report(house, host)
    entry = trail(house)[-1]
    assert (entry.verb, entry.outcome) == ("report", "refused")
    for boot_id in (OLD, NEW, OTHER):
        error = problem(lambda boot_id=boot_id: unlock(house, host, luks2(data), boot_id=boot_id))  # type: ignore[misc]
        assert error.problem is Problem.PENDING


def test_an_add_on_may_refuse_second_boots_and_nobody_approves_them_then(
    house: House, host: Peer, data: Record
) -> None:
    change(house, Change(on_clone="refuse"))
    unlock(house, host, luks2(data))
    error = problem(lambda: unlock(house, clone_of(host), luks2(data), boot_id=NEW))
    assert (error.problem, error.problem.temporary) == (Problem.SECOND_BOOT, True)
    (refused,) = (one for one in boots.listing(house.broker, house.operator) if one.boot.state == "refused")
    conflict = problem(lambda: boots.approve(house.broker, house.operator, refused.boot.id))
    assert conflict.problem is Problem.CONFLICT
    house.clock.forward(seconds=180)
    assert unlock(house, clone_of(host), luks2(data), boot_id=NEW).grants[0].keys


def test_a_host_beyond_the_most_waits_until_another_one_is_gone(house: House, host: Peer) -> None:
    change(house, Change(hosts=1))
    other, _certified = house.enrol()
    unlock(house, host)
    assert problem(lambda: unlock(house, other)).problem is Problem.PENDING
    unlock(house, host, boot_id=NEW)
    inventory.revoke(house.broker, house.operator, host.identity.name, "gone")
    unlock(house, other)


def test_no_key_leaves_by_a_claim_or_a_stage_of_a_second_boot(house: House, host: Peer, data: Record) -> None:
    unlock(house, host, luks2(data))
    orders.rotate(house.broker, house.operator, "shop-db", "data")
    more, clone, asking = house.volume(name="more"), clone_of(host), AskingBoot(NEW, MACHINE)
    revision = house.record(data.volume).revision
    claim = ClaimRequest(more.revision, device(more), asking)
    stage = StageRequest(revision, asking)
    for ask in (
        lambda: provisioning.claim(house.broker, clone, more.volume, claim),
        lambda: rotation.stage(house.broker, clone, data.volume, stage),
        lambda: provisioning.claim(house.broker, clone, more.volume, replace(claim, boot=None)),
        lambda: rotation.stage(house.broker, clone, data.volume, replace(stage, boot=None)),
    ):
        assert problem(ask).problem is Problem.PENDING
    own = AskingBoot(OLD, MACHINE)
    assert rotation.stage(house.broker, host, data.volume, replace(stage, boot=own)).keys
    assert provisioning.claim(house.broker, host, more.volume, replace(claim, boot=None)).keys


def test_an_agent_that_does_not_say_which_boot_it_is_is_turned_away_where_hosts_are_counted(
    house: House, host: Peer
) -> None:
    more = house.volume(name="more")
    change(house, Change(hosts=3))
    claim = ClaimRequest(more.revision, device(more))
    error = problem(lambda: provisioning.claim(house.broker, host, more.volume, claim))
    assert error.problem is Problem.NOT_ALLOWED
    named = replace(claim, boot=AskingBoot(OLD, MACHINE))
    assert provisioning.claim(house.broker, host, more.volume, named).keys


def test_each_boot_waits_for_an_approver_where_the_add_on_says_so_but_not_when_boots_are_expected(
    house: House, host: Peer, data: Record
) -> None:
    unlock(house, host, luks2(data))
    change(house, Change(approve_boots=True))
    assert unlock(house, host, luks2(data)).grants[0].keys, "it is up already"
    assert problem(lambda: unlock(house, host, luks2(data), boot_id=NEW)).problem is Problem.PENDING
    said = boots.expect(house.broker, house.operator, "shop-db", 7200)
    assert boots.expected(house.broker, house.operator) == (said,)
    assert unlock(house, host, luks2(data), boot_id=NEW).grants[0].keys
    assert problem(lambda: unlock(house, clone_of(host), boot_id=OTHER)).problem is Problem.PENDING
    house.clock.forward(seconds=7200)
    assert boots.expected(house.broker, house.operator) == ()
    assert problem(lambda: unlock(house, host, luks2(data), boot_id=OTHER)).problem is Problem.PENDING
    (waiting,) = (one for one in boots.listing(house.broker, house.operator) if one.boot.boot_id == OTHER
                  and one.boot.address == HERE)  # fmt: skip
    boots.approve(house.broker, house.operator, waiting.boot.id)
    assert unlock(house, host, luks2(data), boot_id=OTHER).grants[0].keys


def test_a_boot_that_only_reports_is_up_but_asks_for_approval_like_any_other() -> None:
    rules = Rules(approval=True)
    assert judged(asks=False, rules=rules).boot.state == "up"
    found = judged(known("up"), boot_id=OLD, rules=rules)
    assert (found.boot.state, found.why) == ("waiting", "approval")
    assert judged(known("admitted"), boot_id=OLD, rules=rules).why is None
    assert judged(known("admitted"), rules=rules).why == "approval"


def test_a_window_that_is_closed_is_closed_at_once(house: House, host: Peer) -> None:
    change(house, Change(approve_boots=True))
    boots.expect(house.broker, house.operator, "shop-db", 600)
    boots.expect(house.broker, house.operator, "shop-db", 0)
    assert problem(lambda: unlock(house, host)).problem is Problem.PENDING


def test_only_an_approver_does_away_with_approval() -> None:
    approving = Terms(approve_boots=True)
    assert loosens(approving, Change(approve_boots=False), days=14)
    assert not loosens(approving, Change(hosts=3), days=14)
    assert not loosens(Terms(), Change(approve_boots=False), days=14)


@pytest.mark.parametrize(
    ("before", "after", "loosened"),
    [(0, 13, True), (0, 14, False), (30, 0, True), (30, 29, True), (7, 8, False), (7, 0, False)],
)
def test_only_an_approver_makes_the_time_before_a_destruction_shorter(
    before: int, after: int, loosened: bool
) -> None:
    said = loosens(Terms(deletion_days=before), Change(deletion_days=after), days=14)
    assert (said is not None) == loosened


def test_nothing_is_known_of_a_boot_that_is_none(house: House) -> None:
    for ask in (boots.approve, boots.deny):
        error = problem(lambda ask=ask: ask(house.broker, house.operator, "kbb-nosuch"))  # type: ignore[misc]
        assert error.problem is Problem.UNKNOWN


def test_a_replaced_boot_is_not_approved(house: House, host: Peer) -> None:
    unlock(house, host)
    unlock(house, host, boot_id=NEW)
    (old,) = (one for one in boots.listing(house.broker, house.operator) if one.boot.state == "replaced")
    assert (
        problem(lambda: boots.approve(house.broker, house.operator, old.boot.id)).problem is Problem.CONFLICT
    )
