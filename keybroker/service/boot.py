"""A boot: one request, one reply with the keys of every volume that may have them, one durable record."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from keybroker.audit import AuditEvent
from keybroker.envelope import EnvelopeError
from keybroker.model import moving
from keybroker.policy import Peer, release
from keybroker.service import receipts, sentry
from keybroker.service.admission import Caller, admit, note_shown, settle
from keybroker.service.broker import Broker
from keybroker.service.custody import save
from keybroker.service.keys import AddonKeys, passphrase_context
from keybroker.store import Reading, Writing
from keybroker.store.rows import VolumeRow
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.messages import UnlockReply, UnlockRequest
from keybroker.wire.names import AddonName, HostId, VolumeId
from keybroker.wire.problems import Problem
from keybroker.wire.receipt import Receipt
from keybroker.wire.records import Grant, Observation, Refusal

_Grants = tuple[tuple[Grant, tuple[str, ...]], ...]
"""A grant for each volume, and what is odd about it."""


@dataclass(frozen=True, slots=True)
class _Decided:
    """What becomes of a host's request, all of it as of one moment."""

    host: HostId
    addon: AddonName
    rows: list[VolumeRow]
    grants: _Grants
    events: list[AuditEvent]
    receipt: Receipt | None = None


def unlock(broker: Broker, peer: Peer, request: UnlockRequest) -> UnlockReply:
    """Hand a host the keys of its own add-on's volumes, as far as what it sees allows.

    Args:
        peer: a host.
        request: what stands at each volume's place; a volume it does not name comes back without keys.

    Returns:
        Every volume of the host's add-on, those that are erased only if it named them. A refused volume does
        not stop the others, nor does one whose stored key does not open (CORRUPT). A Switch that was sent
        before comes too late from here on. The receipt is the last of the audit records, all durable.

    Raises:
        KeybrokerError: NOT_ALLOWED for an operator; NO_IDENTITY, REVOKED or CERTIFICATE for a host that this
            broker does not know, has revoked, or whose certificate is over; WRONG_ADDRESS, DISABLED or BUSY
            by the add-on's policy; PENDING, SECOND_BOOT or BOOT_DENIED for a boot that may have none (yet);
            UNAVAILABLE where the record cannot be written, and then no key leaves.
    """
    now = broker.clock()
    asking = AskingBoot(request.boot_id, request.machine_id)

    def look(reading: Reading) -> _Decided:
        caller = admit(broker, reading, peer, "unlock", now)
        sentry.limit(broker, reading.boots(caller.as_host()[0]), caller, asking)
        return _decide(broker, reading, caller, request)

    decided = settle(broker, lambda: broker.store.read(look))

    def note(writing: Writing) -> _Decided:
        # Looked up once more inside the transaction: a host whose revocation is durable gets no key any more.
        caller = admit(broker, writing, peer, "unlock", now)
        sentry.check(broker, writing, writing.boots(caller.as_host()[0]), caller, asking)
        note_shown(broker, writing, peer, now)
        final = decided
        withheld = writing.withheld(decided.addon)
        if any(grant.keys and grant.record.volume in withheld for grant, _notes in decided.grants):
            # It is to be destroyed since a moment ago, and whoever said so was told that no key leaves.
            final = _decide(broker, writing, caller, request)
        if any(moving.outdate(row.volume) is not row.volume for row in decided.rows):
            # A Switch may have come between; what is told is what no Switch changes any more.
            for row in writing.volumes(decided.addon):
                save(writing, caller, row, moving.outdate(row.volume))
            final = _decide(broker, writing, caller, request)
        for grant, _notes in final.grants:
            _call_off(writing, caller, grant)
        receipts.hear(writing, caller, request.receipt)
        told = writing.append(*recording.pick(final.events))
        return replace(final, receipt=Receipt(*told, writing.writer))

    with broker.repeats.recording() as recording:
        decided = settle(broker, lambda: broker.store.write(note))
    assert decided.receipt is not None, "each reply has one"  # noqa: S101
    _count(broker, decided)
    return UnlockReply(
        host=decided.host,
        addon=decided.addon,
        grants=tuple(grant for grant, _notes in decided.grants),
        receipt=decided.receipt,
    )


def _count(broker: Broker, decided: _Decided) -> None:
    for grant, _notes in decided.grants:
        if grant.keys:
            broker.tally.delivered("boot")
        elif grant.refused is not None:
            broker.tally.refused("host", grant.refused.problem)


def _decide(broker: Broker, reading: Reading, caller: Caller, request: UnlockRequest) -> _Decided:
    """Decide which keys may leave, by what the store says at this moment."""
    host, addon = caller.as_host()
    rows = reading.volumes(addon)
    seen = {observation.volume: observation for observation in request.observations}
    keys = AddonKeys(broker.masterkey, reading.addon_keys(addon))
    grants = tuple(
        _grant(row, seen.get(row.volume.id), keys)
        for row in rows
        if row.volume.stage != "erased" or row.volume.id in seen
    )
    return _Decided(host, addon, rows, grants, _events(caller, request, grants, seen))


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
    grants: _Grants,
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
