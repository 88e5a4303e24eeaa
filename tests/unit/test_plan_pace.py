"""How a re-encryption keeps a rate, and how it makes way for the volume's users."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.plan.pace import BUSY, LEAST_SECONDS, LONGEST_REST, Pace

MIB = 1 << 20


def test_without_a_rate_and_without_users_it_never_rests() -> None:
    pace = Pace(None)
    assert not any(pace.is_enough(seconds=n, done=n * 100 * MIB, busy=0.1) for n in range(1000))
    assert pace.rest_seconds(seconds=1000, done=MIB) == 0


@given(rate=st.integers(64 << 10, 1 << 32), speed=st.integers(1 << 20, 1 << 33))
def test_with_a_rate_the_rest_makes_up_for_the_work(rate: int, speed: int) -> None:
    pace, seconds, done = Pace(rate), 0.0, 0
    while not pace.is_enough(seconds=seconds, done=done, busy=0):
        seconds, done = seconds + 1, done + speed
        if seconds > 100:
            assert speed < rate
            return
    rest = pace.rest_seconds(seconds=seconds, done=done)
    assert done / (seconds + rest) <= rate * 1.001


def test_users_are_made_way_for_after_a_few_seconds_and_longer_each_time() -> None:
    pace, rests = Pace(None), []
    for _ in range(8):
        assert not pace.is_enough(seconds=LEAST_SECONDS / 2, done=MIB, busy=1.0)
        assert pace.is_enough(seconds=LEAST_SECONDS, done=MIB, busy=BUSY)
        rests.append(pace.rest_seconds(seconds=LEAST_SECONDS, done=MIB))
    assert rests == [1, 2, 4, 8, 16, 30, 30, 30]
    assert rests[-1] == LONGEST_REST


def test_a_quiet_slice_of_work_makes_it_forget_how_busy_it_was() -> None:
    pace = Pace(MIB)
    pace.is_enough(seconds=LEAST_SECONDS, done=0, busy=1.0)
    pace.rest_seconds(seconds=LEAST_SECONDS, done=0)
    assert pace.is_enough(seconds=LEAST_SECONDS, done=100 * MIB, busy=0.0)
    assert pace.rest_seconds(seconds=LEAST_SECONDS, done=0) == 0
    pace.is_enough(seconds=LEAST_SECONDS, done=0, busy=1.0)
    assert pace.rest_seconds(seconds=LEAST_SECONDS, done=0) == 1


@pytest.mark.parametrize("rate", [None, MIB])
def test_it_always_works_for_a_while_between_two_rests(rate: int | None) -> None:
    pace = Pace(rate)
    for _ in range(50):
        assert not pace.is_enough(seconds=0.5, done=0, busy=1.0)
        pace.rest_seconds(seconds=3, done=0)
