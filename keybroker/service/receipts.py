"""Receipts that hosts hold: one for a record that is not in the trail shows that the database was set back.

A restored older backup looks like that, and so does a trail that somebody cut or rewrote. Nothing is refused
for it: a VM that may boot does boot. It is on record and in the log, and begins RECOVERY (``setback``), in
which nothing is minted or destroyed until every host has reported. A host that makes a receipt up causes as
much, in its own name.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from keybroker.audit import AuditEvent
from keybroker.service import setback
from keybroker.service.admission import Caller
from keybroker.service.broker import Broker
from keybroker.store import Reading, Writing
from keybroker.wire.receipt import MAIN, Receipt

_log = logging.getLogger("keybroker.receipts")


def hear(writing: Writing, caller: Caller, receipt: Receipt | None) -> None:
    """Hold a host's receipt against the trail.

    Args:
        receipt: the last one that it was given; None from one that holds none.
    """
    if receipt is None or is_there(writing, receipt):
        return
    host, _addon = caller.as_host()
    facts = _facts(writing, receipt)
    writing.append(caller.event("done", **facts))
    _enter(writing, caller.now, f"host {host}", facts["why"])


def recognise(broker: Broker, receipt: Receipt) -> None:
    """Say that the broker's own receipt, of what it copied to the journal, is not in the trail.

    Raises:
        KeybrokerError: UNAVAILABLE.
    """
    now = broker.clock()

    def work(writing: Writing) -> None:
        facts = _facts(writing, receipt)
        writing.append(AuditEvent(now, "broker", "", "local", "journal", "done", detail=facts))
        _enter(writing, now, "the broker", facts["why"])

    broker.store.write(work)


def is_there(reading: Reading, receipt: Receipt) -> bool:
    """Say whether a receipt's record is in the trail."""
    return reading.has_record(receipt)


def _facts(reading: Reading, receipt: Receipt) -> dict[str, Any]:
    ends = {head.writer: head.sequence for head in reading.heads()}
    last = ends.get(receipt.writer, 0)
    why = f"a receipt is held for record {receipt.name}, which is not in the trail"
    return {
        "problem": "set-back",
        "why": why,
        "sequence": receipt.sequence,
        "hash": receipt.hash,
        "ended": last,
        **({} if receipt.writer == MAIN else {"writer": receipt.writer}),
    }


def _enter(writing: Writing, now: datetime, who: str, why: str) -> None:
    """Begin RECOVERY, unless it has begun."""
    _log.error("%s: %s: the database was set back, or its trail cut", who, why)
    restore = writing.restore()
    if restore is None or restore.finished is not None:
        setback.enter(writing, now, made=None, source=f"recognised by {who}: {why}", who="nobody said so")
