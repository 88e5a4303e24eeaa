"""When the recovery ciphertext is written into our token: row by row, and never so that it opens nothing."""

from __future__ import annotations

from typing import Any

from agent.plan import recovery, settling
from agent.plan.steps import Ask, Clear, Enclose, Fill, Promote, Stage, Tag
from agent.plan.survey import Survey
from keybroker.wire.names import KeyVersion
from keybroker.wire.records import Record, SeenHeader
from keybroker.wire.recovery import Recovery
from keybroker.wire.values import replace
from tests.unit.test_plan_rotation_rows import (
    NEXT,
    OURS,
    PIN,
    READY,
    RETIRING,
    STAGED,
    WANTED,
    survey,
)

FIRST = Recovery(KeyVersion(1), "the first passphrase")
SECOND = Recovery(KeyVersion(2), "the second passphrase")


def carrying(of: Survey, carried: Recovery | None) -> Survey:
    """Return the survey of a header whose token carries a ciphertext."""
    assert of.seen.header is not None
    header = replace(of.seen.header, recovery=carried.digest if carried else None)
    seen = replace(of.seen, header=header)
    return replace(of, seen=seen, told=seen if of.told == of.seen else of.told)


def step(of: Record, wanted: Recovery | None, carried: Recovery | None, *slots: Any, **more: Any) -> object:
    from agent.plan import rotation

    return rotation.next_step(carrying(survey(replace(of, recovery=wanted), *slots, **more), carried))


def test_a_token_that_carries_the_brokers_ciphertext_or_any_where_there_is_none_is_left_alone() -> None:
    assert step(READY, FIRST, FIRST, OURS) is None
    assert step(READY, None, None, OURS) is None
    assert step(READY, None, FIRST, OURS) is None


def test_a_token_that_carries_none_or_another_is_written() -> None:
    assert isinstance(step(READY, FIRST, None, OURS), Enclose)
    assert isinstance(step(READY, FIRST, SECOND, OURS), Enclose)


def test_before_the_first_ciphertext_is_in_place_no_new_key_is_minted() -> None:
    assert isinstance(step(WANTED, FIRST, None, OURS), Enclose)
    assert isinstance(step(WANTED, FIRST, FIRST, OURS), Stage)


def test_a_ciphertext_of_a_key_that_opens_nothing_yet_is_not_written() -> None:
    assert isinstance(step(STAGED, SECOND, FIRST, OURS), Fill)
    assert isinstance(step(STAGED, SECOND, None, OURS), Fill)


def test_the_next_ciphertext_comes_with_the_tag_of_its_keyslot_in_one_write() -> None:
    assert isinstance(step(STAGED, SECOND, FIRST, OURS, replace(NEXT, tagged=None)), Tag)
    assert isinstance(step(STAGED, SECOND, FIRST, OURS, NEXT), Enclose)
    assert isinstance(step(STAGED, SECOND, SECOND, OURS, NEXT), Promote)


def test_no_keyslot_is_cleared_while_the_token_carries_its_passphrase() -> None:
    assert isinstance(step(RETIRING, SECOND, FIRST, OURS, NEXT), Enclose)
    assert isinstance(step(RETIRING, SECOND, SECOND, OURS, NEXT), Clear)
    given_up = replace(READY, newest=KeyVersion(2))
    assert isinstance(step(given_up, FIRST, SECOND, OURS, NEXT), Enclose)
    assert isinstance(step(given_up, FIRST, FIRST, OURS, NEXT), Clear)


def test_a_ciphertext_is_of_no_use_to_a_keyslot_of_another_volume_key() -> None:
    slots = survey(STAGED, OURS, replace(NEXT, bound=False)).keyslots
    assert slots is not None
    assert recovery.wanted(replace(STAGED, recovery=SECOND), slots) is None
    assert recovery.wanted(replace(STAGED, recovery=FIRST), slots) == FIRST.ciphertext


def test_a_volume_is_not_at_rest_before_its_token_carries_the_ciphertext() -> None:
    header = SeenHeader(PIN, 5)
    assert settling.is_at_rest(READY, header)
    wanting = replace(READY, recovery=FIRST)
    assert not settling.is_at_rest(wanting, header)
    assert settling.is_at_rest(wanting, replace(header, recovery=FIRST.digest))


def test_the_keys_are_asked_for_before_anything_is_written() -> None:
    asked = carrying(survey(replace(READY, recovery=FIRST), keys=(), fresh=False), None)
    from agent.plan import rotation

    assert isinstance(rotation.next_step(asked), Ask)
