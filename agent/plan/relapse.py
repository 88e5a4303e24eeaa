"""A broker that was set back to before a Switch, known by what it said itself before. Pure.

    holder ◀── never ── former        successor ◀── never ── holder

Who holds the data goes one way only. A broker whose database was restored from a backup of before may name
the disk that was left: it lacks what was written since, and a move that began anew would write it over the
disk that has everything. What was said before is in the layout that the last run kept; so it is kept on.
"""

from __future__ import annotations

from collections.abc import Iterable

from keybroker.wire.names import VolumeName
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record

_AGES = {"successor": 0, "holder": 1, "former": 2}


def names(known: Iterable[Record], said: Iterable[Record]) -> frozenset[VolumeName]:
    """Name the volumes of which the broker says now what it had left behind.

    Args:
        known: as it said them before.
        said: as it says them now.
    """
    before = {record.volume: record for record in known}
    return frozenset(
        record.name
        for record in said
        if record.volume in before and _AGES[record.role] < _AGES[before[record.volume].role]
    )


def kept(known: Iterable[Record], said: Iterable[Record]) -> tuple[Record, ...]:
    """Return what is to be remembered: what the broker says, but of those volumes what it said before."""
    known, said = tuple(known), tuple(said)
    fallen = names(known, said)
    return (
        *(record for record in said if record.name not in fallen),
        *(record for record in known if record.name in fallen),
    )


def error(name: str) -> KeybrokerError:
    """Return, to be raised, that nothing is done with such a volume."""
    return KeybrokerError(
        Problem.CONFLICT,
        f"{name}: had moved to another disk, and the broker does not know that any more; nothing was changed",
        hint="the broker's database was restored from an older backup: restore a newer one",
    )
