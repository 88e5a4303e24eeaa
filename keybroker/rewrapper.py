"""The part of the running broker that has what older keys wrap wrapped by the newest ones.

Where several brokers share a database each of them does: a row is written only as it was read, so that two
who take the same one leave it wrapped once. What another broker was told about master keys is heard here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from keybroker.service import masters, rewrap
from keybroker.service.broker import Broker
from keybroker.unforeseen import said

_PAUSE_SECONDS: Final = 1
_RETRY_SECONDS: Final = 60

_log = logging.getLogger("keybroker.rewrap")


async def rewrap_forever(broker: Broker, stopping: Callable[[], bool]) -> None:
    """Look each second whether something is to be rewrapped, and do it; what goes wrong is tried again.

    Args:
        stopping: whether to end between two batches.
    """
    pause = _PAUSE_SECONDS
    while True:
        await asyncio.sleep(pause)
        pause = _PAUSE_SECONDS
        try:
            await asyncio.to_thread(masters.keep_up, broker)
            if not await asyncio.to_thread(rewrap.is_wanted, broker):
                continue
            _log.info("rewrap: begins")
            outcome = await asyncio.to_thread(rewrap.advance, broker, stopping)
        except Exception as error:
            broker.tally.failed("rewrap")
            for line in said(error, "rewrap"):
                _log.error("%s", line)
            pause = _RETRY_SECONDS
            continue
        for broken in outcome.broken:
            _log.error("rewrap: %s", broken)
        if outcome.broken:
            pause = _RETRY_SECONDS
        _log.info("rewrap: %d rows are wrapped anew, %d do not open", outcome.rewrapped, len(outcome.broken))
