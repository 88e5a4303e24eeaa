"""A broker that says of a move what it had left behind: which volumes nothing is done with any more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.plan import relapse
from keybroker.wire.names import VolumeName
from keybroker.wire.records import Record
from tests.crash.volumes import record

DATA = VolumeName("data")
OLD, NEW, OTHER = record("data"), replace(record("target"), name=DATA), record("logs")


def move(old: str, new: str) -> list[Record]:
    return [replace(OLD, role=old), replace(NEW, role=new), OTHER]  # type: ignore[arg-type]


BEFORE, AFTER, GIVEN_UP = move("holder", "successor"), move("former", "holder"), move("holder", "former")


@pytest.mark.parametrize(
    ("known", "said"), [(BEFORE, BEFORE), (BEFORE, AFTER), (BEFORE, GIVEN_UP), (AFTER, AFTER), ([], BEFORE),
                        (AFTER, AFTER[1:]), ([OTHER], AFTER)],
)  # fmt: skip
def test_a_move_that_goes_on_is_believed(known: list[Record], said: list[Record]) -> None:
    assert relapse.names(known, said) == frozenset()
    assert relapse.kept(known, said) == tuple(said)


@pytest.mark.parametrize("known", [AFTER, AFTER[1:], AFTER[:1]], ids=["both", "the new", "the old"])
def test_a_move_that_went_back_is_not_and_what_was_known_is_remembered(known: list[Record]) -> None:
    assert relapse.names(known, BEFORE) == {DATA}
    assert relapse.kept(known, BEFORE) == (OTHER, *(each for each in known if each.name == DATA))


def test_another_volume_under_the_name_of_the_one_that_has_the_data_is_not_believed() -> None:
    known = [replace(NEW, role="holder", stage="ready"), OTHER]
    said = [replace(OLD, stage="ready"), OTHER]
    assert relapse.replaced(known, said) == (known[0],)
    assert relapse.names(known, said) == {DATA}
    assert relapse.kept(known, said) == (OTHER, known[0])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (replace(NEW, stage="new"), ()),
        (replace(NEW, stage="claimed"), ()),
        (replace(NEW, stage="ready"), (replace(NEW, stage="erased"),)),
        (replace(NEW, stage="ready", role="former"), ()),
        (replace(NEW, stage="ready", filesystem="swap"), ()),
    ],
    ids=["never had any", "only claimed", "erased, says the broker", "left behind", "swap"],
)
def test_another_volume_under_the_name_of_one_without_data_is(
    before: Record, after: tuple[Record, ...]
) -> None:
    said = [*after, replace(OLD, stage="new")]
    assert relapse.names([before], said) == frozenset()


def test_a_volume_that_the_broker_forgot_and_put_nothing_in_the_place_of_is_nobodys_relapse() -> None:
    assert relapse.names([replace(NEW, stage="ready"), OTHER], [OTHER]) == frozenset()


def test_an_erased_volume_is_in_nobodys_place() -> None:
    gone = replace(OLD, stage="erased")
    assert relapse.names([replace(NEW, stage="ready")], [gone]) == frozenset()


@pytest.mark.parametrize("stage", ["new", "claimed", "deposited"])
def test_a_disk_that_has_the_data_is_not_one_that_was_given_up_before_it_had_any(stage: str) -> None:
    """The broker was set back to the beginning of the move, and the move was cancelled there."""
    known = [replace(NEW, role="holder", stage="ready"), OTHER]
    said = [OLD, replace(NEW, role="former", stage=stage), OTHER]  # type: ignore[arg-type]
    assert relapse.names(known, said) == {DATA}
    assert relapse.kept(known, said) == (OTHER, known[0])


@pytest.mark.parametrize(
    "before",
    [
        replace(NEW, role="successor", stage="ready"),
        replace(NEW, role="holder", stage="deposited"),
        replace(NEW, role="holder", stage="ready", filesystem="swap"),
    ],
    ids=["had the same as the other", "never had any", "swap"],
)
def test_one_that_had_none_of_its_own_may_be(before: Record) -> None:
    assert relapse.names([before], [replace(NEW, role="former", stage="new")]) == frozenset()


@pytest.mark.parametrize(
    ("role", "stage"), [("former", "ready"), ("former", "erased"), ("holder", "deposited")]
)
def test_one_that_has_the_data_may_be_left_for_another_one(role: str, stage: str) -> None:
    said = replace(NEW, role=role, stage=stage)  # type: ignore[arg-type]
    assert relapse.names([replace(NEW, stage="ready")], [said]) == frozenset()
