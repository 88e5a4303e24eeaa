"""The same refusal again and again: on record at once, and then once an hour, with how many times it was.

A host that waits for something asks until it gets it, and each answer would be a record: a few thousand hosts
write the trail full at the rate of their polling. So what would be the same record again, but for its time,
is counted instead. Another boot, address, certificate, volume or reason is another record, and on it at once.

    refused                                   the first one, at once
    refused, times=359, since=…               an hour later, or at the next refusal after that

A record with ``times`` stands for so many requests, the first of them at ``since``; one without for itself.
Only refusals of hosts are counted, of what a good one asks for again and again. What was released or done is
on record each time, and so is whatever else somebody is refused. Counts are in this process's memory: a
graceful stop writes them down, a crash loses those of an hour at most, but never that it was refused.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Self

from keybroker.audit import AuditEvent, rfc3339
from keybroker.terms import EVEN_DISABLED, HANDS_OUT

AGAIN: Final = timedelta(hours=1)
"""After which the same refusal is put on record again."""

MOST: Final = 16384
"""Refusals that are remembered; of any more each is on record."""

POLLED: Final[frozenset[str]] = HANDS_OUT | EVEN_DISABLED | {"renew.late"}
"""Verbs that a good host repeats."""

_Key = tuple[str | None, ...]


@dataclass(slots=True)
class _Seen:
    """One refusal.

    Attributes:
        event: as it came last.
        last: when it was put on record last; None while that has not succeeded.
        count: how often it has come since, without a record.
        since: the first of those times.
    """

    event: AuditEvent
    last: datetime | None = None
    count: int = 0
    since: datetime | None = None

    def is_over(self, now: datetime) -> bool:
        # a clock that was set back makes another record, and not none for as long as it was ahead
        return self.last is None or not timedelta(0) <= now - self.last < AGAIN


class Repeats:
    """What hosts were refused lately; safe for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[_Key, _Seen] = {}

    def recording(self) -> Recording:
        """Return what picks the records of one transaction; to be entered before it, and left after it."""
        return Recording(self._lock, self._seen)


class Recording:
    """Picks records. Left by an exception, it takes for granted that none of them is durable."""

    def __init__(self, lock: threading.Lock, seen: dict[_Key, _Seen]) -> None:
        self._lock = lock
        self._seen = seen
        self._told: list[tuple[_Key, _Seen]] = []
        self._counted: list[_Key] = []

    def pick(self, events: Iterable[AuditEvent]) -> tuple[AuditEvent, ...]:
        """Return those to put on record, and count the others; called again, it begins anew."""
        with self._lock:
            self._take_back()
            return tuple(picked for event in events if (picked := self._judge(event)) is not None)

    def pick_counted(self, now: datetime, *, at_once: bool = False) -> tuple[AuditEvent, ...]:
        """Return the records of what was counted for an hour, and forget what does not come any more.

        Args:
            at_once: whatever was counted, because this process ends.
        """
        with self._lock:
            self._take_back()
            over = [(key, seen) for key, seen in self._seen.items() if at_once or seen.is_over(now)]
            for key, seen in over:
                if not seen.count:
                    del self._seen[key]
            return tuple(self._tell(key, seen, now, seen.count) for key, seen in over if seen.count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_raised: object) -> None:
        if kind is not None:
            with self._lock:
                self._take_back()

    def _judge(self, event: AuditEvent) -> AuditEvent | None:
        is_refusal = event.outcome in ("refused", "denied")
        if not is_refusal or event.host is None or event.verb not in POLLED:
            return event
        key = _key(event)
        seen = self._seen.get(key)
        if seen is None:
            if len(self._seen) >= MOST:
                return event
            seen = self._seen[key] = _Seen(event)
        seen.event = event
        if seen.is_over(event.at):
            return self._tell(key, seen, event.at, seen.count + 1)
        self._counted.append(key)
        seen.count, seen.since = seen.count + 1, seen.since or event.at
        return None

    def _tell(self, key: _Key, seen: _Seen, now: datetime, times: int) -> AuditEvent:
        """Take for granted that it is put on record: whoever comes meanwhile is counted."""
        self._told.append((key, replace(seen)))
        event, since = replace(seen.event, at=now), seen.since
        if since is not None:
            event = replace(event, detail={**event.detail, "times": times, "since": rfc3339(since)})
        seen.last, seen.count, seen.since = now, 0, None
        return event

    def _take_back(self) -> None:
        for key, before in self._told:
            seen = self._seen.setdefault(key, _Seen(before.event))
            seen.last, seen.count = before.last, before.count + seen.count
            seen.since = before.since or seen.since
        for key in self._counted:
            counted = self._seen.get(key)
            if counted is not None and counted.count:  # else it was written down meanwhile
                counted.count -= 1
                counted.since = counted.since if counted.count else None
        for key in {*self._counted, *(key for key, _before in self._told)}:
            left = self._seen.get(key)
            if left is not None and left.last is None and not left.count:
                del self._seen[key]
        self._told.clear()
        self._counted.clear()


def _key(event: AuditEvent) -> _Key:
    """Return all that a record says but its time."""
    said = (event.actor, event.fingerprint, event.address, event.verb, event.outcome)
    about = (event.addon, event.volume, event.host)
    return (*said, *about, json.dumps(event.detail, sort_keys=True))
