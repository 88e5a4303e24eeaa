"""The table of keybroker/policy.py, cell by cell; and who may do what."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from keybroker.model import Keyring, Volume
from keybroker.policy import Peer, Release, Standing, may, release
from keybroker.rights import FIRST, MAY, Verb, beyond
from keybroker.wire.names import ROLES, Identity, KeyVersion, Role
from keybroker.wire.problems import Problem
from keybroker.wire.profile import MIB
from keybroker.wire.records import SIGHTS, Device, Observation, Refusal, SeenHeader
from tests.unit.test_broker_volume import (
    CLAIMED,
    DEPOSITED,
    DEVICE,
    HEADER,
    NEW,
    PIN,
    READY,
    SWAP,
)

OTHER = replace(HEADER, pin=replace(PIN, digest="sha256:" + "cd" * 32))
BUSY = replace(HEADER, requirements=("online-reencrypt-v2",))

SWAP_CLAIMED = SWAP.claim(1, DEVICE)
SWAP_READY = SWAP_CLAIMED.ready(2)


def sees(sight: str, header: SeenHeader | None = None, device: Device | None = DEVICE) -> Observation:
    return Observation(NEW.id, sight, None if sight == "absent" else device, header)  # type: ignore[arg-type]


ABSENT = sees("absent")
BLANK = sees("blank")
PINNED = sees("luks2", HEADER)
REQUIRING = sees("luks2", BUSY)
FOREIGN = sees("luks2", OTHER)
STRANGE = sees("other")
MARK = sees("swap-mark")

NOTHING = None
KEYS = "keys"
NO_DEVICE = Problem.NO_DEVICE
NOT_BLANK = Problem.NOT_BLANK
REFUSED = Problem.HEADER_REFUSED
WRONG = Problem.WRONG_DEVICE

TABLE = {
    "nothing": (None, (NOTHING, NOTHING, NOTHING, NOTHING)),
    "absent": (ABSENT, (NO_DEVICE, NO_DEVICE, NO_DEVICE, NO_DEVICE)),
    "blank": (BLANK, (NOTHING, KEYS, NOTHING, REFUSED)),
    "pinned": (PINNED, (NOT_BLANK, NOT_BLANK, KEYS, KEYS)),
    "requiring": (REQUIRING, (NOT_BLANK, NOT_BLANK, NOTHING, REFUSED)),
    "foreign": (FOREIGN, (NOT_BLANK, NOT_BLANK, REFUSED, REFUSED)),
    "strange": (STRANGE, (NOT_BLANK, NOT_BLANK, NOTHING, REFUSED)),
    "mark": (MARK, (NOT_BLANK, NOT_BLANK, NOTHING, REFUSED)),
}

SWAP_TABLE = {
    "nothing": (None, (NOTHING, NOTHING, NOTHING)),
    "absent": (ABSENT, (NO_DEVICE, NO_DEVICE, NO_DEVICE)),
    "blank": (BLANK, (NOTHING, NOTHING, WRONG)),
    "mark": (MARK, (NOTHING, NOTHING, NOTHING)),
    "pinned": (PINNED, (NOT_BLANK, NOT_BLANK, WRONG)),
    "strange": (STRANGE, (NOT_BLANK, NOT_BLANK, WRONG)),
}

CELLS = [
    pytest.param(volume, seen, wanted, id=f"{name}-{volume.stage}")
    for name, (seen, row) in TABLE.items()
    for volume, wanted in zip((NEW, CLAIMED, DEPOSITED, READY), row, strict=True)
] + [
    pytest.param(volume, seen, wanted, id=f"swap-{name}-{volume.stage}")
    for name, (seen, row) in SWAP_TABLE.items()
    for volume, wanted in zip((SWAP, SWAP_CLAIMED, SWAP_READY), row, strict=True)
]


@pytest.mark.parametrize(("volume", "seen", "wanted"), CELLS)
def test_a_cell_of_the_table(volume: Volume, seen: Observation | None, wanted: str | Problem | None) -> None:
    decided = release(volume, seen)
    if wanted == KEYS:
        assert decided == Release((volume.record.current,))  # type: ignore[arg-type]
    elif isinstance(wanted, Problem):
        assert isinstance(decided, Refusal)
        assert decided.problem is wanted
        assert decided.detail
    else:
        assert decided is None


def test_every_sight_has_its_row() -> None:
    assert {seen.sight for seen, _row in TABLE.values() if seen} == SIGHTS


@pytest.mark.parametrize("volume", [NEW, CLAIMED, DEPOSITED, READY, SWAP, SWAP_READY])
@pytest.mark.parametrize("device", [Device("other", 1 << 30), Device(NEW.serial, (1 << 30) - 1)])
@pytest.mark.parametrize("sight", ["blank", "luks2", "swap-mark", "other"])
def test_a_wrong_device_is_refused_whatever_is_on_it(volume: Volume, device: Device, sight: str) -> None:
    decided = release(volume, sees(sight, HEADER if sight == "luks2" else None, device))
    assert isinstance(decided, Refusal)
    assert decided.problem is WRONG


@pytest.mark.parametrize(
    ("pin", "says"),
    [
        (replace(PIN, uuid=PIN.uuid.replace("5", "6")), "UUID"),
        (replace(PIN, digest=OTHER.pin.digest), "volume key's digest"),
        (replace(PIN, data_offset=16 * MIB), "data offset"),
        (replace(PIN, sector_size=512), "sector size"),
    ],
)
def test_a_header_that_differs_in_anything_is_refused_with_what_differs(pin: object, says: str) -> None:
    decided = release(READY, sees("luks2", replace(HEADER, pin=pin)))  # type: ignore[arg-type]
    assert isinstance(decided, Refusal)
    assert says in decided.detail


def test_all_live_keys_are_handed_out_and_no_retired_one() -> None:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    one, two, three = KeyVersion(1), KeyVersion(2), KeyVersion(3)
    keys = Keyring.first().want().stage().promote(two).retire(one, when).want().stage()
    assert release(replace(READY, keyring=keys), PINNED) == Release((two, three))
    promoted = keys.promote(three)
    assert release(replace(READY, keyring=promoted), PINNED) == Release((two, three))


def test_an_older_and_a_newer_header_boot_but_the_older_one_is_noted() -> None:
    older = release(READY, sees("luks2", replace(HEADER, sequence=2)))
    assert older == Release(
        READY.keyring.live if READY.keyring else (), ("older header: sequence 2, known is 3",)
    )
    assert release(READY, sees("luks2", replace(HEADER, sequence=4))) == release(READY, PINNED)


def test_a_degraded_header_boots_and_is_noted() -> None:
    decided = release(READY, sees("luks2", replace(HEADER, degraded=True)))
    assert isinstance(decided, Release)
    assert decided.notes == ("one copy of the header is damaged",)


def test_without_a_pin_no_header_is_the_right_one() -> None:
    decided = release(replace(READY, pin=None, sequence=None), PINNED)
    assert isinstance(decided, Refusal)
    assert decided.problem is REFUSED


def test_a_refusal_repeats_the_agent_s_words() -> None:
    seen = replace(STRANGE, detail="an ext4 file system")
    for volume in (NEW, READY, SWAP_READY):
        decided = release(volume, seen)
        assert isinstance(decided, Refusal)
        assert "an ext4 file system" in decided.detail


NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HOST = Standing("host", "kbh-q3m5x7abcdef", NOW - DAY, NOW + DAY, None)
OPERATOR = Standing("operator", "alice", NOW - DAY, NOW + DAY, None, FIRST)
HOSTS_VERBS = {
    *("unlock", "claim", "deposit", "header.read", "ready", "renew", "report", "stage", "promote", "backup"),
    *("retire", "announce", "finish", "switch", "erased", "adopt"),
}


def peer(standing: Standing, trust_domain: str = "example.org") -> Peer:
    return Peer(Identity(trust_domain, standing.kind, standing.name), "ab" * 32, "192.0.2.1")


def asked(who: Peer, standing: Standing | None, verb: Verb = "unlock") -> Problem | None:
    error = may(who, verb, standing, "example.org", NOW)
    return None if error is None else error.problem


def test_every_verb_says_who_may_do_it_and_no_other_is_in_the_table() -> None:
    assert set(MAY) == set(get_args(Verb)), "keybroker/rights.py: a verb goes into Verb and into MAY"
    parties = {"host", *ROLES}
    assert {verb for verb, who in MAY.items() if not who or not who <= parties} == set()
    assert set(get_args(Role)) == ROLES


@pytest.mark.parametrize("verb", get_args(Verb))
def test_hosts_and_operators_have_each_their_own_verbs(verb: Verb) -> None:
    everything = replace(OPERATOR, roles=frozenset(get_args(Role)))
    hosts = asked(peer(HOST), HOST, verb)
    operators = asked(peer(OPERATOR), everything, verb)
    assert {hosts, operators} == ({None} if verb == "describe" else {None, Problem.NOT_ALLOWED})
    assert (hosts is None) == (verb in {*HOSTS_VERBS, "describe"})


@pytest.mark.parametrize("role", sorted(ROLES))
@pytest.mark.parametrize("verb", get_args(Verb))
def test_a_role_may_what_the_table_says(verb: Verb, role: Role) -> None:
    standing = replace(OPERATOR, roles=frozenset({role}))
    assert asked(peer(OPERATOR), standing, verb) is (None if role in MAY[verb] else Problem.NOT_ALLOWED)


@pytest.mark.parametrize("verb", get_args(Verb))
def test_an_operator_without_roles_may_nothing(verb: Verb) -> None:
    assert asked(peer(OPERATOR), replace(OPERATOR, roles=frozenset()), verb) is Problem.NOT_ALLOWED


def test_only_the_role_operator_changes_anything() -> None:
    looks = {verb for verb in get_args(Verb) if verb.endswith(".read")}
    looks |= {"self.renew", "describe", "recovery.check"}
    approvals = {"recovery.set", "recovery.import", "volume.reveal", "volume.approve", "addon.approve"}
    approvals |= {"boot.approve", "boot.deny", "boot.clear", "boot.expect"}
    assert {verb for verb in approvals if MAY[verb] != {"approver"}} == set()  # type: ignore[index]
    # whoever could have said no to a destruction can call it off
    either = {"volume.undelete", "addon.undelete"}
    assert {verb for verb in either if MAY[verb] != {"operator", "approver"}} == set()  # type: ignore[index]
    changes = set(get_args(Verb)) - looks - HOSTS_VERBS - approvals - either
    assert {verb for verb in changes if MAY[verb] != {"operator"}} == set()
    assert {verb for verb in get_args(Verb) if "metrics" in MAY[verb]} == {
        "metrics.read",
        "self.read",
        "self.renew",
        "describe",
    }


def test_a_verb_that_is_in_no_table_is_nobodys() -> None:
    for who in (HOST, OPERATOR):
        assert asked(peer(who), who, "no.such") is Problem.NOT_ALLOWED  # type: ignore[arg-type]


def test_who_has_none_of_the_roles_is_told_which_would_do() -> None:
    error = may(
        peer(OPERATOR), "addon.add", replace(OPERATOR, roles=frozenset({"auditor"})), "example.org", NOW
    )
    assert error is not None
    assert error.hint == "that takes the role operator; yours: keybroker operator show"
    other = may(peer(OPERATOR), "unlock", OPERATOR, "example.org", NOW)
    assert other is not None
    assert other.hint is None


def test_nobody_gives_or_takes_a_role_that_they_lack_but_metrics() -> None:
    own: tuple[Role, ...] = ("operator", "auditor")
    assert beyond(own, ("operator", "auditor", "metrics")) == ()
    assert beyond(own, ("approver", "metrics", "operator")) == ("approver",)
    assert beyond((), ("operator", "approver", "auditor", "metrics")) == ("approver", "auditor", "operator")


@pytest.mark.parametrize(
    ("who", "standing", "wanted"),
    [
        (peer(HOST), None, Problem.NO_IDENTITY),
        (peer(HOST, "other.example"), HOST, Problem.NO_IDENTITY),
        (peer(HOST), replace(HOST, name="kbh-aaaaaaaaaaaa"), Problem.NO_IDENTITY),
        (peer(HOST), replace(HOST, kind="operator"), Problem.NO_IDENTITY),
        (peer(HOST), replace(HOST, revoked=NOW), Problem.REVOKED),
        (peer(HOST), replace(HOST, revoked=NOW, not_after=NOW - DAY), Problem.REVOKED),
        (peer(HOST), replace(HOST, not_after=NOW), Problem.CERTIFICATE),
        (peer(HOST), replace(HOST, not_before=NOW + DAY), Problem.CERTIFICATE),
        (peer(HOST), replace(HOST, not_before=NOW), None),
    ],
)
def test_nobody_is_let_in_on_the_word_of_tls_alone(
    who: Peer, standing: Standing | None, wanted: Problem | None
) -> None:
    assert asked(who, standing) is wanted
