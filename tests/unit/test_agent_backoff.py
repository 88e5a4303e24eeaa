"""Whom the agent asks next, and when: the decisions, without a network or a clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent import backoff
from agent.backoff import Attempts, Failure, Stop, Try, Verdict, Wait
from keybroker.wire.problems import KeybrokerError, Problem

NEVER = float("inf")


def failed(
    verdict: Verdict, problem: Problem = Problem.UNREACHABLE, *, retry_after: float | None = None
) -> Failure:
    return Failure(verdict, KeybrokerError(problem, f"{verdict}: did not work", retry_after=retry_after))


def fail_all(attempts: Attempts, failure: Failure, *, now: float, chance: float) -> Attempts:
    """Fail each broker once at ``now``: one round."""
    for _ in attempts.said:
        step = backoff.move(attempts, now, NEVER)
        assert isinstance(step, Try)
        attempts = backoff.after(attempts, step.broker, failure, now, chance)
    return attempts


def pause(attempts: Attempts, now: float) -> float:
    step = backoff.move(attempts, now, NEVER)
    assert isinstance(step, Wait)
    return step.seconds


def test_brokers_are_tried_in_turn_without_a_pause_between_them() -> None:
    attempts = backoff.begin(3)
    tried = []
    while isinstance(step := backoff.move(attempts, 10.0, NEVER), Try):
        tried.append(step.broker)
        attempts = backoff.after(attempts, step.broker, failed("temporary"), 10.0, 0.5)
    assert tried == [0, 1, 2]
    assert isinstance(step, Wait)


def test_the_pause_after_a_round_doubles_up_to_the_cap() -> None:
    attempts, now, pauses = backoff.begin(2), 0.0, []
    for _ in range(9):
        attempts = fail_all(attempts, failed("temporary"), now=now, chance=0.5)
        pauses.append(pause(attempts, now))
        now += pauses[-1]
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 200))
def test_the_pause_is_anything_between_nothing_and_the_bound(chance: float, rounds: int) -> None:
    attempts, now = backoff.begin(1), 0.0
    for _ in range(rounds):
        attempts = fail_all(attempts, failed("temporary"), now=now, chance=0.0)
    attempts = fail_all(attempts, failed("temporary"), now=now, chance=chance)
    bound = min(backoff.CAP_SECONDS, backoff.BASE_SECONDS * 2**rounds)
    step = backoff.move(attempts, now, NEVER)
    waited = step.seconds if isinstance(step, Wait) else 0.0
    assert 0 <= waited <= bound
    assert abs(waited - chance * bound) < 1e-6


def test_a_final_refusal_stops_at_once_and_asks_nobody_else() -> None:
    refusal = failed("final", Problem.REVOKED)
    attempts = backoff.after(backoff.begin(3), 0, refusal, 1.0, 0.5)
    assert backoff.move(attempts, 1.0, NEVER) == Stop(refusal.error)


def test_a_broker_of_another_ca_is_passed_over() -> None:
    attempts = backoff.after(backoff.begin(2), 0, failed("broker", Problem.UNTRUSTED_BROKER), 1.0, 0.5)
    assert backoff.move(attempts, 1.0, NEVER) == Try(1)


def test_brokers_that_are_all_of_another_ca_are_final() -> None:
    failure = failed("broker", Problem.UNTRUSTED_BROKER)
    attempts = fail_all(backoff.begin(2), failure, now=1.0, chance=0.5)
    assert backoff.move(attempts, 1.0, NEVER) == Stop(failure.error)


def test_one_untrusted_and_one_dead_broker_are_tried_again_until_the_deadline() -> None:
    attempts = backoff.after(backoff.begin(2), 0, failed("broker", Problem.UNTRUSTED_BROKER), 1.0, 0.5)
    attempts = backoff.after(attempts, 1, failed("temporary"), 1.0, 0.5)
    assert isinstance(backoff.move(attempts, 1.0, 50.0), Wait)
    last = backoff.move(attempts, 50.0, 50.0)
    assert isinstance(last, Stop)
    assert last.error.problem is Problem.UNREACHABLE
    assert "broker: did not work" in last.error.detail


def test_an_untrusted_broker_that_was_repaired_does_not_stop_the_next_round() -> None:
    attempts = backoff.after(backoff.begin(2), 0, failed("broker", Problem.UNTRUSTED_BROKER), 1.0, 0.0)
    attempts = backoff.after(attempts, 1, failed("temporary"), 1.0, 0.0)
    attempts = backoff.after(attempts, 0, failed("temporary"), 2.0, 0.0)
    attempts = backoff.after(attempts, 1, failed("broker", Problem.UNTRUSTED_BROKER), 2.0, 0.0)
    assert not isinstance(backoff.move(attempts, 2.0, NEVER), Stop)


def test_retry_after_is_waited_for_and_a_little_more() -> None:
    for chance, waited in ((0.0, 30.0), (0.5, 37.5)):
        busy = failed("temporary", Problem.BUSY, retry_after=30)
        attempts = fail_all(backoff.begin(1), busy, now=100.0, chance=chance)
        assert pause(attempts, 100.0) == waited


def test_a_busy_broker_is_left_alone_while_a_dead_one_is_still_tried() -> None:
    attempts = backoff.after(
        backoff.begin(2), 0, failed("temporary", Problem.BUSY, retry_after=30), 100.0, 0.0
    )
    attempts = backoff.after(attempts, 1, failed("temporary"), 100.0, 0.0)
    for now in (100.0, 110.0, 129.0):
        assert backoff.move(attempts, now, NEVER) == Try(1)
        attempts = backoff.after(attempts, 1, failed("temporary"), now, 0.0)
    assert backoff.move(attempts, 130.0, NEVER) == Try(0)


def test_retry_after_of_a_day_is_not_taken_at_its_word() -> None:
    attempts = fail_all(
        backoff.begin(1), failed("temporary", Problem.BUSY, retry_after=86400), now=0.0, chance=0.0
    )
    assert pause(attempts, 0.0) == backoff.LONGEST_RETRY_AFTER


def test_without_a_network_it_asks_again_within_a_quarter_of_a_second() -> None:
    attempts, now = backoff.begin(2), 0.0
    for round_number in range(200):
        attempts = fail_all(attempts, failed("offline"), now=now, chance=(round_number % 10) / 10)
        assert 0.099 < pause(attempts, now) < 0.251
        now += 0.25
    attempts = fail_all(attempts, failed("temporary"), now=now, chance=0.99)
    assert pause(attempts, now) < backoff.BASE_SECONDS, "the time without a network counts for no back-off"


def test_a_name_service_that_stays_ill_is_asked_once_a_second() -> None:
    attempts = backoff.begin(1)
    for _ in range(backoff.OFFLINE_ROUNDS + 1):
        attempts = backoff.after(attempts, 0, failed("offline"), 0.0, 0.5)
    assert pause(attempts, 0.0) == 0.75


def test_a_wait_ends_at_the_deadline_and_then_it_gives_up() -> None:
    attempts = fail_all(
        backoff.begin(1), failed("temporary", Problem.BUSY, retry_after=60), now=0.0, chance=0.0
    )
    assert backoff.move(attempts, 0.0, 5.0) == Wait(5.0)
    last = backoff.move(attempts, 5.0, 5.0)
    assert isinstance(last, Stop)
    assert last.error.problem is Problem.BUSY


def test_a_deadline_of_nothing_still_asks_each_broker_once() -> None:
    attempts, tried = backoff.begin(3), []
    while isinstance(step := backoff.move(attempts, 9.0, 9.0), Try):
        tried.append(step.broker)
        attempts = backoff.after(attempts, step.broker, failed("temporary"), 9.0, 0.5)
    assert tried == [0, 1, 2]
    assert isinstance(step, Stop)


def test_the_last_words_name_the_trouble_that_says_most() -> None:
    attempts = backoff.after(backoff.begin(2), 0, failed("temporary"), 1.0, 0.5)
    attempts = backoff.after(attempts, 1, failed("temporary", Problem.UNAVAILABLE), 1.0, 0.5)
    last = backoff.move(attempts, 2.0, 2.0)
    assert isinstance(last, Stop)
    assert last.error.problem is Problem.UNAVAILABLE


@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(st.sampled_from(["temporary", "offline", "broker"]), st.floats(0, 0.999)), max_size=60
    ),
    st.floats(0, 100),
)
def test_temporary_trouble_never_ends_before_the_deadline_nor_goes_on_after_it(
    brokers: int, story: list[tuple[Verdict, float]], deadline: float
) -> None:
    attempts, now = backoff.begin(brokers), 0.0
    for verdict, chance in story:
        step = backoff.move(attempts, now, deadline)
        while isinstance(step, Wait):
            assert step.seconds > 0
            now += step.seconds
            assert now <= deadline or now - deadline < 1e-6
            step = backoff.move(attempts, now, deadline)
        if isinstance(step, Stop):
            assert now >= deadline or step.error.problem is Problem.UNTRUSTED_BROKER
            return
        problem = Problem.UNTRUSTED_BROKER if verdict == "broker" else Problem.UNREACHABLE
        attempts = backoff.after(attempts, step.broker, failed(verdict, problem), now, chance)
