"""A new volume on its way to its disk: claim the device, deposit the header, report it ready.

Each call names the state it wants; repeated, it changes nothing and gives the same reply.
"""

from __future__ import annotations

from functools import partial

from keybroker.model import orders
from keybroker.policy import Peer
from keybroker.service.admission import Caller
from keybroker.service.broker import Broker
from keybroker.service.custody import check_copy, done, keep_header, own, save, unwrap
from keybroker.service.keys import AddonKeys, header_context
from keybroker.service.rotation import back_up
from keybroker.service.sentry import attend
from keybroker.store import Writing
from keybroker.wire.messages import ClaimRequest, DepositRequest, HeaderCopy, ReadyRequest
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Grant, Record


def claim(broker: Broker, peer: Peer, volume: VolumeId, request: ClaimRequest) -> Grant:
    """Let this one device become the volume's, and hand out the key to format it with.

    Returns:
        The record with the key while the stage is ``claimed``; the record alone once it has gone on.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN for a volume that is not its add-on's;
            WRONG_DEVICE for another serial or too small a device; CONFLICT for another revision, or where
            another device was claimed; CORRUPT where the stored key does not open.
    """

    def work(writing: Writing, caller: Caller) -> Grant:
        row = own(writing, caller, volume)
        changed = row.volume.claim(request.revision, request.device)
        save(writing, caller, row, changed)
        keyring = changed.keyring
        if keyring is None or changed.stage != "claimed":
            writing.append(done(caller, changed, serial=request.device.serial))
            return Grant(changed.record)
        live = unwrap(broker, writing, row, keyring.live)
        versions = list(live)
        writing.append(
            caller.event(
                "released",
                volume=volume,
                versions=versions,
                revision=changed.revision,
                serial=request.device.serial,
            )
        )
        return Grant(changed.record, live)

    grant = attend(broker, peer, "claim", work, request.boot)
    if grant.keys:
        broker.tally.delivered("claim")
    return grant


def deposit(broker: Broker, peer: Peer, volume: VolumeId, request: DepositRequest) -> Record:
    """Keep the header, wrapped, and pin it, before any of it is on the disk; with a proof, ``back_up``.

    That of a plain disk is on its way to be encrypted in place (``model.orders.prepare``).

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN; HEADER_REFUSED for a header that the
            volume's profile does not allow; CONFLICT for another revision, stage or header; MALFORMED for an
            empty or too large copy.
    """
    if request.proof is not None:
        return back_up(broker, peer, volume, request)
    check_copy(request.copy)

    def work(writing: Writing, caller: Caller) -> Record:
        row = own(writing, caller, volume)
        is_plain = row.volume.stage == "plain"
        change = partial(orders.prepare, row.volume) if is_plain else row.volume.deposit
        changed = change(request.revision, request.header)
        if changed is not row.volume:
            save(writing, caller, row, changed)
            keep_header(broker, writing, caller, changed, request.header.sequence, request.copy)
        writing.append(done(caller, changed, digest=request.header.pin.digest))
        return changed.record

    return attend(broker, peer, "deposit", work)


def header_copy(broker: Broker, peer: Peer, volume: VolumeId) -> HeaderCopy:
    """Return the newest header that was deposited.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN for another add-on's volume, or while there
            is no header; CORRUPT where the stored copy does not open.
    """

    def work(writing: Writing, caller: Caller) -> HeaderCopy:
        row = own(writing, caller, volume)
        header = writing.newest_header(volume)
        if header is None:
            raise KeybrokerError(Problem.UNKNOWN, f"volume {volume}: no header was deposited")
        keys = AddonKeys(broker.masterkey, writing.addon_keys(row.volume.addon))
        copy = keys.unwrap(header.wrapped, header_context(row.volume, header.number))
        writing.append(done(caller, row.volume, number=header.number))
        return HeaderCopy(row.volume.record, copy)

    return attend(broker, peer, "header.read", work)


def ready(broker: Broker, peer: Peer, volume: VolumeId, request: ReadyRequest) -> Record:
    """Take note that the volume is on its disk with its filesystem; from here on nothing formats anything.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN; CONFLICT for another revision or stage.
    """

    def work(writing: Writing, caller: Caller) -> Record:
        row = own(writing, caller, volume)
        changed = row.volume.ready(request.revision)
        save(writing, caller, row, changed)
        writing.append(done(caller, changed))
        return changed.record

    return attend(broker, peer, "ready", work)
