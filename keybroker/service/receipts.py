"""Receipts that hosts hold: one for a record that is not in the trail shows that the database was set back.

A restored older backup looks like that, and so does a trail that somebody cut or rewrote. Nothing is refused
for it: a VM that may boot does boot. It is on record and in the log, and begins RECOVERY (``setback``), in
which nothing is minted or destroyed until every host has reported. A host that makes a receipt up causes as
much, in its own name.
"""

from __future__ import annotations

import logging

from keybroker.service import setback
from keybroker.service.admission import Caller
from keybroker.store import Reading, Writing
from keybroker.wire.receipt import Receipt

_log = logging.getLogger("keybroker.receipts")


def hear(writing: Writing, caller: Caller, receipt: Receipt | None) -> None:
    """Hold a host's receipt against the trail.

    Args:
        receipt: the last one that it was given; None from one that holds none.
    """
    if receipt is None or _is_there(writing, receipt):
        return
    host, addon = caller.as_host()
    last, _ = writing.audit_head()
    why = f"it holds a receipt for record {receipt.sequence}, which is not in the trail"
    writing.append(
        caller.event(
            "done", problem="set-back", why=why, sequence=receipt.sequence, hash=receipt.hash, ended=last
        )
    )
    _log.error("host %s of %s: %s; the database was set back, or its trail cut", host, addon, why)
    restore = writing.restore()
    if restore is None or restore.finished is not None:
        source = f"recognised by host {host}: {why}"
        setback.enter(writing, caller.now, made=None, source=source, who="nobody said so")


def _is_there(reading: Reading, receipt: Receipt) -> bool:
    found = reading.audit(receipt.sequence - 1, 1, through=receipt.sequence)
    return bool(found) and found[0].hash == receipt.hash
