"""Two volumes and the end of one, as the real broker decides them (``keybroker.model.moving``), in memory."""

from __future__ import annotations

from dataclasses import replace

from keybroker.wire.changes import ErasedRequest, SwitchRequest
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB
from keybroker.wire.records import Record
from tests.crash import memory_keys


def ordered(holder: Record, successor: Record, *, offline: bool = False) -> tuple[Record, Record]:
    """Order a migration to a volume that was just made for it."""
    order = Order(1, "migrate", offline=offline)
    return (
        replace(holder, order=order, partner=successor.volume, revision=holder.revision + 1),
        replace(successor, role="successor", partner=holder.volume, name=holder.name),
    )


def is_moving(record: Record) -> bool:
    """Say whether a Switch of it may be on its way, which each unlock makes void."""
    return record.role == "holder" and record.order is not None and record.order.kind == "migrate"


def switched(successor: Record, holder: Record, request: SwitchRequest) -> tuple[Record, Record]:
    """Return the new holder and the former one."""
    if (successor.role, holder.role) == ("holder", "former"):
        return successor, holder
    revisions = (successor.revision, holder.revision) == (request.revision, request.holder_revision)
    if successor.role != "successor" or holder.order is None or not revisions:
        raise memory_keys.conflict(successor, "it is no successor now")
    header = 0 if holder.stage == "plain" else 4 * MIB
    if successor.stage != "ready" or request.compared < holder.size_bytes - header:
        raise KeybrokerError(Problem.MISMATCH, f"{successor.name}: not compared")
    if request.sequence != successor.sequence:
        raise KeybrokerError(Problem.MISMATCH, f"{successor.name}: its copy is of another header")
    return (
        replace(successor, role="holder", complete_from=request.sequence, revision=successor.revision + 1),
        replace(holder, role="former", order=Order(2, "erase"), revision=holder.revision + 1),
    )


def dropped(holder: Record, successor: Record) -> tuple[Record, Record]:
    """Return both after the migration was cancelled."""
    return (
        replace(holder, order=None, partner=None, revision=holder.revision + 1),
        replace(
            successor, role="former", partner=None, order=Order(1, "erase"), revision=successor.revision + 1
        ),
    )


def erased(record: Record, request: ErasedRequest) -> Record:
    """Return a volume whose disk has no header any more."""
    if record.stage == "erased":
        return record
    if record.order is None or record.order.kind != "erase" or record.revision != request.revision:
        raise memory_keys.conflict(record, "nobody ordered that")
    if record.pin is not None and request.wiped < record.pin.data_offset:
        raise KeybrokerError(Problem.MISMATCH, f"{record.name}: less than its header was wiped")
    if record.stage == "plain" and request.wiped < record.size_bytes:
        raise KeybrokerError(Problem.MISMATCH, f"{record.name}: less than all of its plaintext was wiped")
    return replace(
        record, stage="erased", order=None, partner=None, current=None, staged=None, retiring=None,
        revision=record.revision + 1,
    )  # fmt: skip
