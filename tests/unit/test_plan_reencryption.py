"""A re-encryption's planner: what stops it before anything is changed."""

from __future__ import annotations

import pytest

from agent.plan import reencryption
from agent.plan.steps import Begin
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Device
from keybroker.wire.values import replace
from tests.unit.test_plan_rotation_rows import OURS, PIN, READY, survey

BEGUN = replace(READY, order=Order(1, "reencrypt", "begun"))
SHUT = replace(OURS, opened_by=None)


def test_it_begins_once_the_current_key_opens_the_pinned_header() -> None:
    assert isinstance(reencryption.underway(survey(BEGUN, OURS)), Begin)


def test_nothing_is_begun_on_a_header_that_the_current_key_does_not_open() -> None:
    with pytest.raises(KeybrokerError) as caught:
        reencryption.underway(survey(BEGUN, SHUT))
    assert caught.value.problem is Problem.LOCKED_OUT


def test_nothing_is_begun_on_another_disk_than_the_one_that_is_pinned() -> None:
    other = Device("another", READY.size_bytes)
    with pytest.raises(KeybrokerError) as caught:
        reencryption.underway(survey(BEGUN, OURS, device=other))
    assert caught.value.problem is Problem.WRONG_DEVICE


def test_nothing_is_begun_under_a_header_that_is_not_pinned() -> None:
    other = replace(PIN, digest="sha256:" + "1" * 64)
    with pytest.raises(KeybrokerError) as caught:
        reencryption.underway(survey(BEGUN, OURS, pin=other))
    assert caught.value.problem is Problem.HEADER_REFUSED
