"""The next step of a volume that somebody else formatted, for everything that may be seen of it."""

from __future__ import annotations

from typing import Any

import pytest

from agent.plan.adoption import next_removal, next_step
from agent.plan.keyslots import GIVEN, Keyslot, Keyslots
from agent.plan.situation import Mapping
from agent.plan.steps import Adopt, Ask, Backup, Detach, Evict, Fill, Tag
from agent.plan.survey import Survey
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB, Pin
from keybroker.wire.records import Device, Grant, Observation, Record, Refusal, SeenHeader
from keybroker.wire.values import replace
from tests.crash.volumes import key_of, record

ONE = KeyVersion(1)
FOREIGN = replace(record(), stage="foreign")
DEVICE = Device(FOREIGN.serial, FOREIGN.size_bytes)
PIN = Pin(FOREIGN.luks_uuid, "sha256:" + "1" * 64, 16 * MIB, 512)
READY = replace(FOREIGN, stage="ready", device=DEVICE, pin=PIN, sequence=7)
HEADER = SeenHeader(PIN, 7)
SEEN = Observation(FOREIGN.volume, "luks2", DEVICE, HEADER)

THEIRS = Keyslot(0, bound=True, tagged=None, opened_by=GIVEN)
UNKNOWN = Keyslot(1, bound=True, tagged=None, opened_by=None)
OURS = Keyslot(2, bound=True, tagged=ONE, opened_by=ONE)
UNTAGGED = Keyslot(2, bound=True, tagged=None, opened_by=ONE)
UNBOUND = Keyslot(2, bound=False, tagged=ONE, opened_by=ONE)


def survey(
    *slots: Keyslot, of: Record = FOREIGN, seen: Observation = SEEN, fresh: bool = True, **more: Any
) -> Survey:
    keys = more.get("keys", {ONE: key_of(of.name)})
    keyslots = Keyslots(slots, frozenset({ONE, GIVEN}), more.get("most", 12)) if keys else None
    grant = Grant(of, keys, more.get("refused"))
    return Survey(grant, Mapping(), seen, seen if fresh else None, keyslots)


@pytest.mark.parametrize(
    ("given", "step"),
    [
        (survey(keys={}, fresh=False), Ask),
        (survey(THEIRS, UNKNOWN), Fill),
        (survey(THEIRS, UNKNOWN, fresh=False), Fill),
        (survey(THEIRS, UNTAGGED), Tag),
        (survey(THEIRS, OURS, fresh=False), Ask),
        (survey(THEIRS, OURS), Adopt),
        (survey(THEIRS, OURS, seen=replace(SEEN, header=replace(HEADER, degraded=True))), Tag),
        (survey(UNKNOWN, OURS), Adopt),
        (survey(THEIRS, OURS, of=READY), None),
        (survey(THEIRS, of=READY), None),
    ],
)
def test_the_next_step_is_what_is_still_missing(given: Survey, step: type | None) -> None:
    found = next_step(given)
    assert (type(found) if found else None) is step


def test_our_key_is_filled_by_means_of_the_given_one() -> None:
    found = next_step(survey(THEIRS))
    assert found == Fill(ONE, GIVEN, found.reason)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (survey(UNKNOWN), Problem.LOCKED_OUT),
        (survey(replace(THEIRS, bound=False)), Problem.LOCKED_OUT),
        (survey(keys={}), Problem.LOCKED_OUT),
        (survey(THEIRS, UNKNOWN, most=2), Problem.FOREIGN_KEYSLOTS),
        (survey(THEIRS, of=replace(FOREIGN, stage="new")), Problem.CONFLICT),
        (survey(THEIRS, of=replace(FOREIGN, stage="erased")), Problem.CONFLICT),
        (survey(THEIRS, of=replace(READY, role="former")), Problem.CONFLICT),
        (survey(THEIRS, refused=Refusal(Problem.REVOKED, "no")), Problem.REVOKED),
        (survey(THEIRS, of=replace(FOREIGN, current=None)), Problem.CORRUPT),
        (
            survey(seen=Observation(FOREIGN.volume, "other", DEVICE, detail="LUKS1")),
            Problem.HEADER_REFUSED,
        ),
        (survey(seen=Observation(FOREIGN.volume, "absent")), Problem.NO_DEVICE),
        (survey(seen=replace(SEEN, device=Device("another", DEVICE.size_bytes))), Problem.WRONG_DEVICE),
        (
            survey(seen=replace(SEEN, device=Device(DEVICE.serial, DEVICE.size_bytes - 1))),
            Problem.WRONG_DEVICE,
        ),
        (
            survey(THEIRS, seen=replace(SEEN, header=replace(HEADER, pin=replace(PIN, uuid="0" * 36)))),
            Problem.HEADER_REFUSED,
        ),
        (
            survey(THEIRS, seen=replace(SEEN, header=replace(HEADER, requirements=("online-reencrypt",)))),
            Problem.HEADER_REFUSED,
        ),
    ],
)
def test_what_is_not_the_declared_volume_or_cannot_be_opened_is_refused(
    given: Survey, problem: Problem
) -> None:
    with pytest.raises(KeybrokerError) as caught:
        next_step(given)
    assert caught.value.problem is problem


CLEVIS = {3: "clevis"}


@pytest.mark.parametrize(
    ("given", "tokens", "step"),
    [
        (survey(THEIRS, OURS, of=READY, fresh=False), CLEVIS, Ask),
        (survey(THEIRS, OURS, of=READY), CLEVIS, Detach),
        (survey(THEIRS, UNKNOWN, OURS, of=READY), {}, Evict),
        (survey(UNKNOWN, OURS, of=READY, fresh=False), {}, Ask),
        (survey(OURS, of=replace(READY, sequence=6)), {}, Backup),
        (survey(OURS, of=READY), {}, None),
        (survey(OURS, of=READY, fresh=False), {}, None),
        (survey(keys={}, of=READY, fresh=False), {}, Ask),
    ],
)
def test_others_are_taken_out_one_by_one_by_a_key_that_was_fetched_anew(
    given: Survey, tokens: dict[int, str], step: type | None
) -> None:
    found = next_removal(given, tokens)
    assert (type(found) if found else None) is step


@pytest.mark.parametrize("slots", [(THEIRS, UNKNOWN), (THEIRS, UNTAGGED), (THEIRS, UNBOUND), ()])
def test_nothing_is_taken_out_unless_our_key_opens_a_keyslot_of_ours(slots: tuple[Keyslot, ...]) -> None:
    with pytest.raises(KeybrokerError) as caught:
        next_removal(survey(*slots, of=READY), CLEVIS)
    assert caught.value.problem is Problem.LOCKED_OUT


def test_nothing_is_taken_out_before_the_volume_is_adopted() -> None:
    with pytest.raises(KeybrokerError) as caught:
        next_removal(survey(THEIRS, OURS), CLEVIS)
    assert caught.value.problem is Problem.CONFLICT


def test_a_keyslot_that_our_token_names_is_nobody_else_s_though_no_key_opens_it() -> None:
    debris = Keyslot(4, bound=True, tagged=KeyVersion(2), opened_by=None)
    assert next_removal(survey(debris, OURS, of=READY), {}) is None
