"""The scheduled destruction of a volume or an add-on, from the wish to when it may be carried out: pure.

| transition | who | what becomes of the deletion |
|---|---|---|
| schedule | operator | due after the wait that the policy asks for, or a longer one |
| schedule, sooner than that | operator | due as before; the sooner time waits for a second person |
| approve | another person | the sooner time is the one that counts |
| remind | the broker | on record that it is near: 7, 3 and 1 days before |
| (call off) | operator, approver | there is none any more |

Nothing is destroyed before its last reminder has stood for a day, unless two people asked for less. So a
clock that is years ahead, or a broker that was down all the while, destroys nothing on its own: what it
makes due is only reminded of, and can be called off for one more day. Neither a reminder nor an approval
counts that is from before the database was set back, or from the future.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from keybroker.audit import rfc3339
from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem

REMINDERS: Final = (7, 3, 1)
"""So many days before it is due, each reminder is recorded."""

LAST_CALL: Final = timedelta(days=min(REMINDERS))
"""For so long the last reminder stands before anything is destroyed."""


_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


@dataclass(frozen=True, slots=True)
class Deletion:
    """A destruction that is pending.

    Attributes:
        by: operator who asked for it.
        at: when.
        due: when it may be carried out.
        reason: for the record.
        told: when the last reminder was recorded; None before the first.
        sooner: an earlier time that was asked for, and that nobody else has approved yet.
        sooner_by: operator who asked for that.
        approved: when a sooner time was approved last; None where none was.
        approved_by: operator who approved it.
    """

    by: str
    at: datetime
    due: datetime
    reason: str
    told: datetime | None = None
    sooner: datetime | None = None
    sooner_by: str | None = None
    approved: datetime | None = None
    approved_by: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the wire form, which is the stored one too; times are RFC 3339 in UTC."""
        return {
            "by": self.by,
            "at": rfc3339(self.at),
            "due": rfc3339(self.due),
            "reason": self.reason,
            "told": self.told and rfc3339(self.told),
            "sooner": self.sooner and rfc3339(self.sooner),
            "sooner_by": self.sooner_by,
            "approved": self.approved and rfc3339(self.approved),
            "approved_by": self.approved_by,
        }

    @classmethod
    def read(cls, fields: Fields) -> Deletion:
        """Read the stored form (MALFORMED otherwise)."""

        def time(key: str) -> datetime:
            return read_time(fields, key)

        return cls(
            by=fields.text("by"),
            at=time("at"),
            due=time("due"),
            reason=fields.text("reason", most=500),
            told=fields.optional("told", time),
            sooner=fields.optional("sooner", time),
            sooner_by=fields.optional("sooner_by", fields.text),
            approved=fields.optional("approved", time),
            approved_by=fields.optional("approved_by", fields.text),
        )


def read_time(fields: Fields, key: str) -> datetime:
    """Read a time as ``audit.rfc3339`` writes it (MALFORMED otherwise)."""
    text = fields.text(key, match=_TIME)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise fields.wrong(key, "must be a time like 2026-01-31T12:00:00.000000Z") from None


def schedule(
    pending: Deletion | None,
    *,
    by: str,
    now: datetime,
    wait: timedelta | None,
    policy: timedelta,
    reason: str,
) -> Deletion:
    """Ask for a destruction after ``wait``.

    Args:
        pending: the one that is asked for already; None where none is.
        wait: None for as long as the policy says; a shorter one takes a second person.
        policy: the shortest wait that one person can have.

    Returns:
        The very deletion that is pending where nothing sooner than that is asked for.

    Raises:
        KeybrokerError: CONFLICT for a longer wait than that of the pending one.
    """
    wanted = now + (policy if wait is None else wait)
    if pending is None:
        made = Deletion(by, now, max(wanted, now + policy), reason)
        return made if wanted >= made.due else replace(made, sooner=wanted, sooner_by=by)
    if wait is None or wait == pending.due - pending.at:
        return pending
    if wanted >= pending.due:
        if wait < policy:
            return pending
        raise KeybrokerError(
            Problem.CONFLICT,
            f"deletion: is pending, and due {rfc3339(pending.due)}",
            hint="undelete it first",
        )
    if pending.sooner is not None and pending.sooner <= wanted:
        return pending
    return replace(pending, sooner=wanted, sooner_by=by)


def approve(pending: Deletion, *, by: str, due: datetime, now: datetime) -> Deletion:
    """Let the sooner time count that somebody else has asked for.

    Args:
        due: the very time that is approved.

    Returns:
        The very deletion where that was approved already.

    Raises:
        KeybrokerError: CONFLICT where that time was not asked for; NOT_ALLOWED for the one who asked.
    """
    if pending.sooner is None or pending.sooner != due:
        if pending.due == due and pending.approved is not None:
            return pending
        asked = "none" if pending.sooner is None else rfc3339(pending.sooner)
        raise KeybrokerError(Problem.CONFLICT, f"deletion: the sooner time that is asked for is {asked}")
    if by == pending.sooner_by:
        raise KeybrokerError(
            Problem.NOT_ALLOWED,
            f"deletion: {by} asked for the sooner time; it takes another person to approve it",
            hint="somebody else with the role approver",
        )
    return replace(pending, due=pending.sooner, sooner=None, approved=now, approved_by=by)


def reminder(pending: Deletion, now: datetime, since: datetime | None) -> int | None:
    """Return which reminder is to be recorded now, in days before; None where none is.

    Args:
        since: when the database was last set back; what was recorded before that does not count.
    """
    told = _counts(pending.told, now, since)
    for days in sorted(REMINDERS):
        moment = pending.due - timedelta(days=days)
        if now >= moment and (moment >= pending.at or days == min(REMINDERS)):
            return days if told is None or told < moment else None
    return None


def remind(pending: Deletion, now: datetime) -> Deletion:
    """Take note that a reminder was recorded."""
    return replace(pending, told=now)


def ripe(pending: Deletion, now: datetime, since: datetime | None) -> bool:
    """Say whether the destruction may be carried out now.

    Args:
        since: as for ``reminder``.
    """
    if now < pending.due:
        return False
    approved = _counts(pending.approved, now, since)
    if approved is not None and pending.due < approved + LAST_CALL:
        return True
    told = _counts(pending.told, now, since)
    return told is not None and told >= pending.due - LAST_CALL and now >= told + LAST_CALL


def waited(ended: Deletion, other: Deletion | None, now: datetime) -> timedelta:
    """Return for how long a deletion that is called off has kept hosts from asking for a key.

    Args:
        other: of the add-on, where the volume's is called off, or the other way round; None where none is
            pending. The time since it was asked for is left out: it counts when that is called off.
    """
    until = now if other is None else min(other.at, now)
    return max(until - ended.at, timedelta(0))


def _counts(moment: datetime | None, now: datetime, since: datetime | None) -> datetime | None:
    if moment is None or moment > now or (since is not None and moment <= since):
        return None
    return moment
