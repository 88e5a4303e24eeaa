"""A migration's Switch, and the end of a disk: the host's calls."""

from __future__ import annotations

from dataclasses import replace

from keybroker.model import moving
from keybroker.policy import Peer
from keybroker.service import setback
from keybroker.service.admission import Caller
from keybroker.service.broker import Broker
from keybroker.service.custody import done, own, save
from keybroker.service.endings import forget
from keybroker.service.sentry import attend
from keybroker.store import Writing
from keybroker.wire.changes import ErasedRequest, SwitchReply, SwitchRequest
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record


def switch(broker: Broker, peer: Peer, volume: VolumeId, request: SwitchRequest) -> SwitchReply:
    """Let a successor hold the data from now on: the commit point of a migration.

    Args:
        volume: the successor.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN; CONFLICT for another revision of either
            volume, stage or role; MISMATCH where not all of the data was compared, or the newest copy of the
            successor's header is of another sequence.
    """

    def work(writing: Writing, caller: Caller) -> SwitchReply:
        successor = own(writing, caller, volume)
        if successor.volume.partner is None:
            raise KeybrokerError(Problem.CONFLICT, f"volume {volume}: is nobody's successor")
        holder = own(writing, caller, successor.volume.partner)
        now_holder, former = moving.switch(
            successor.volume,
            holder.volume,
            request.revision,
            request.holder_revision,
            request.compared,
            request.sequence,
        )
        if now_holder is not successor.volume:
            setback.check_free(writing, holder)
        # the former one first: at no time may two hold the same data
        save(writing, caller, holder, former)
        save(writing, caller, successor, now_holder)
        writing.append(
            done(caller, now_holder, former=former.id, compared=request.compared, sequence=request.sequence)
        )
        return SwitchReply(now_holder.record, former.record)

    return attend(broker, peer, "switch", work)


def erased(broker: Broker, peer: Peer, volume: VolumeId, request: ErasedRequest) -> Record:
    """Take note that a disk has no header any more: header copies go at once, keys when their time has come.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN; CONFLICT for another revision, or where
            nobody ordered it; WRONG_DEVICE; MISMATCH where less than the header was wiped.
    """

    def work(writing: Writing, caller: Caller) -> Record:
        row = own(writing, caller, volume)
        changed = moving.erased(
            row.volume,
            request.revision,
            request.device,
            request.wiped,
            caller.now + broker.settings.retention,
        )
        if changed is row.volume:
            writing.append(done(caller, changed))
            return changed.record
        setback.check_free(writing, row)
        save(writing, caller, row, changed)
        if row.volume.partner is not None:
            part(writing, caller, row.volume.partner, volume)
        number = forget(broker, writing, caller.now, changed, method=request.method, wiped=request.wiped)
        writing.append(
            done(caller, changed, statement=number, wiped=request.wiped, serial=request.device.serial)
        )
        return changed.record

    record = attend(broker, peer, "erased", work)
    broker.store.scrub()
    return record


def part(writing: Writing, caller: Caller, partner: VolumeId, erased: VolumeId) -> None:
    """Let the volume that holds the data forget the one that held it before.

    It may have another partner by now: the one that it is being moved to.
    """
    row = writing.volume(partner)
    if row is not None and row.volume.partner == erased:
        volume = row.volume
        save(writing, caller, row, replace(volume, partner=None, revision=volume.revision + 1))
