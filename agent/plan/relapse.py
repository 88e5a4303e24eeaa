"""A broker that was set back to before a Switch, known by what it said itself before. Pure.

    holder ◀── never ── former        successor ◀── never ── holder

Who holds the data goes one way only. A broker whose database was restored from a backup of before may name
the disk that was left: it lacks what was written since, and a move that began anew would write it over the
disk that has everything; cancelled there, the disk that has everything is one that was given up before it had
any. One of before the order does not even know the disk that has the data, and names another one under its
name. What was said before is in the layout that the last run kept; so it is kept on.

A volume that was erased, and another one made under its name, looks the same until the broker is asked about
the first by its id: it speaks of what is erased to who names it, as absent where its disk was not looked at.
That asks for nothing and frees no name: only a broker that says itself that the volume is erased does.
"""

from __future__ import annotations

from collections.abc import Iterable

from keybroker.wire.names import VolumeName
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record

_AGES = {"successor": 0, "holder": 1, "former": 2}
_EMPTY = ("new", "claimed", "erased")
"""Stages at which a volume has no data of anybody's."""
_UNFINISHED = ("new", "claimed", "deposited")
"""Stages of a disk that is not moved to yet: a Switch asks for one that is ready."""


def names(known: Iterable[Record], said: Iterable[Record]) -> frozenset[VolumeName]:
    """Name the volumes of which the broker says now what it had left behind.

    Args:
        known: as it said them before.
        said: as it says them now.
    """
    known, said = tuple(known), tuple(said)
    before = {record.volume: record for record in known}
    backwards = {
        record.name
        for record in said
        if record.volume in before
        and (
            _AGES[record.role] < _AGES[before[record.volume].role]
            or _is_given_up(before[record.volume], record)
        )
    }
    return frozenset(backwards | {record.name for record in replaced(known, said)})


def _is_given_up(known: Record, said: Record) -> bool:
    """Say whether a disk that has the data is said to have been left before it had any; swap is no data."""
    has_data = known.role == "holder" and known.stage not in _UNFINISHED and not known.is_swap
    return has_data and said.role == "former" and said.stage in _UNFINISHED


def replaced(known: Iterable[Record], said: Iterable[Record]) -> tuple[Record, ...]:
    """Return the holders that the broker does not speak of, but of another volume under their name.

    Args:
        known, said: as for ``names``; what the broker says is erased may go.
    """
    said = tuple(said)
    here = {record.volume for record in said}
    taken = {record.name for record in said if record.role == "holder" and record.stage != "erased"}
    return tuple(
        record
        for record in known
        if record.role == "holder"
        and record.stage not in _EMPTY
        and not record.is_swap
        and record.volume not in here
        and record.name in taken
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
        hint="the broker's database was restored from an older backup: restore a newer one;"
        f" only where the newer disk is given up: keybroker-agent forget {name}",
    )
