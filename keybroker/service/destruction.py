"""Pending destructions are reminded of, and carried out once they are due; swept at the start and every hour.

All of a volume's name, or all of an add-on, goes in one transaction: keys, header copies, what was encrypted
to the recovery key, and the signed statement and the audit record that say so. It is whole or not done, and
it looks again, within the transaction, whether somebody has called it off.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from keybroker import statement
from keybroker.audit import AuditEvent, rfc3339
from keybroker.model import Deletion, deletion, moving
from keybroker.service import setback
from keybroker.service.broker import Broker
from keybroker.service.statements import backup_words, remains, signing_key, state
from keybroker.store import Reading, Writing
from keybroker.store.rows import AddonRow, AddonStatementRow, VolumeRow
from keybroker.wire.names import AddonName, VolumeId, VolumeName

_ALL: Final = 1 << 62
_METHOD: Final = "overwritten in the broker's database; its write-ahead log is cut"


def named(reading: Reading, addon: AddonName, name: VolumeName) -> list[VolumeRow]:
    """Return all volumes of a name that are not erased: holder, successor, and disks that were left."""
    rows = reading.volumes(addon)
    return [row for row in rows if row.volume.name == name and row.volume.stage != "erased"]


def pending(reading: Reading) -> dict[str, datetime]:
    """Return when each add-on, ``addon``, and each volume, ``addon/volume``, is to be destroyed."""
    addons = {str(row.name): row.deletion.due for row in reading.addons() if row.deletion is not None}
    volumes = [row.volume for row in reading.volumes() if row.volume.deletion is not None]
    return addons | {
        f"{volume.addon}/{volume.name}": volume.deletion.due for volume in volumes if volume.deletion
    }


def check_free(reading: Reading, rows: Iterable[VolumeRow]) -> None:
    """Check that none of some volumes is held (CONFLICT otherwise, as ``setback.check_free``)."""
    for row in rows:
        setback.check_free(reading, row)


def sweep(broker: Broker) -> tuple[str, ...]:
    """Remind of what is near, and destroy what is due.

    Returns:
        What was destroyed: ``addon`` or ``addon/volume``.

    Raises:
        KeybrokerError: UNAVAILABLE, CORRUPT; what was done until then stays so.
    """
    return *sweep_addons(broker), *sweep_volumes(broker)


def sweep_volumes(broker: Broker, only: tuple[str, str] | None = None) -> tuple[str, ...]:
    """Do so for volumes that are to be destroyed on their own; or for one alone."""
    pending = broker.store.read(
        lambda reading: sorted(
            {
                (row.volume.addon, row.volume.name)
                for row in reading.volumes(None if only is None else only[0])
                if row.volume.deletion is not None and only in (None, (row.volume.addon, row.volume.name))
            }
        )
    )
    done = [f"{addon}/{name}" for addon, name in pending if _sweep_volume(broker, addon, name)]
    return _scrubbed(broker, done)


def sweep_addons(broker: Broker, only: str | None = None) -> tuple[str, ...]:
    """Do so for add-ons; or for one alone."""
    pending = broker.store.read(
        lambda reading: [
            row.name for row in reading.addons() if row.deletion is not None and only in (None, row.name)
        ]
    )
    return _scrubbed(broker, [str(addon) for addon in pending if _sweep_addon(broker, addon)])


def _scrubbed(broker: Broker, done: list[str]) -> tuple[str, ...]:
    if done:
        broker.store.scrub()
    return tuple(done)


def _sweep_volume(broker: Broker, addon: AddonName, name: VolumeName) -> bool:
    """Remind of one volume's destruction or carry it out, in one transaction; say whether it was."""
    now = broker.clock()

    def work(writing: Writing) -> bool:
        # Only what was to go when it was asked for: another volume of that name may have been made since.
        rows = [row for row in named(writing, addon, name) if row.volume.deletion is not None]
        pending = rows[0].volume.deletion if rows else None
        if pending is None or setback.held(writing, rows):
            return False
        since = _set_back(writing)
        days = deletion.reminder(pending, now, since)
        if days is not None:
            for row in rows:
                # Not another revision: no record says anything else, and no host is made to look again.
                told = replace(row.volume, deletion=deletion.remind(pending, now))
                writing.change_volume(replace(row, volume=told), row.volume.revision, {}, now)
            holder = rows[0].volume.id
            writing.append(_reminder("volume.delete", pending, days, now, addon, holder))
        if not deletion.ripe(pending, now, since):
            return False
        for row in rows:
            _destroy(broker, writing, row, pending, now)
        return True

    return broker.store.write(work)


def _sweep_addon(broker: Broker, addon: AddonName) -> bool:
    """Remind of one add-on's destruction or carry it out, in one transaction; say whether it was."""
    now = broker.clock()

    def work(writing: Writing) -> bool:
        row, rows = writing.addon(addon), writing.volumes(addon)
        if row is None or row.deletion is None or _is_held(writing, addon, rows):
            return False
        since = _set_back(writing)
        days = deletion.reminder(row.deletion, now, since)
        if days is not None:
            writing.change_addon(replace(row, deletion=deletion.remind(row.deletion, now)))
            writing.append(_reminder("addon.delete", row.deletion, days, now, addon))
        if not deletion.ripe(row.deletion, now, since):
            return False
        _destroy_addon(broker, writing, row, rows, row.deletion, now)
        return True

    return broker.store.write(work)


def _is_held(writing: Writing, addon: AddonName, rows: list[VolumeRow]) -> bool:
    """Say whether a newer database may know more of an add-on than this one, which was set back."""
    unknown = [one for one in writing.ahead().values() if one.addon == addon and one.accepted is None]
    return bool(unknown or setback.held(writing, rows))


def _set_back(reading: Reading) -> datetime | None:
    restore = reading.restore()
    return None if restore is None else restore.finished or restore.at


def _destroy(
    broker: Broker, writing: Writing, row: VolumeRow, pending: Deletion, now: datetime
) -> dict[str, Any]:
    """Destroy all that there is of a volume, and state it; return what the add-on's statement says of it."""
    before = row.volume
    versions = list(before.keyring.kept) if before.keyring is not None else []
    copies = len(writing.headers(before.id))
    # first retired, then destroyed: the database lets no other key go
    ending = moving.ending(before, now)
    writing.change_volume(replace(row, volume=ending), before.revision, {}, now)
    gone = moving.destroyed(ending)
    writing.change_volume(replace(row, volume=gone), ending.revision, {}, now)
    writing.drop_headers(before.id, below=_ALL)
    for shown in writing.reveals(before.id):
        if shown.rotated is None:  # there is nothing left to rotate
            writing.put_reveal(replace(shown, rotated=now))
    number = state(
        broker,
        writing,
        gone,
        now,
        what="destroyed",
        method=_METHOD,
        destroyed_now=versions,
        header_copies_destroyed=copies,
        role=before.role,
        **_why(pending),
        **_backups(broker, now),
        remains=[*remains(gone, backups_until=_backups_until(broker, now)), *_open_still(before.is_swap)],
    )
    facts = {"versions": versions, "copies": copies, "statement": number, "due": rfc3339(pending.due)}
    writing.append(_event("destroy", now, gone.addon, gone.id, **facts))
    return {"volume": gone.id, "name": gone.name, "statement": number}


def _destroy_addon(
    broker: Broker,
    writing: Writing,
    row: AddonRow,
    rows: list[VolumeRow],
    pending: Deletion,
    now: datetime,
) -> None:
    """Destroy all that there is of an add-on, erased volumes' keys too, and its own key; state it."""
    volumes = [
        _destroy(broker, writing, each, pending, now)
        for each in rows
        if each.volume.stage != "erased" or each.wrapped or writing.headers(each.volume.id)
    ]
    # first destroyed, then without a key: the database lets the newest key of no other add-on go
    writing.change_addon(replace(row, deletion=None, destroyed=now))
    generations = writing.addon_keys(row.name)
    for key in generations:
        writing.drop_addon_key(key)  # which looks whether anything is still wrapped by it
    hosts = [host.id for host in writing.hosts(row.name) if host.revoked is None]
    for host in hosts:
        writing.revoke_host(host, "its add-on was destroyed", now)
    public, private = signing_key(broker, writing, now)
    document = statement.compose(
        {
            "at": rfc3339(now),
            "broker": broker.settings.trust_domain,
            "addon": row.name,
            "what": "add-on destroyed",
            "method": _METHOD,
            "volumes": volumes,
            "addon_keys_destroyed": [key.generation for key in generations],
            "hosts_revoked": hosts,
            **_why(pending),
            **_backups(broker, now),
            "remains": [backup_words(_backups_until(broker, now))],
        }
    )
    signature = statement.sign(private, document)
    writing.add_addon_statement(AddonStatementRow(row.name, now, document, signature, public))
    facts = {"generations": [key.generation for key in generations], "hosts": hosts}
    writing.append(_event("destroy", now, row.name, None, **facts, due=rfc3339(pending.due)))


def _why(pending: Deletion) -> dict[str, Any]:
    return {
        "asked_by": pending.by,
        "asked_at": rfc3339(pending.at),
        "reason": pending.reason,
        "sooner_by": pending.sooner_by if pending.approved_by else None,
        "approved_by": pending.approved_by,
    }


def _backups(broker: Broker, now: datetime) -> dict[str, Any]:
    until = _backups_until(broker, now)
    return {"backups_until": until and rfc3339(until)}


def _backups_until(broker: Broker, now: datetime) -> datetime | None:
    kept = broker.settings.backups_kept
    return None if kept is None else now + kept


def _open_still(is_swap: bool) -> list[str]:
    if is_swap:
        return []
    return ["the volume key in the memory of a VM that has the volume open, until it is closed there"]


def _reminder(
    verb: str, pending: Deletion, days: int, now: datetime, addon: AddonName, volume: VolumeId | None = None
) -> AuditEvent:
    facts = {"reminder_days": days, "due": rfc3339(pending.due), "by": pending.by, "reason": pending.reason}
    return _event(verb, now, addon, volume, **facts)


def _event(verb: str, now: datetime, addon: AddonName, volume: VolumeId | None, **facts: Any) -> AuditEvent:
    """Return a record of the broker's own."""
    event = AuditEvent(now, "broker", "", "local", verb, "done", detail=facts)
    return replace(event, addon=addon, volume=volume)
