"""What the broker does by time alone goes on, whatever goes wrong in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from keybroker.rewrapper import rewrap_forever
from keybroker.service.broker import Broker
from keybroker.sweeper import DUTIES, sweep, sweep_forever
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.broker_house import House
from tests.unit.test_metrics import seen


def failing(error: Exception) -> Callable[[Broker], Iterable[str]]:
    def duty(_broker: Broker) -> Iterable[str]:
        yield "one is done"
        raise error

    return duty


def test_a_duty_that_fails_keeps_no_other_from_its_turn_and_is_logged_and_counted(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sweep(
        house.broker,
        {
            "keys": failing(ValueError("a row that is nobody's business")),
            "deletions": failing(KeybrokerError(Problem.UNAVAILABLE, "database: is locked")),
            "reveals": lambda _broker: ["volume x gets another key"],
        },
    )
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == said[2] == "sweep: one is done"
    assert said[1].startswith("sweep: keys: unexpected ValueError at test_sweeping.py:")
    assert said[3:] == ["sweep: database: is locked", "sweep: volume x gets another key"]
    failures = {name: value for name, value in seen(house).items() if "work_failures" in name and value}
    assert failures == {
        'keybroker_work_failures_total{work="keys"}': 1,
        'keybroker_work_failures_total{work="deletions"}': 1,
    }


def test_every_duty_is_there_and_each_has_its_number_from_the_start(house: House) -> None:
    sweep(house.broker)
    for work in DUTIES:
        assert seen(house)[f'keybroker_work_failures_total{{work="{work}"}}'] == 0


async def _for_a_moment(work: asyncio.Task[None], failed: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not failed():
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)
    assert not work.done()
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


class _Broken:
    """A store of which nothing works, for a reason that nobody foresaw."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        def fail(*_given: object) -> object:
            raise ZeroDivisionError(name)

        return fail


def test_neither_the_sweeper_nor_the_rewrapper_ends_by_an_error_that_nobody_foresaw(house: House) -> None:
    broken = replace(house.broker, store=_Broken())  # type: ignore[arg-type]

    def failures(work: str) -> float:
        counted = seen(house)[f'keybroker_work_failures_total{{work="{work}"}}']
        assert isinstance(counted, float)
        return counted

    async def run() -> None:
        sweeper = asyncio.create_task(sweep_forever(broken))
        await _for_a_moment(sweeper, lambda: failures("restore") > 0)
        rewrapper = asyncio.create_task(rewrap_forever(broken, lambda: False))
        await _for_a_moment(rewrapper, lambda: failures("rewrap") > 0)

    asyncio.run(run())
    assert {work: failures(work) for work in DUTIES} == dict.fromkeys(DUTIES, 1)
