"""A new volume on its way to its disk: claim the device, deposit the header, report it ready.

Each call names the state it wants; repeated, it changes nothing and gives the same reply.
"""

from __future__ import annotations

from keybroker.audit import AuditEvent
from keybroker.model import Volume
from keybroker.policy import Peer
from keybroker.service.admission import Caller, perform
from keybroker.service.broker import Broker
from keybroker.service.keys import AddonKeys, header_context, passphrase_context
from keybroker.store import Reading, Writing
from keybroker.store.rows import HeaderRow, VolumeRow
from keybroker.wire.messages import (
    LARGEST_HEADER_COPY,
    ClaimRequest,
    DepositRequest,
    HeaderCopy,
    ReadyRequest,
)
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Grant, Record

HEADERS_KEPT = 2
"""Copies of a volume's header: the newest, and the one before in case the newest is of a cut change."""


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
        row = _own(writing, caller, volume)
        changed = row.volume.claim(request.revision, request.device)
        _save(writing, caller, row, changed)
        keyring = changed.keyring
        if keyring is None or changed.stage != "claimed":
            writing.append(_done(caller, changed, serial=request.device.serial))
            return Grant(changed.record)
        keys = AddonKeys(broker.masterkey, writing.addon_keys(changed.addon))
        live = {
            version: keys.unwrap(row.wrapped[version], passphrase_context(changed, version))
            for version in keyring.live
        }
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

    return perform(broker, peer, "claim", work)


def deposit(broker: Broker, peer: Peer, volume: VolumeId, request: DepositRequest) -> Record:
    """Keep the header, wrapped, and pin it, before any of it is on the disk.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN; HEADER_REFUSED for a header that the
            volume's profile does not allow; CONFLICT for another revision, stage or header; MALFORMED for an
            empty or too large copy.
    """

    if not 0 < len(request.copy) <= LARGEST_HEADER_COPY:
        raise KeybrokerError(Problem.MALFORMED, f"copy: must have 1 to {LARGEST_HEADER_COPY} bytes")

    def work(writing: Writing, caller: Caller) -> Record:
        row = _own(writing, caller, volume)
        changed = row.volume.deposit(request.revision, request.header)
        if changed is not row.volume:
            _save(writing, caller, row, changed)
            _keep_header(broker, writing, caller, changed, request)
        writing.append(_done(caller, changed, digest=request.header.pin.digest))
        return changed.record

    return perform(broker, peer, "deposit", work)


def header_copy(broker: Broker, peer: Peer, volume: VolumeId) -> HeaderCopy:
    """Return the newest header that was deposited.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN for another add-on's volume, or while there
            is no header; CORRUPT where the stored copy does not open.
    """

    def work(writing: Writing, caller: Caller) -> HeaderCopy:
        row = _own(writing, caller, volume)
        header = writing.newest_header(volume)
        if header is None:
            raise KeybrokerError(Problem.UNKNOWN, f"volume {volume}: no header was deposited")
        keys = AddonKeys(broker.masterkey, writing.addon_keys(row.volume.addon))
        copy = keys.unwrap(header.wrapped, header_context(row.volume, header.number))
        writing.append(_done(caller, row.volume, number=header.number))
        return HeaderCopy(row.volume.record, copy)

    return perform(broker, peer, "header.read", work)


def ready(broker: Broker, peer: Peer, volume: VolumeId, request: ReadyRequest) -> Record:
    """Take note that the volume is on its disk with its filesystem; from here on nothing formats anything.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN; CONFLICT for another revision or stage.
    """

    def work(writing: Writing, caller: Caller) -> Record:
        row = _own(writing, caller, volume)
        changed = row.volume.ready(request.revision)
        _save(writing, caller, row, changed)
        writing.append(_done(caller, changed))
        return changed.record

    return perform(broker, peer, "ready", work)


def _own(reading: Reading, caller: Caller, volume: VolumeId) -> VolumeRow:
    """Return a volume of the caller's own add-on; any other is as unknown to it as one that is not there."""
    _host, addon = caller.as_host()
    row = reading.volume(volume)
    if row is None or row.volume.addon != addon:
        raise KeybrokerError(Problem.UNKNOWN, f"volume {volume}: there is none")
    return row


def _save(writing: Writing, caller: Caller, row: VolumeRow, changed: Volume) -> None:
    if changed is not row.volume:
        kept = VolumeRow(changed, row.created, row.wrapped)
        writing.change_volume(kept, row.volume.revision, {}, caller.now)


def _keep_header(
    broker: Broker, writing: Writing, caller: Caller, volume: Volume, request: DepositRequest
) -> None:
    newest = writing.newest_header(volume.id)
    number = newest.number + 1 if newest else 1
    keys = AddonKeys(broker.masterkey, writing.addon_keys(volume.addon))
    wrapped = keys.wrap(request.copy, header_context(volume, number), broker.entropy)
    assert volume.keyring is not None, "a swap volume has no header"  # noqa: S101
    writing.add_header(
        HeaderRow(
            volume=volume.id,
            number=number,
            sequence=request.header.sequence,
            key_version=volume.keyring.current,
            wrapped=wrapped,
            created=caller.now,
        ),
        keep=HEADERS_KEPT,
    )


def _done(caller: Caller, volume: Volume, **facts: object) -> AuditEvent:
    return caller.event("done", volume=volume.id, stage=volume.stage, revision=volume.revision, **facts)
