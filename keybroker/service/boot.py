"""A boot: one request, one reply with the keys of every volume that may have them, one durable record."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from keybroker.audit import AuditEvent
from keybroker.envelope import EnvelopeError
from keybroker.policy import Peer, release
from keybroker.service.admission import Caller, admit, settle
from keybroker.service.broker import Broker
from keybroker.service.custody import save
from keybroker.service.keys import AddonKeys, passphrase_context
from keybroker.store import Reading, Writing
from keybroker.store.rows import AddonKeyRow, VolumeRow
from keybroker.wire.messages import UnlockReply, UnlockRequest
from keybroker.wire.names import AddonName, HostId, VolumeId
from keybroker.wire.problems import Problem
from keybroker.wire.records import Grant, Observation, Refusal


@dataclass(frozen=True, slots=True)
class _Found:
    """What the store says to a host's request, all of it as of one moment."""

    caller: Caller
    host: HostId
    addon: AddonName
    volumes: list[VolumeRow]
    keys: list[AddonKeyRow]


def unlock(broker: Broker, peer: Peer, request: UnlockRequest) -> UnlockReply:
    """Hand a host the keys of its own add-on's volumes, as far as what it sees allows.

    Args:
        peer: a host.
        request: what stands at each volume's place; a volume it does not name comes back without keys.

    Returns:
        Every volume of the host's add-on, those that are erased only if it named them. A refused volume does
        not stop the others, nor does one whose stored key does not open (CORRUPT). The receipt is the last of
        the audit records, all durable.

    Raises:
        KeybrokerError: NOT_ALLOWED for an operator; NO_IDENTITY, REVOKED or CERTIFICATE for a host that this
            broker does not know, has revoked, or whose certificate is over; UNAVAILABLE where the record
            cannot be written, and then no key leaves.
    """
    now = broker.clock()

    def look(reading: Reading) -> _Found:
        caller = admit(broker, reading, peer, "unlock", now)
        host, addon = caller.as_host()
        return _Found(caller, host, addon, reading.volumes(addon), reading.addon_keys(addon))

    found = settle(broker, lambda: broker.store.read(look))
    seen = {observation.volume: observation for observation in request.observations}
    keys = AddonKeys(broker.masterkey, found.keys)
    grants = tuple(
        _grant(row, seen.get(row.volume.id), keys)
        for row in found.volumes
        if row.volume.stage != "erased" or row.volume.id in seen
    )
    events = _events(found.caller, request, grants, seen)

    def note(writing: Writing) -> tuple[int, str]:
        # Looked up once more inside the transaction: a host whose revocation is durable gets no key any more.
        caller = admit(broker, writing, peer, "unlock", now)
        for grant, _notes in grants:
            _call_off(writing, caller, grant)
        return writing.append(*events)

    receipt = settle(broker, lambda: broker.store.write(note))
    return UnlockReply(
        host=found.host,
        addon=found.addon,
        grants=tuple(grant for grant, _notes in grants),
        receipt=receipt,
    )


def _grant(row: VolumeRow, seen: Observation | None, keys: AddonKeys) -> tuple[Grant, tuple[str, ...]]:
    """Return the grant for one volume, and what is odd about it."""
    volume = row.volume
    decided = release(volume, seen)
    if decided is None:
        return Grant(volume.record), ()
    if isinstance(decided, Refusal):
        return Grant(volume.record, refused=decided), ()
    try:
        unwrapped = {
            version: keys.unwrap(row.wrapped[version], passphrase_context(volume, version))
            for version in decided.versions
        }
    except EnvelopeError as error:
        return Grant(volume.record, refused=Refusal(Problem.CORRUPT, error.detail)), ()
    return Grant(volume.record, unwrapped), decided.notes


def _call_off(writing: Writing, caller: Caller, grant: Grant) -> None:
    """Call the destruction of retired keys off that are handed out: something old needs them after all."""
    record = grant.record
    if not set(grant.keys) - {record.current, record.staged, record.retiring}:
        return
    row = writing.volume(record.volume)
    if row is None or row.volume.keyring is None:
        return
    kept = row.volume.keyring.call_off(grant.keys)
    if kept is not row.volume.keyring:
        save(writing, caller, row, replace(row.volume, keyring=kept))


def _events(
    caller: Caller,
    request: UnlockRequest,
    grants: tuple[tuple[Grant, tuple[str, ...]], ...],
    seen: dict[VolumeId, Observation],
) -> list[AuditEvent]:
    """Return one record a volume that was released or refused; a boot with neither leaves one too."""
    events = []
    for grant, notes in grants:
        volume = grant.record.volume
        if grant.refused is not None:
            problem = grant.refused.problem.slug
            events.append(
                caller.event(
                    "refused",
                    volume=volume,
                    boot=request.boot_id,
                    problem=problem,
                    why=grant.refused.detail,
                )
            )
        elif grant.keys:
            facts: dict[str, Any] = {"boot": request.boot_id, "versions": list(grant.keys)}
            if grant.record.role != "holder":
                facts["role"] = grant.record.role
            if notes:
                facts["notes"] = list(notes)
            events.append(caller.event("released", volume=volume, **facts))
    own = {grant.record.volume for grant, _notes in grants}
    foreign = sorted(volume for volume in seen if volume not in own)
    if foreign or not events:
        facts = {"boot": request.boot_id}
        if foreign:
            facts["not_its_volumes"] = foreign
        events.append(caller.event("done", **facts))
    return events
