"""Which broker to try next, and when: pure, with the time and the dice as values.

A *round* tries every broker once, without a pause between them. Between rounds there is full jitter,
``random(0, min(cap, base * 2^n))``, so that a thousand machines that lost power together do not come back
together (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). What a failure means:

| verdict | example | then |
|---|---|---|
| final | the broker itself said: revoked, not allowed | stop at once |
| broker | certificate of another CA | this broker is of no use; final once every broker is like that |
| temporary | refused, timed out, 503 | the next broker, then back-off |
| offline | no route, no name service, a clock not set yet | nothing left this machine: again within 250 ms |

Temporary problems end at the deadline and not before.
"""

from __future__ import annotations

from typing import Final, Literal, TypeVar

from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.values import dataclass, replace

_T = TypeVar("_T")

Verdict = Literal["final", "broker", "temporary", "offline"]

BASE_SECONDS: Final = 0.5
CAP_SECONDS: Final = 20.0
"""A broker that comes back is asked within 20 s, 10 s on average: 100 requests/s from 1,000 machines."""

OFFLINE_SECONDS: Final = (0.1, 0.25)
OFFLINE_ROUNDS: Final = 400
"""About 70 s at that pace; then once a second, for a name service that is up but ill deserves that."""

LONGEST_RETRY_AFTER: Final = 300.0
"""A broker's slip of the pen (Retry-After: 86400) must not keep a machine locked for a day."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One try at one broker that did not succeed."""

    verdict: Verdict
    error: KeybrokerError


@dataclass(frozen=True, slots=True)
class Attempts:
    """What was tried so far.

    Attributes:
        failures: of the round under way, by broker; None for one not tried in it yet.
        said: the newest failure of each broker, for the last words.
        not_before: by broker, the time before which it asked not to be asked again.
        rounds: how many rounds met a broker that did not answer; the n of the back-off.
        offline: how many rounds did not get out of this machine.
        resume: when the round under way may begin.
    """

    failures: tuple[Failure | None, ...]
    said: tuple[Failure | None, ...]
    not_before: tuple[float, ...]
    rounds: int = 0
    offline: int = 0
    resume: float = 0.0


@dataclass(frozen=True, slots=True)
class Try:
    """Ask this broker now."""

    broker: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Sleep, then ask for the next move again."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Give up, with what to raise."""

    error: KeybrokerError


def begin(brokers: int) -> Attempts:
    """Return the state before the first try at any of so many brokers, at least one."""
    return Attempts((None,) * brokers, (None,) * brokers, (0.0,) * brokers)


def after(attempts: Attempts, broker: int, failure: Failure, now: float, chance: float) -> Attempts:
    """Take one failure into account.

    Args:
        broker: index of the one that failed.
        now: seconds on the clock that ``move`` is asked with.
        chance: from [0, 1), fresh for each call.
    """
    failures = _put(attempts.failures, broker, failure)
    asked = min(failure.error.retry_after or 0.0, LONGEST_RETRY_AFTER)
    # later than asked, never earlier: every client heard the same number, and would come back as one
    until = now + asked * (1 + chance / 2) if asked > 0 else 0.0
    attempts = replace(
        attempts,
        failures=failures,
        said=_put(attempts.said, broker, failure),
        not_before=_put(attempts.not_before, broker, until),
    )
    if any(failure is None and attempts.not_before[i] <= now for i, failure in enumerate(attempts.failures)):
        return attempts
    return _next_round(attempts, now, chance)


def _next_round(attempts: Attempts, now: float, chance: float) -> Attempts:
    met = [failure for failure in attempts.failures if failure is not None]
    rounds, offline = attempts.rounds, attempts.offline
    if all(failure.verdict == "offline" for failure in met):
        least, most = OFFLINE_SECONDS if offline < OFFLINE_ROUNDS else (0.5, 1.0)
        pause = least + (most - least) * chance
        offline += 1
    else:
        pause = chance * min(CAP_SECONDS, BASE_SECONDS * 2.0 ** min(rounds, 30))
        rounds += 1
    clean: tuple[Failure | None, ...] = (None,) * len(attempts.failures)
    return replace(attempts, failures=clean, rounds=rounds, offline=offline, resume=now + pause)


def move(attempts: Attempts, now: float, deadline: float) -> Try | Wait | Stop:
    """Return what to do now.

    Args:
        now, deadline: seconds on the same clock.
    """
    for failure in attempts.said:
        if failure is not None and failure.verdict == "final":
            return Stop(failure.error)
    verdicts = [failure for failure in attempts.said if failure is not None]
    everyone = len(verdicts) == len(attempts.said)
    if everyone and all(failure.verdict == "broker" for failure in verdicts):
        return Stop(verdicts[0].error)
    if now >= deadline:
        # a deadline of 0 seconds still means: ask each broker once
        return Stop(_last_words(verdicts)) if everyone else Try(attempts.said.index(None))
    times = {
        i: max(attempts.resume, attempts.not_before[i])
        for i, failure in enumerate(attempts.failures)
        if failure is None
    }
    for i, time in times.items():
        if time <= now:
            return Try(i)
    return Wait(min(*times.values(), deadline) - now)


def _last_words(failures: list[Failure]) -> KeybrokerError:
    """Return one temporary error that says what each broker's trouble was."""
    temporary = [failure.error for failure in failures if failure.verdict != "broker"]
    chief = next(
        (error for error in temporary if error.problem is not Problem.UNREACHABLE),
        temporary[0] if temporary else failures[0].error,
    )
    details = dict.fromkeys(failure.error.detail for failure in failures)
    return KeybrokerError(
        chief.problem,
        "; ".join(details),
        hint=chief.hint,
        retry_after=chief.retry_after,
        identity=chief.identity,
    )


def _put(values: tuple[_T, ...], index: int, value: _T) -> tuple[_T, ...]:
    return (*values[:index], value, *values[index + 1 :])
