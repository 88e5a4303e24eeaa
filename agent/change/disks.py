"""All whole disks of one machine: which of them go together, and one undertaking for each such group.

every record of this host ──▶ undertakings: (holder, disk that was left), (holder, successor), (one alone)
  └─▶ undertake: one after the other, an outcome for each volume
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.change.course import CourseOutcome
from agent.change.course import Watch as Hear
from agent.change.undertaking import Keep, Undertaking, is_resized, keep_nothing
from agent.change.workshop import Workshop
from agent.passage import Boot
from agent.plan import erasure
from keybroker.wire.names import VolumeId
from keybroker.wire.records import Record


def undertakings(records: Iterable[Record]) -> Iterator[tuple[Record, ...]]:
    """Group a host's volumes: a holder with each other disk of its name, and those that are alone.

    Only those that something is to be done with; disks that were left come before one that is moved to.
    """
    all_of = [record for record in records if not record.is_swap and record.stage != "erased"]
    holders = {record.name: record for record in all_of if record.role == "holder"}
    for record in sorted(all_of, key=lambda record: record.role != "former"):
        if record.role != "holder":
            holder = holders.get(record.name)
            yield (holder, record) if holder is not None else (record,)
        elif erasure.is_wanted(record) or is_resized(record):
            yield (record,)  # a partner can only be a disk that it left: there is one order at a time


def undertake(
    workshop: Workshop, boot: Boot, records: Iterable[Record], *, watch: Hear, keep: Keep = keep_nothing
) -> dict[VolumeId, CourseOutcome]:
    """Take every volume's disks as far as they get, one after the other.

    Args:
        records: of this host, fresh from the broker.

    Returns:
        An outcome for each volume that something was to be done with, by the id of the one that is reported
        of; all steps are in it, and the last error.
    """
    outcomes: dict[VolumeId, CourseOutcome] = {}
    for group in undertakings(records):
        outcome = Undertaking(workshop, boot, group, watch=watch, keep=keep).settle()
        before = outcomes.get(outcome.record.volume)
        taken = (*before.steps, *outcome.steps) if before is not None else outcome.steps
        outcomes[outcome.record.volume] = CourseOutcome(outcome.record, taken, outcome.error)
    return outcomes
