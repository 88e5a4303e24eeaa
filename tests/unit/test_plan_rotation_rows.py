"""A rotation's planner, row by row: what it takes for granted before each step, and what stops it."""

from __future__ import annotations

from typing import Any

import pytest

from agent.plan import rotation
from agent.plan.keyslots import Keyslot, Keyslots
from agent.plan.situation import Mapping
from agent.plan.steps import Ask, Backup, Clear, Fill, Promote, Retire, Stage, Tag
from agent.plan.survey import Survey
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB, Pin
from keybroker.wire.records import Device, Grant, Observation, Record, Refusal, SeenHeader
from keybroker.wire.values import replace
from tests.crash.volumes import SIZE, key_of, record

PIN = Pin(record().luks_uuid, "sha256:" + "0" * 64, 4 * MIB, 512)
ONE, TWO, THREE = (KeyVersion(version) for version in (1, 2, 3))
READY = replace(
    record(), stage="ready", device=Device(record().serial, SIZE), pin=PIN, sequence=5, newest=ONE
)
WANTED = replace(READY, wanted=TWO)
STAGED = replace(WANTED, staged=TWO, newest=TWO)
RETIRING = replace(WANTED, current=TWO, retiring=ONE, newest=TWO)

OURS = Keyslot(0, bound=True, tagged=ONE, opened_by=ONE)
NEXT = Keyslot(1, bound=True, tagged=TWO, opened_by=TWO)
THEIRS = Keyslot(2, bound=True, tagged=None, opened_by=None)


def survey(
    of: Record, *slots: Keyslot, sequence: int = 5, fresh: bool = True, degraded: bool = False, **more: Any
) -> Survey:
    header = SeenHeader(more.pop("pin", PIN), sequence, more.pop("requirements", ()), degraded)
    seen = Observation(of.volume, "luks2", more.pop("device", of.device), header)
    keys = {version: key_of(of.name, version) for version in more.pop("keys", rotation.live(of))}
    found = Keyslots(tuple(slots), frozenset(keys), of.profile.most_keyslots)
    grant = Grant(of, keys, more.pop("refused", None))
    mapping = more.pop("mapping", Mapping("open"))
    assert not more
    return Survey(grant, mapping, seen, seen if fresh else None, found)


def step(of: Record, *slots: Keyslot, **more: Any) -> object:
    return rotation.next_step(survey(of, *slots, **more))


def problem(of: Record, *slots: Keyslot, **more: Any) -> Problem:
    with pytest.raises(KeybrokerError) as caught:
        step(of, *slots, **more)
    return caught.value.problem


def test_each_row_of_the_table_has_its_step() -> None:
    assert step(READY, OURS) is None
    assert isinstance(step(WANTED, OURS), Stage)
    assert isinstance(step(STAGED, OURS), Fill)
    assert isinstance(step(STAGED, OURS, replace(NEXT, tagged=None)), Tag)
    assert isinstance(step(STAGED, OURS, NEXT), Promote)
    assert isinstance(step(RETIRING, OURS, NEXT), Clear)
    assert isinstance(step(RETIRING, NEXT), Retire)


def test_keys_are_promoted_and_keyslots_cleared_only_after_they_were_fetched_anew() -> None:
    assert isinstance(step(STAGED, OURS, NEXT, fresh=False), Ask)
    assert isinstance(step(RETIRING, OURS, NEXT, fresh=False), Ask)
    assert isinstance(step(READY, OURS, replace(NEXT, opened_by=None, tagged=ONE), fresh=False), Ask)


def test_nothing_is_promoted_or_retired_without_a_copy_of_the_header_as_it_is() -> None:
    assert isinstance(step(STAGED, OURS, NEXT, sequence=6), Backup)
    assert isinstance(step(RETIRING, NEXT, sequence=6), Backup)
    assert isinstance(step(READY, OURS, sequence=6), Backup)


def test_a_header_that_was_set_back_is_backed_up_before_it_is_changed() -> None:
    debris = replace(NEXT, opened_by=None, tagged=ONE)
    assert isinstance(step(READY, OURS, debris, sequence=4), Backup)
    assert isinstance(step(READY, OURS, debris, sequence=4, degraded=True), Clear)


def test_one_damaged_copy_is_mended() -> None:
    assert isinstance(step(READY, OURS, degraded=True), Tag)


def test_a_keyslot_that_keeps_no_data_does_not_count_as_opened() -> None:
    assert problem(READY, replace(OURS, bound=False)) is Problem.LOCKED_OUT
    assert isinstance(step(STAGED, OURS, replace(NEXT, bound=False)), Fill)


def test_a_current_key_that_opens_nothing_stops_everything() -> None:
    for of in (READY, WANTED):
        assert problem(of, replace(OURS, opened_by=None)) is Problem.LOCKED_OUT
    assert problem(STAGED, NEXT) is Problem.LOCKED_OUT
    assert problem(RETIRING, OURS) is Problem.LOCKED_OUT


def test_a_header_that_is_ahead_of_the_broker_is_left_alone() -> None:
    for of in (READY, WANTED):
        assert problem(of, OURS, replace(NEXT, opened_by=None)) is Problem.CONFLICT
    given_up = step(replace(READY, newest=TWO), OURS, replace(NEXT, opened_by=None))
    assert isinstance(given_up, Clear)
    assert (given_up.keyslot, given_up.by) == (1, 1)


def test_debris_is_cleared_and_a_foreign_keyslot_never() -> None:
    debris = step(READY, OURS, Keyslot(1, bound=True, tagged=ONE, opened_by=None), THEIRS)
    assert isinstance(debris, Clear)
    assert debris.keyslot == 1
    assert step(READY, OURS, THEIRS) is None
    cleared = step(RETIRING, THEIRS, OURS, NEXT)
    assert isinstance(cleared, Clear)
    assert (cleared.keyslot, cleared.by) == (0, 2)


def test_a_keyslot_of_a_retired_key_is_cleared_but_not_that_of_a_staged_one() -> None:
    retired = step(replace(READY, current=TWO, wanted=TWO, newest=TWO), OURS, NEXT)
    assert isinstance(retired, Clear)
    assert retired.keyslot == 0
    assert isinstance(step(STAGED, OURS, NEXT), Promote)


def test_nothing_is_minted_or_filled_where_there_is_no_room() -> None:
    full = (OURS, THEIRS, replace(THEIRS, number=3))
    assert problem(WANTED, *full) is Problem.FOREIGN_KEYSLOTS
    assert problem(STAGED, *full) is Problem.FOREIGN_KEYSLOTS
    assert step(READY, *full) is None


def test_the_next_key_waits_until_the_last_one_is_retired() -> None:
    assert isinstance(step(replace(RETIRING, wanted=THREE), NEXT), Retire)


def test_what_is_not_the_volume_s_own_header_on_its_own_disk_takes_no_step() -> None:
    refused = Refusal(Problem.HEADER_REFUSED, "another one")
    assert problem(WANTED, OURS, refused=refused) is Problem.HEADER_REFUSED
    assert problem(WANTED, OURS, mapping=Mapping("open", "in the way")) is Problem.WRONG_DEVICE
    assert problem(WANTED, OURS, pin=replace(PIN, digest="sha256:" + "1" * 64)) is Problem.HEADER_REFUSED
    assert problem(WANTED, OURS, requirements=("online-reencrypt-v2",)) is Problem.HEADER_REFUSED
    assert problem(WANTED, OURS, device=Device("another", SIZE)) is Problem.WRONG_DEVICE


@pytest.mark.parametrize("changes", [{"stage": "deposited"}, {"role": "successor"}, {"role": "former"}])
def test_only_a_holder_in_use_is_rotated(changes: dict[str, Any]) -> None:
    assert step(replace(WANTED, **changes), OURS) is None


def test_without_all_keys_the_broker_is_asked_once() -> None:
    assert isinstance(step(STAGED, OURS, keys=[ONE], fresh=False), Ask)
    assert problem(STAGED, OURS, keys=[ONE]) is Problem.LOCKED_OUT
