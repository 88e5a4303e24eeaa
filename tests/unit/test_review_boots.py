"""What a reviewer found in how one boot of a host is told from another: none of it may come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest

from keybroker.ca import new_key
from keybroker.cli.boot import WHY as WORDS
from keybroker.model.boots import Why
from keybroker.policy import Peer
from keybroker.rights import MAY
from keybroker.service import (
    boot,
    boots,
    enrolment,
    grace,
    moving,
    orders,
    policies,
    provisioning,
    reports,
    rotation,
    sentry,
)
from keybroker.terms import Change
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.changes import (
    AdoptionRequest,
    ErasedRequest,
    PhaseRequest,
    PromoteRequest,
    StageRequest,
    SwitchRequest,
)
from keybroker.wire.messages import (
    ClaimRequest,
    DepositRequest,
    LateRenewalRequest,
    ReadyRequest,
    RenewalRequest,
    UnlockRequest,
)
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.reports import ReportRequest
from keybroker.wire.secret import Secret
from tests.contract.broker_house import House, csr, device, header, luks2
from tests.unit.test_broker_boots import CLONE, MACHINE, NEW, OLD, OTHER, THERE

OWN, ITS = AskingBoot(OLD, MACHINE), AskingBoot(NEW, CLONE)
COPY = Secret(b"KBH1 copy")

Call = Callable[[House, Peer, Record], object]


def proof(house: House, of: Record, version: int = 1) -> object:
    return house.proof(of.volume, version, header(of))


CALLS: dict[str, Call] = {
    "unlock": lambda house, peer, of: boot.unlock(house.broker, peer, asking(peer)),
    "claim": lambda house, peer, of: provisioning.claim(
        house.broker, peer, of.volume, ClaimRequest(of.revision, device(of))
    ),
    "deposit": lambda house, peer, of: provisioning.deposit(
        house.broker, peer, of.volume, DepositRequest(of.revision, header(of), COPY)
    ),
    "backup": lambda house, peer, of: house.back_up(peer, of.volume, header(of, 9)),
    "header.read": lambda house, peer, of: provisioning.header_copy(house.broker, peer, of.volume),
    "ready": lambda house, peer, of: provisioning.ready(
        house.broker, peer, of.volume, ReadyRequest(of.revision)
    ),
    "stage": lambda house, peer, of: rotation.stage(house.broker, peer, of.volume, StageRequest(of.revision)),
    "promote": lambda house, peer, of: rotation.promote(
        house.broker,
        peer,
        of.volume,
        PromoteRequest(of.revision, proof(house, of)),  # type: ignore[arg-type]
    ),
    "retire": lambda house, peer, of: rotation.retire(house.broker, peer, of.volume, KeyVersion(1)),
    "adopt": lambda house, peer, of: rotation.adopt(
        house.broker,
        peer,
        of.volume,
        AdoptionRequest(of.revision, device(of), header(of), COPY, proof(house, of)),  # type: ignore[arg-type]
    ),
    "announce": lambda house, peer, of: orders.announce(
        house.broker, peer, of.volume, PhaseRequest(of.revision, 1)
    ),
    "finish": lambda house, peer, of: orders.finish(house.broker, peer, of.volume, 1),
    "switch": lambda house, peer, of: moving.switch(
        house.broker, peer, of.volume, SwitchRequest(of.revision, 1, 1, 1)
    ),
    "erased": lambda house, peer, of: moving.erased(
        house.broker, peer, of.volume, ErasedRequest(of.revision, device(of), 1, "zeros")
    ),
    "renew": lambda house, peer, of: enrolment.renew(house.broker, peer, RenewalRequest(csr())),
}
"""Each call of a host that hands something out or changes something."""

CHANGES = sorted(set(CALLS) - {"unlock", "renew"})


def asking(peer: Peer) -> UnlockRequest:
    assert peer.boot is not None
    return UnlockRequest(peer.boot.boot_id, peer.boot.machine_id, "0.1.0", ())


def report(house: House, peer: Peer) -> None:
    assert peer.boot is not None
    reports.report(house.broker, peer, ReportRequest(peer.boot.boot_id, peer.boot.machine_id, "0.1.0", ()))


def problem(ask: Callable[[], object]) -> Problem | None:
    try:
        ask()
    except KeybrokerError as error:
        return error.problem
    return None


def named(house: House, which: AskingBoot, address: str | None = None) -> str:
    """Return the id of a boot for operators."""
    (found,) = [
        one.boot.id
        for one in boots.listing(house.broker, house.operator)
        if (one.boot.boot_id, one.boot.machine_id) == (which.boot_id, which.machine_id)
        and address in (None, one.boot.address)
    ]
    return found


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    house.addon()
    return house


@pytest.fixture
def peer(house: House) -> Peer:
    return replace(house.enrol()[0], boot=OWN)


@pytest.fixture
def data(house: House, peer: Peer) -> Record:
    data = house.provision(peer, house.volume())
    boot.unlock(house.broker, peer, asking(peer))
    return data


@pytest.fixture
def clone(house: House, peer: Peer, data: Record) -> Peer:
    """A clone that was denied."""
    clone = replace(peer, boot=ITS)
    assert problem(lambda: boot.unlock(house.broker, clone, asking(clone))) is Problem.PENDING
    boots.deny(house.broker, house.operator, named(house, ITS))
    return clone


def test_the_calls_here_are_all_that_a_host_has() -> None:
    assert set(CALLS) | {"report", "describe"} == {verb for verb, who in MAY.items() if "host" in who}


@pytest.mark.parametrize("verb", CALLS)
def test_a_denied_boot_changes_nothing_and_is_told_nothing(
    house: House, clone: Peer, data: Record, verb: str
) -> None:
    assert problem(lambda: CALLS[verb](house, clone, data)) is Problem.BOOT_DENIED
    assert house.record(data.volume) == data
    assert house.audit()[-1][:2] == (verb, "refused")


@pytest.mark.parametrize("verb", CHANGES)
@pytest.mark.parametrize("quiet", [0, 10])
def test_a_denied_boot_gets_nowhere_by_not_saying_which_it_is(
    house: House, clone: Peer, data: Record, verb: str, quiet: int
) -> None:
    house.clock.forward(minutes=quiet)
    assert problem(lambda: CALLS[verb](house, replace(clone, boot=None), data)) is Problem.PENDING
    assert house.record(data.volume) == data


@pytest.mark.parametrize("verb", CHANGES)
def test_nor_by_moving_to_where_its_original_is(house: House, peer: Peer, data: Record, verb: str) -> None:
    clone = replace(peer, boot=ITS, address=THERE)
    problem(lambda: boot.unlock(house.broker, clone, asking(clone)))
    boots.deny(house.broker, house.operator, named(house, ITS))
    report(house, peer)
    assert problem(lambda: CALLS[verb](house, replace(peer, boot=None), data)) is Problem.PENDING
    assert house.record(data.volume) == data


@pytest.mark.parametrize("verb", CHANGES)
@pytest.mark.parametrize("which", [OWN, AskingBoot(NEW, MACHINE), None])
def test_while_two_contest_an_identity_nobody_changes_anything(
    house: House, peer: Peer, data: Record, verb: str, which: AskingBoot | None
) -> None:
    twin = replace(peer, boot=AskingBoot(NEW, MACHINE))
    boot.unlock(house.broker, twin, asking(twin))
    report(house, peer)
    assert problem(lambda: CALLS[verb](house, replace(peer, boot=which), data)) is Problem.PENDING
    assert house.record(data.volume) == data


def test_a_denied_boot_gets_no_key_under_another_name_however_quiet_the_original_is(
    house: House, clone: Peer, data: Record
) -> None:
    house.clock.forward(minutes=10)
    for asked in (AskingBoot(OTHER, CLONE), AskingBoot(OTHER, MACHINE)):
        liar = replace(clone, boot=asked)
        report(house, liar)
        house.clock.forward(minutes=10)
        assert problem(lambda liar=liar: boot.unlock(house.broker, liar, asking(liar))) is Problem.PENDING  # type: ignore[misc]
        boots.deny(house.broker, house.operator, named(house, asked))


def test_a_boot_after_a_denial_goes_on_when_an_approver_says_so_and_so_do_its_reboots(
    house: House, peer: Peer, data: Record
) -> None:
    clone = replace(peer, boot=ITS, address=THERE)
    problem(lambda: boot.unlock(house.broker, clone, asking(clone)))
    boots.deny(house.broker, house.operator, named(house, ITS))
    rebooted = replace(peer, boot=AskingBoot(OTHER, MACHINE))
    assert problem(lambda: boot.unlock(house.broker, rebooted, asking(rebooted))) is Problem.PENDING
    boots.approve(house.broker, house.operator, named(house, AskingBoot(OTHER, MACHINE)))
    assert boot.unlock(house.broker, rebooted, asking(rebooted)).grants
    for number in range(5, 8):
        again = replace(peer, boot=AskingBoot(f"00000000-0000-4000-8000-00000000000{number}", MACHINE))
        assert boot.unlock(house.broker, again, asking(again)).grants
        house.clock.forward(hours=1)
    liar = replace(clone, boot=AskingBoot(OTHER, CLONE))
    assert problem(lambda: boot.unlock(house.broker, liar, asking(liar))) is Problem.PENDING


@pytest.mark.parametrize("change", [Change(), Change(hosts=3), Change(approve_boots=True)])
def test_an_agent_of_before_says_no_boot_but_with_its_keys_and_goes_on(
    house: House, peer: Peer, data: Record, change: Change
) -> None:
    policies.change(house.broker, house.operator, "shop-db", change)
    silent = replace(peer, boot=None)
    assert provisioning.header_copy(house.broker, silent, data.volume).copy
    assert house.back_up(silent, data.volume, header(data, 9))
    assert enrolment.renew(house.broker, silent, RenewalRequest(csr()))


def test_where_hosts_are_counted_nobody_that_was_not_heard_of_goes_on_unnamed(
    house: House, peer: Peer, data: Record
) -> None:
    policies.change(house.broker, house.operator, "shop-db", Change(hosts=3))
    silent = replace(peer, boot=None)
    house.clock.forward(minutes=10)
    ask = lambda: provisioning.header_copy(house.broker, silent, data.volume)  # noqa: E731
    assert problem(ask) is Problem.PENDING
    report(house, peer)
    assert problem(ask) is None


def test_whoever_only_waits_renews_its_certificate(house: House, peer: Peer, data: Record) -> None:
    waiting = replace(peer, boot=AskingBoot(OTHER, CLONE))
    report(house, waiting)
    assert enrolment.renew(house.broker, waiting, RenewalRequest(csr()))


def test_a_clone_that_renews_does_not_lock_its_original_out(house: House) -> None:
    own, its = new_key(), new_key()
    peer, certified = house.enrol(key=own)
    peer = replace(peer, boot=OWN)
    lifetime, stays = house.broker.settings.host_lifetime, house.broker.settings.grace
    began = house.clock.now
    enrolment.renew(house.broker, replace(peer, boot=ITS), RenewalRequest(csr(its)))
    house.clock.now = began + lifetime + timedelta(days=1)
    late = LateRenewalRequest(certified.certificate, csr(own))
    renewed = grace.renew(house.broker, "192.0.2.1", late, OWN)
    assert house.unlock(house.peer(renewed.host, renewed.certificate)).host == certified.host
    house.clock.now = began + lifetime + stays + timedelta(days=1)
    with pytest.raises(KeybrokerError) as refused:
        grace.renew(house.broker, "192.0.2.1", LateRenewalRequest(certified.certificate, csr(its)))
    assert refused.value.problem is Problem.CERTIFICATE, "each key's grace is its own"


def test_a_denied_boot_gets_no_certificate_after_its_own_has_ended_either(house: House, clone: Peer) -> None:
    key = new_key()
    certified = enrolment.renew(house.broker, replace(clone, boot=OWN), RenewalRequest(csr(key)))
    house.clock.forward(days=house.broker.settings.host_lifetime / timedelta(days=1) + 1)
    late = LateRenewalRequest(certified.certificate, csr(key))
    assert problem(lambda: grace.renew(house.broker, "192.0.2.1", late, ITS)) is Problem.BOOT_DENIED
    assert house.audit()[-1][:2] == ("renew.late", "denied")
    assert problem(lambda: grace.renew(house.broker, "192.0.2.1", late, OWN)) is None


def test_the_original_still_opens_its_volumes_beside_a_denied_clone(
    house: House, peer: Peer, clone: Peer, data: Record
) -> None:
    seen = UnlockRequest(OLD, MACHINE, "0.1.0", (luks2(data),))
    assert boot.unlock(house.broker, peer, seen).grants[0].keys


def test_a_clone_that_reports_all_the_time_leaves_few_records_and_cannot_silence_its_original(
    house: House, peer: Peer, data: Record
) -> None:
    twin = replace(peer, boot=AskingBoot(NEW, MACHINE))
    boot.unlock(house.broker, twin, asking(twin))
    count = len(house.audit())
    said: list[Problem | None] = []
    for number in range(500):
        name = AskingBoot(f"00000000-0000-4000-8000-{number:012}", CLONE)
        for liar in (replace(peer, boot=name, address=THERE), twin):
            said.append(problem(lambda liar=liar: report(house, liar)))  # type: ignore[misc]
    assert said.count(Problem.BUSY) > 800
    assert len(house.audit()) - count < 100
    report(house, peer)
    assert problem(lambda: boot.unlock(house.broker, twin, asking(twin))) is Problem.PENDING, "contested"


def test_a_report_of_too_many_says_when_to_come_back_and_counts_then(
    house: House, peer: Peer, data: Record
) -> None:
    policies.change(house.broker, house.operator, "shop-db", Change(rate=1))
    for _ in range(60):
        report(house, peer)
    with pytest.raises(KeybrokerError) as busy:
        report(house, peer)
    assert busy.value.problem is Problem.BUSY
    assert busy.value.retry_after is not None
    house.clock.forward(seconds=busy.value.retry_after)
    report(house, peer)
    boot.unlock(house.broker, peer, asking(peer))


def test_whatever_holds_a_boot_back_has_words_for_operators_and_for_hosts() -> None:
    assert set(WORDS) == set(get_args(Why)) == set(sentry.SAID)
