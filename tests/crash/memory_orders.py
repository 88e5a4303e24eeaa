"""An operator's orders at the memory broker: begun, carried out and finished as the real one decides it."""

from __future__ import annotations

from keybroker.wire.changes import PhaseRequest
from keybroker.wire.messages import DepositRequest
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record, SeenHeader
from keybroker.wire.values import replace
from tests.crash.memory_keys import conflict


def announced(record: Record, request: PhaseRequest) -> Record:
    """Return the record after an announcement; the very one where it was made already."""
    order = _open(record, request.number)
    if order.phase == "begun" and request.digest in (None, order.digest):
        return record
    if order.kind not in ("reencrypt", "encrypt") or is_rotating(record):
        raise conflict(record, "its order has no such phase, or its key is being rotated")
    if order.kind == "encrypt" and request.digest is not None:
        raise conflict(record, "its digest comes with the header")
    if record.revision != request.revision:
        raise conflict(record, f"is at {record.revision}")
    return replace(record, order=replace(order, phase="begun", digest=request.digest))


def prepared(record: Record, request: DepositRequest) -> Record:
    """Return the record of a plain disk that is to be encrypted in place, with its header pinned."""
    order = record.order
    if order is None or order.kind != "encrypt" or order.phase != "begun" or order.digest is not None:
        raise conflict(record, "no encryption in place has begun")
    if record.revision != request.revision:
        raise conflict(record, f"is at {record.revision}")
    header = request.header
    if header.pin.uuid != record.luks_uuid or len(header.requirements) != 1 or header.degraded:
        raise KeybrokerError(Problem.HEADER_REFUSED, f"{record.name}: no header of an encryption in place")
    return replace(
        record,
        pin=header.pin,
        sequence=header.sequence,
        order=replace(order, digest=header.pin.digest),
    )


def finished(record: Record, number: int) -> Record:
    """Return the record without its order; the very one where that is done already."""
    if record.order is None or record.order.number > number:
        return record
    order = _open(record, number)
    if order.kind in ("reencrypt", "encrypt") and (
        record.stage != "ready" or record.pin is None or order.digest != record.pin.digest
    ):
        raise conflict(record, f"order {number} is not done")
    return replace(record, order=None)


def is_rotating(record: Record) -> bool:
    return record.wanted != record.current or record.staged is not None or record.retiring is not None


def fits(record: Record, header: SeenHeader) -> bool:
    """Say whether a key is given out for a header: the pinned one, or one on an order's way."""
    order, pin = record.order, record.pin
    if pin is None or pin != replace(header.pin, digest=pin.digest):
        return False
    there = {header.pin.digest, *header.others}
    if order is None or not order.is_reencrypting:
        return there == {pin.digest} and not header.requirements
    known = {pin.digest, order.digest or pin.digest}
    if header.requirements:
        return pin.digest in there and (order.digest is None or there <= known)
    return len(there) == 1 and there <= known


def _open(record: Record, number: int) -> Order:
    if record.order is None or record.order.number != number:
        raise conflict(record, f"order {number} is not open")
    return record.order
