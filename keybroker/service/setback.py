"""RECOVERY: what a broker does after its database was restored from an older backup.

It serves boots as ever, and holds what could lose a key: for each volume, until its host has reported and is
not ahead, or an operator has accepted what is known here (``model.setback``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from keybroker import cursor
from keybroker.audit import AuditEvent, rfc3339
from keybroker.model import setback
from keybroker.service.admission import Caller
from keybroker.service.broker import Broker
from keybroker.service.directory import volume_named
from keybroker.store import Reading, Writing
from keybroker.store.recoveryrows import AheadRow, RestoreRow
from keybroker.store.rows import VolumeRow
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.reports import VolumeReport


@dataclass(frozen=True, slots=True)
class Left:
    """A volume of which nothing is destroyed or minted.

    Attributes:
        what: what an operator can do.
    """

    addon: str
    name: str | None
    volume: VolumeId
    why: str
    what: str

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "addon": self.addon, "name": self.name, "volume": self.volume, "why": self.why, "what": self.what,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a restore is dealt with.

    Attributes:
        restore: None where the database was never set back, as far as is known.
        left: what keeps it from being finished.
        strangers: identities that were turned away since, which a newer database may know.
    """

    restore: RestoreRow | None
    left: tuple[Left, ...]
    strangers: tuple[str, ...]

    @property
    def is_open(self) -> bool:
        """Say whether anything is held."""
        return bool(self.left) or (self.restore is not None and self.restore.finished is None)

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        row = self.restore
        return {
            "restored": row
            and {
                "at": rfc3339(row.at),
                "made": row.made and rfc3339(row.made),
                "source": row.source,
                "who": row.who,
                "finished": row.finished and rfc3339(row.finished),
                "finished_by": row.finished_by,
            },
            "left": [each.as_json() for each in self.left],
            "strangers": list(self.strangers),
        }


def enter(writing: Writing, now: datetime, *, made: datetime | None, source: str, who: str) -> None:
    """Take note that the database was set back; from here on volumes are held."""
    last = writing.restore()
    number = 1 if last is None else last.number + 1
    place = {head.writer: head.sequence for head in writing.heads()}
    row = RestoreRow(number, now, made, source, who, writing.audit_head()[0], heads=cursor.text_of(place))
    writing.put_restore(row)
    facts = {"source": source, "made": made and rfc3339(made), "who": who}
    writing.append(AuditEvent(now, "local", "", "local", "database.restore", "done", detail=facts))


def held(reading: Reading, rows: Iterable[VolumeRow]) -> dict[VolumeId, str]:
    """Return the volumes of which nothing is destroyed or minted, each with the reason."""
    restore, ahead = reading.restore(), reading.ahead()
    since = restore.at if restore is not None and restore.finished is None else None
    if since is None and not ahead:
        return {}
    reports = reading.reports()
    hosted = {host.addon for host in reading.hosts() if host.enrolled and not host.revoked}
    found = {}
    for row in rows:
        known, report = ahead.get(row.volume.id), reports.get(row.volume.id)
        why = setback.held(
            row.volume,
            since=since,
            reported=report.at if report else None,
            has_hosts=row.volume.addon in hosted,
            why_ahead=known.why if known else None,
            accepted=known.accepted if known else None,
        )
        if why is not None:
            found[row.volume.id] = why
    return found


def check_free(reading: Reading, row: VolumeRow) -> None:
    """Check that a volume is not held.

    Raises:
        KeybrokerError: CONFLICT, with what to do.
    """
    why = held(reading, [row]).get(row.volume.id)
    if why is not None:
        raise KeybrokerError(
            Problem.CONFLICT,
            f"volume {row.volume.addon}/{row.volume.name}: {why}; nothing of it is minted or destroyed",
            hint="keybroker restore --check",
        )


def hear(
    broker: Broker,
    writing: Writing,
    caller: Caller,
    rows: dict[VolumeId, VolumeRow],
    said: Iterable[VolumeReport],
) -> None:
    """Find out by a host's report whether the database was set back; what is found stays on record."""
    host, addon = caller.as_host()
    known: dict[VolumeId, AheadRow] | None = None
    for each in said:
        row = rows.get(each.volume)
        if row is None and writing.volume(each.volume) is not None:
            continue  # another add-on's
        why = setback.ahead(None if row is None else row.volume, each.named, each.revision)
        if why is None and each.ciphertext is None:
            continue
        known = writing.ahead() if known is None else known
        before = known.get(each.volume)
        if why is None or (before is not None and not _is_news(before, each)):
            continue
        found = AheadRow(
            volume=each.volume,
            addon=addon,
            name=None if row is None else row.volume.name,
            host=host,
            at=caller.now,
            why=why if before is None or before.accepted else before.why,
            named=_most(each.named, before and before.named),
            revision=_most(each.revision, before and before.revision),
            ciphertext=each.ciphertext or (before.ciphertext if before else None),
        )
        writing.put_ahead(found)
        if before is None or before.accepted is not None:
            _note(broker, writing, caller, found)


def _most(said: Any, before: Any) -> Any:
    return max((value for value in (said, before) if value is not None), default=None)


def _is_news(before: AheadRow, said: VolumeReport) -> bool:
    newer = (said.named or 0) > (before.named or 0) or (said.revision or 0) > (before.revision or 0)
    return newer or (said.ciphertext is not None and said.ciphertext != before.ciphertext)


def _note(broker: Broker, writing: Writing, caller: Caller, found: AheadRow) -> None:
    restore = writing.restore()
    writing.append(caller.event("done", volume=found.volume, ahead=found.why, named=found.named))
    if restore is None or restore.finished is not None:
        source = f"recognised by the report of host {found.host} about volume {found.volume}"
        enter(writing, caller.now, made=None, source=source, who="nobody said so")


def standing(reading: Reading) -> Standing:
    """Return how far a restore is dealt with."""
    restore, rows = reading.restore(), reading.volumes()
    here, ahead, why = {row.volume.id for row in rows}, reading.ahead(), held(reading, rows)
    left = [
        Left(row.volume.addon, row.volume.name, row.volume.id, why[row.volume.id], _advice(row, ahead))
        for row in rows
        if row.volume.id in why
    ]
    left += [
        Left(row.addon, None, row.volume, row.why, "restore a newer backup; its disk is not formatted")
        for row in ahead.values()
        if row.volume not in here and row.accepted is None
    ]
    after = restore.place if restore is not None and restore.finished is None else None
    strangers = () if after is None else tuple(reading.strangers(after))
    return Standing(restore, tuple(left), strangers)


def _advice(row: VolumeRow, ahead: dict[VolumeId, AheadRow]) -> str:
    addon, name, keys = row.volume.addon, row.volume.name, row.volume.keyring
    known = ahead.get(row.volume.id)
    accepting = f"or accept it: keybroker restore --finish --accept {addon}/{name}"
    if known is None or known.accepted is not None:
        return f"start its VM, {accepting}"
    if keys is not None and known.named is not None and known.named > keys.newest:
        importing = f"keybroker recovery import {addon} {name} --identity FILE"
        return f"restore a newer backup, or bring the key back: {importing}"
    return f"restore a newer backup, {accepting}"


def accept(writing: Writing, addon: str, name: str, who: str, now: datetime) -> None:
    """Go on with what is known of a volume here.

    Raises:
        KeybrokerError: UNKNOWN.
    """
    row = volume_named(writing, addon, name)
    known = writing.ahead().get(row.volume.id)
    if known is None:
        why = "its host has not reported"
        known = AheadRow(row.volume.id, row.volume.addon, name, None, now, why)
    writing.put_ahead(replace(known, accepted=now, accepted_by=who))
    facts = {"who": who, "why": known.why, "named": known.named, "revision": known.revision}
    event = AuditEvent(now, "local", "", "local", "database.accept", "done", detail=facts)
    writing.append(replace(event, addon=row.volume.addon, volume=row.volume.id))


def finish(writing: Writing, who: str, now: datetime, *, strangers_too: bool) -> Standing:
    """End RECOVERY, unless something is left.

    Args:
        strangers_too: although identities were turned away that a newer database may know.

    Raises:
        KeybrokerError: CONFLICT, naming the first volume that is left.
    """
    found = standing(writing)
    if not found.is_open:
        return found
    if found.left:
        first = found.left[0]
        raise KeybrokerError(
            Problem.CONFLICT,
            f"{len(found.left)} volumes are left; {first.addon}/{first.name or first.volume}: {first.why}",
            hint=first.what,
        )
    if found.strangers and not strangers_too:
        raise KeybrokerError(
            Problem.CONFLICT,
            f"{len(found.strangers)} identities were turned away that a newer backup may know:"
            f" {', '.join(found.strangers[:3])}",
            hint="restore a newer backup, enrol them anew, or give --ignore-strangers",
        )
    assert found.restore is not None, "nothing is left, so it is the restore that is open"  # noqa: S101
    writing.put_restore(replace(found.restore, finished=now, finished_by=who))
    writing.append(
        AuditEvent(now, "local", "", "local", "database.restore.finish", "done", detail={"who": who})
    )
    return standing(writing)


def end_if_settled(broker: Broker) -> bool:
    """End RECOVERY by itself once every host has reported and nothing is odd; for the hourly sweep."""

    def work(writing: Writing) -> bool:
        found = standing(writing)
        if not found.is_open or found.left or found.strangers:
            return False
        finish(writing, "every host has reported", broker.clock(), strangers_too=False)
        return True

    if not broker.store.read(lambda reading: standing(reading).is_open):
        return False
    return broker.store.write(work)
