"""The part of the running broker that looks up again and again who goes first (``service.precedence``)."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from keybroker.service.broker import Broker
from keybroker.unforeseen import said

_SECONDS: Final = 20

_log = logging.getLogger("keybroker.usher")


async def usher_forever(broker: Broker) -> None:
    """Look it up at once and then every 20 s; what was known stays where that fails."""
    while True:
        try:
            await asyncio.to_thread(look_up, broker)
        except Exception as error:
            broker.tally.failed("precedence")
            for line in said(error, "precedence"):
                _log.error("%s", line)
        await asyncio.sleep(_SECONDS)


def look_up(broker: Broker) -> None:
    """Look it up once.

    Raises:
        KeybrokerError: UNAVAILABLE, CORRUPT.
    """
    now = broker.clock()
    broker.precedence.replace(broker.store.read(lambda reading: reading.priorities(now)))
