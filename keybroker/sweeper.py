"""The part of the running broker that does each hour what is due by time alone.

Each duty is tried by itself: one that fails, foreseen or not, is said, counted and tried again the next
time, and keeps no other from its turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from keybroker.service import destruction, endings, recovery, revealing, setback
from keybroker.service.broker import Broker
from keybroker.tally import Work
from keybroker.unforeseen import where
from keybroker.wire.problems import KeybrokerError

Duty = Callable[[Broker], Iterable[str]]
"""Does what is due, and returns a line for each thing that it did."""

_SWEEP_SECONDS: Final = 3600

_log = logging.getLogger("keybroker.sweep")


def _keys(broker: Broker) -> Iterator[str]:
    for volume, version in endings.sweep(broker):
        yield f"key {version} of volume {volume} is destroyed"


def _deletions(broker: Broker) -> Iterator[str]:
    for gone in destruction.sweep(broker):
        yield f"{gone} is destroyed, as was asked for"


def _recovery(broker: Broker) -> tuple[str, ...]:
    recovery.renew_all(broker)
    return ()


def _reveals(broker: Broker) -> Iterator[str]:
    for volume in revealing.sweep(broker):
        yield f"volume {volume} gets another key, for its own was shown"


def _restore(broker: Broker) -> tuple[str, ...]:
    return ("every host has reported; the restore is finished",) if setback.end_if_settled(broker) else ()


DUTIES: Final[dict[Work, Duty]] = {
    "keys": _keys,
    "deletions": _deletions,
    "recovery": _recovery,
    "reveals": _reveals,
    "restore": _restore,
}


def sweep(broker: Broker, duties: dict[Work, Duty] = DUTIES) -> None:
    """Do all of it once, and log what was done and what went wrong; raises nothing."""
    for work, duty in duties.items():
        try:
            for line in duty(broker):
                _log.info("sweep: %s", line)
        except KeybrokerError as error:
            broker.tally.failed(work)
            for line in error.lines("sweep"):
                _log.error("%s", line)
        except Exception as error:
            broker.tally.failed(work)
            _log.error("sweep: %s: %s", work, where(error))


async def sweep_forever(broker: Broker) -> None:
    """Sweep at once, and then every hour."""
    while True:
        await asyncio.to_thread(sweep, broker)
        await asyncio.sleep(_SWEEP_SECONDS)
