"""The keys and the header of a volume in use change: the host's calls, each durable before its reply.

Stage, promote, back up, retire; and adopt, for a header that somebody else made. Each names the state it
wants; repeated, it changes nothing and gives the same reply.
"""

from __future__ import annotations

from datetime import timedelta

from keybroker.model import rotation
from keybroker.policy import Peer
from keybroker.service import setback
from keybroker.service.admission import Caller
from keybroker.service.broker import Broker
from keybroker.service.custody import (
    check_copy,
    check_opened,
    check_proof,
    done,
    keep_header,
    mint,
    note_proof,
    own,
    save,
    unwrap,
)
from keybroker.service.offline import entrust
from keybroker.service.sentry import attend
from keybroker.store import Writing
from keybroker.wire.changes import AdoptionRequest, PromoteRequest, StageRequest
from keybroker.wire.messages import DepositRequest
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Grant, Record


def stage(broker: Broker, peer: Peer, volume: VolumeId, request: StageRequest) -> Grant:
    """Mint the wanted key version, or hand out again the one that is staged already.

    Returns:
        The record with the volume's live keys; that they leave is on record first.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN for another add-on's volume; CONFLICT for
            another revision or stage, or where no version is wanted; CORRUPT.
    """

    def work(writing: Writing, caller: Caller) -> Grant:
        row = own(writing, caller, volume)
        changed = rotation.stage(row.volume, request.revision)
        if changed is not row.volume:
            setback.check_free(writing, row)
        keys = changed.keyring
        assert keys is not None and keys.staged is not None, "it was staged just now"  # noqa: S101, PT018
        minted = {} if changed is row.volume else mint(broker, writing, changed, keys.staged)
        row = save(writing, caller, row, changed, minted)
        row = entrust(broker, writing, row, minted, caller.now) if minted else row
        live = unwrap(broker, writing, row, keys.live)
        facts = {"versions": list(live), "staged": keys.staged, "revision": changed.revision}
        writing.append(caller.event("released", volume=volume, **facts))
        return Grant(row.volume.record, live)

    grant = attend(broker, peer, "stage", work, request.boot)
    broker.tally.delivered("stage")
    return grant


def promote(broker: Broker, peer: Peer, volume: VolumeId, request: PromoteRequest) -> Record:
    """Make the staged version current, on the proof that it opens the header on the disk.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN; CONFLICT for another revision or version;
            HEADER_REFUSED for a proof that is not one, or is of another volume key; CORRUPT.
    """

    def work(writing: Writing, caller: Caller) -> Record:
        row = own(writing, caller, volume)
        proof = request.proof
        changed = rotation.promote(row.volume, request.revision, proof.version)
        pin = row.volume.pin
        if pin is None or proof.digest != pin.digest:
            raise KeybrokerError(
                Problem.HEADER_REFUSED, f"volume {volume}: the proof is of a header that is not pinned"
            )
        check_proof(broker, writing, row, proof)
        save(writing, caller, row, changed)
        note_proof(writing, caller, volume, proof)
        writing.append(done(caller, changed, version=proof.version, sequence=proof.sequence))
        return changed.record

    return attend(broker, peer, "promote", work)


def back_up(broker: Broker, peer: Peer, volume: VolumeId, request: DepositRequest) -> Record:
    """Keep a copy of the header as it is on the disk now, and what may change about it.

    With the volume key of an order that has begun, all copies from before it are forgotten at once.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN; MALFORMED without a proof, or for an empty
            or too large copy; HEADER_REFUSED for a proof that is not one of ``current`` and this header, or a
            header that is not the volume's or has requirements; CONFLICT for another revision or stage;
            CORRUPT.
    """
    check_copy(request.copy)

    def work(writing: Writing, caller: Caller) -> tuple[Record, bool]:
        row = own(writing, caller, volume)
        changed = rotation.back_up(row.volume, request.revision, request.header)
        proof = check_opened(broker, writing, row, request.proof, request.header)
        newest = writing.newest_header(volume)
        facts: dict[str, object] = {"sequence": request.header.sequence, "version": proof.version}
        is_known = newest is not None and newest.sequence == request.header.sequence
        if changed is row.volume and is_known and newest is not None and newest.key_version == proof.version:
            facts["number"] = newest.number
        else:
            save(writing, caller, row, changed)
            number = keep_header(broker, writing, caller, changed, request.header.sequence, request.copy)
            facts["number"] = number
            # Of a disk that was plain the copy before is of when nothing was encrypted: worse than none.
            is_other = row.volume.pin is None or row.volume.pin.digest != request.header.pin.digest
            if is_other or row.volume.stage == "plain":
                writing.drop_headers(volume, below=number)
                facts["digest"] = request.header.pin.digest
        note_proof(writing, caller, volume, proof)
        writing.append(done(caller, changed, **facts))
        return changed.record, "digest" in facts

    record, dropped = attend(broker, peer, "backup", work)
    if dropped:
        broker.store.scrub()
    return record


def retire(broker: Broker, peer: Peer, volume: VolumeId, version: KeyVersion) -> Record:
    """Take note that the retiring version opens nothing on the disk any more; its destruction is scheduled.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN; CONFLICT unless that version is retiring or
            retired, and the newest header copy was left since the promotion.
    """

    def work(writing: Writing, caller: Caller) -> Record:
        row = own(writing, caller, volume)
        newest = writing.newest_header(volume)
        destroy_after = caller.now + broker.settings.retention
        changed = rotation.retire(row.volume, version, newest.key_version if newest else None, destroy_after)
        if changed is not row.volume:
            setback.check_free(writing, row)
        save(writing, caller, row, changed)
        writing.append(done(caller, changed, version=version, retention=_days(broker.settings.retention)))
        return changed.record

    return attend(broker, peer, "retire", work)


def adopt(broker: Broker, peer: Peer, volume: VolumeId, request: AdoptionRequest) -> Record:
    """Take a volume over that somebody else formatted, now that its header has our key.

    Raises:
        KeybrokerError: as ``back_up``; WRONG_DEVICE.
    """
    check_copy(request.copy)

    def work(writing: Writing, caller: Caller) -> Record:
        row = own(writing, caller, volume)
        changed = rotation.adopt(row.volume, request.revision, request.device, request.header)
        proof = check_opened(broker, writing, row, request.proof, request.header)
        if changed is not row.volume:
            save(writing, caller, row, changed)
            keep_header(broker, writing, caller, changed, request.header.sequence, request.copy)
        note_proof(writing, caller, volume, proof)
        writing.append(done(caller, changed, digest=request.header.pin.digest, serial=request.device.serial))
        return changed.record

    return attend(broker, peer, "adopt", work)


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):g} days"
