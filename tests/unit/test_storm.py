"""Ten thousand agents and one broker on a clock of the test: the agent's own back-off, the broker's line."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

from agent import backoff
from agent.backoff import Attempts, Failure, Try, Wait
from keybroker.limits import Limits
from keybroker.terms import Priority
from keybroker.web.line import Line, Recall
from keybroker.wire.problems import KeybrokerError, Problem

AGENTS = 10_000
SERVICE_SECONDS = 0.004
NEVER = 1e9


@dataclass(slots=True)
class Storm:
    """What happened, in seconds of the test's clock."""

    arrivals: Counter[int] = field(default_factory=Counter)
    served: dict[int, float] = field(default_factory=dict)
    waited: list[float] = field(default_factory=list)
    sent_away: int = 0


@lru_cache
def storm(*, down_until: float = 0.0, spread: float = 0.0, seed: int = 7) -> Storm:
    """Have all agents come within ``spread`` seconds; every tenth is high, every tenth low.

    Args:
        down_until: until then every connection is refused.
    """
    dice, seen = random.Random(seed), Storm()
    line: Line[tuple[int, float]] = Line(Limits().queue)
    recall, busy_until = Recall(), 0.0
    attempts: dict[int, Attempts] = {}
    events = [(dice.random() * spread, number) for number in range(AGENTS)]
    heapq.heapify(events)

    def fail(number: int, now: float, problem: Problem, after: float | None) -> None:
        failure = Failure("temporary", KeybrokerError(problem, "no", retry_after=after))
        known = attempts.get(number, backoff.begin(1))
        attempts[number] = backoff.after(known, 0, failure, now, dice.random())
        step = backoff.move(attempts[number], now, NEVER)
        assert isinstance(step, Wait | Try)
        heapq.heappush(events, (now + (step.seconds if isinstance(step, Wait) else 0.0), number))

    def serve_until(now: float) -> float:
        nonlocal busy_until
        while busy_until <= now and (who := line.next()) is not None:
            number, came = who
            busy_until = max(busy_until, came) + SERVICE_SECONDS
            seen.served[number] = busy_until
            seen.waited.append(busy_until - came)
            recall.moved(busy_until, len(line))
        return busy_until

    while events:
        now, number = heapq.heappop(events)
        serve_until(now)
        seen.arrivals[int(now)] += 1
        if now < down_until:
            fail(number, now, Problem.UNREACHABLE, None)
            continue
        gone = line.join((number, now), class_of(number))
        if gone is not None:
            seen.sent_away += 1
            seconds = recall.after(class_of(gone[0]), now, len(line), dice.random())
            fail(gone[0], now, Problem.UNAVAILABLE, max(1, math.ceil(seconds)))
        if not events:
            serve_until(NEVER)
    return seen


def class_of(number: int) -> Priority:
    return "high" if number % 10 == 0 else "low" if number % 10 == 1 else "normal"


def test_ten_thousand_at_once_drain_at_the_brokers_pace_and_those_let_in_wait_briefly() -> None:
    seen = storm()
    assert len(seen.served) == AGENTS
    ideal = AGENTS * SERVICE_SECONDS
    assert max(seen.served.values()) < 2 * ideal
    # a full queue and the four turns that a low class may stand behind higher ones
    assert max(seen.waited) < 5 * Limits().queue * SERVICE_SECONDS
    assert sorted(seen.waited)[AGENTS // 2] <= Limits().queue * SERVICE_SECONDS
    later = [count for second, count in seen.arrivals.items() if second > 1]
    assert max(later) < 3 / SERVICE_SECONDS, "they come back as one"
    assert seen.sent_away < 4 * AGENTS


def test_the_high_class_is_through_before_the_low_one_and_that_is_through_as_well() -> None:
    seen = storm()

    def median(wanted: Priority) -> float:
        times = sorted(at for number, at in seen.served.items() if class_of(number) == wanted)
        return times[len(times) // 2]

    assert median("high") < median("normal") < median("low")
    assert median("high") < 0.5 * median("normal")


def test_a_broker_that_returns_is_not_trampled() -> None:
    seen = storm(down_until=120.0, spread=30.0)
    assert len(seen.served) == AGENTS
    first = [seen.arrivals[second] for second in range(120, 140)]
    # an even spread over the longest pause, twice over: nobody comes in one second with all others
    assert max(first) < 2 * AGENTS / backoff.CAP_SECONDS
    assert sum(first) > AGENTS / 2, "they come soon all the same"
    assert max(seen.served.values()) < 120 + 2.5 * AGENTS * SERVICE_SECONDS
