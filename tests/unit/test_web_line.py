"""The line before the threads: whose turn it is, who has to go, and when they may come again."""

from __future__ import annotations

import asyncio

from keybroker.terms import Priority
from keybroker.web.line import KEPT, LONGEST_SECONDS, OLDEST_EACH, Line, Recall
from keybroker.web.turnstile import Turnstile


def line_of(room: int, *who: tuple[str, Priority]) -> Line[str]:
    line: Line[str] = Line(room)
    for name, priority in who:
        assert line.join(name, priority) is None
    return line


def test_a_higher_class_is_first_and_within_a_class_whoever_came_first() -> None:
    line = line_of(9, ("low", "low"), ("first", "normal"), ("second", "normal"), ("high", "high"))
    assert [line.next() for _ in range(3)] == ["high", "first", "second"]


def test_nobody_stands_still_however_many_of_a_higher_class_come() -> None:
    line = line_of(1000, *((f"low {number}", "low") for number in range(5)))
    served = []
    for turn in range(5 * OLDEST_EACH):
        for number in range(3):
            line.join(f"high {turn}.{number}", "high")
        served.append(line.next())
    assert [name for name in served if name and name.startswith("low")] == [f"low {n}" for n in range(5)]


def test_nobody_is_next_where_nobody_waits() -> None:
    assert Line[str](3).next() is None


def test_in_a_full_line_the_newest_of_the_lowest_class_makes_room() -> None:
    line = line_of(4, ("a", "low"), ("b", "normal"), ("c", "low"), ("d", "high"))
    assert line.join("e", "high") == "c"
    assert line.join("f", "normal") == "a"
    assert line.join("g", "high") == "f"
    assert len(line) == 4


def test_in_a_full_line_nobody_goes_for_one_of_their_own_class_or_a_lower_one() -> None:
    line = line_of(2, ("a", "normal"), ("b", "high"))
    assert line.join("c", "normal") == "c"
    assert line.join("d", "low") == "d"


def test_a_class_keeps_a_part_of_the_places_that_it_has() -> None:
    line = line_of(2 * KEPT, *((f"low {number}", "low") for number in range(2 * KEPT)))
    gone = [line.join(f"high {number}", "high") for number in range(2 * KEPT)]
    assert gone[-2:] == [f"high {2 * KEPT - 2}", f"high {2 * KEPT - 1}"]
    served = [line.next() for _ in range(2 * KEPT)]
    assert {"low 0", "low 1"} < set(served)


def test_those_sent_away_come_back_one_behind_the_other_at_the_pace_of_the_line() -> None:
    recall = Recall()
    for number in range(500):
        recall.moved(number * 0.01, 10)
    after = [recall.after("normal", 5.0, 100, 0.5) for _ in range(1000)]
    assert 0.55 < after[0] < 0.7  # a hundred places of 10 ms, less what agents add
    assert 6.3 < after[-1] < 7.2
    assert after == sorted(after)


def test_nobody_is_sent_away_for_longer_than_a_minute() -> None:
    recall = Recall()
    after = [recall.after("normal", 0.0, 300, chance=0.99) for _ in range(100_000)]
    assert 40 < max(after) <= LONGEST_SECONDS


def test_a_pause_without_anybody_waiting_is_no_pace() -> None:
    recall = Recall()
    for number in range(500):
        recall.moved(number * 0.01, 10)
    recall.moved(5.0, 0)
    recall.moved(500.0, 10)
    assert recall.after("normal", 500.0, 0, 0.0) < 0.01


def test_a_turnstile_lets_in_so_many_and_tells_the_others_at_once() -> None:
    async def whole() -> None:
        stile = Turnstile(2, 2)
        assert [await stile.enter("normal") for _ in range(2)] == [True, True]
        waiting = [asyncio.ensure_future(stile.enter(each)) for each in ("low", "normal")]
        await asyncio.sleep(0)
        assert stile.waiting == 4
        assert not await stile.enter("low")
        high = asyncio.ensure_future(stile.enter("high"))
        await asyncio.gather(waiting[0])
        assert waiting[0].result() is False
        stile.leave()
        assert await high
        stile.leave()
        assert await waiting[1]
        stile.leave()
        stile.leave()
        assert stile.waiting == 0
        assert await stile.enter("low")

    asyncio.run(whole())
