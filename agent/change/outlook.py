"""The verb ``plan``: what is going on with each volume, why, and what the next step is; nothing is changed.

Of a volume of which nothing is wanted no key is asked for. Of any other the next step depends on which key
opens which keyslot, so the keys are asked for, tried on a copy of the header, and let go of.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agent import layout, unlocking
from agent.change import outfit, reporting
from agent.change.course import Course, activity
from agent.change.disks import undertakings
from agent.change.undertaking import Undertaking
from agent.change.workshop import Workshop
from agent.config import Config
from agent.contact import Tell
from agent.passage import Boot
from agent.plan import settling
from agent.plan.provision import PLAINTEXT
from agent.standing import table
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.records import Record
from keybroker.wire.reports import Activity
from keybroker.wire.values import dataclass

_HEAD = ("VOLUME", "STATE", "KEY", "WANTED", "ORDER", "NEXT STEP")


@dataclass(frozen=True, slots=True)
class Outlook:
    """One volume.

    Attributes:
        state: as in a report (``keybroker.wire.reports``).
        next: the step that ``settle`` would take now; None where there is none.
        error: why it would take none.
    """

    record: Record
    state: str
    next: Activity | None
    error: KeybrokerError | None

    def as_json(self) -> dict[str, Any]:
        """Return the form of ``plan --json``."""
        record, error = self.record, self.error
        return {
            "volume": record.volume,
            "name": record.name,
            "state": self.state,
            "stage": record.stage,
            "plaintext": record.stage == "plain",
            "role": record.role,
            "partner": record.partner,
            "current": record.current,
            "wanted": record.wanted,
            "staged": record.staged,
            "retiring": record.retiring,
            "order": record.order and record.order.as_json(),
            "next": self.next and self.next.as_json(),
            "trouble": error and {"problem": error.problem.slug, "detail": error.detail, "hint": error.hint},
        }


def report(config: Config, *, patience: float, as_json: bool, tell: Tell) -> str:
    """Return what ``plan`` prints.

    Args:
        patience: seconds that each call of the broker may take until one answers.

    Raises:
        KeybrokerError: where this machine has no identity, or the broker could not be asked.
    """
    broker = outfit.client(config, patience=patience, tell=tell)
    shop, boot = outfit.workshop(config, broker, tell), unlocking.boot()
    records = [grant.record for grant in broker.unlock(boot.request([])).grants]
    known = layout.load(config.state_directory).records
    outlooks = [outlook(shop, boot, record, config, records) for record in records]
    for gone in known:
        if gone.volume not in {record.volume for record in records}:
            tell(f"{gone.name}: the broker does not know this volume any more", 4)
    if as_json:
        return json.dumps({"volumes": [each.as_json() for each in outlooks]}, indent=2)
    return "\n".join(_lines(outlooks)) if outlooks else "no volumes are known"


def outlook(
    shop: Workshop, boot: Boot, record: Record, config: Config, records: Sequence[Record] = ()
) -> Outlook:
    """Say what is next for one volume.

    Args:
        records: of all volumes; a migration's other disk may be among them.
    """
    standing = reporting.look(shop.world, record, config.runtime_directory)
    if settling.is_at_rest(record, standing.seen.header):
        return Outlook(record, standing.report.state, None, None)
    course = Course(shop, boot, record)
    try:
        step = course.next_step() if settling.has_course(record) else None
        for group in undertakings(records) if step is None else ():
            turn = Undertaking(shop, boot, group).next_step() if record in group else None
            if turn is not None and turn.volume == record.volume:
                step = turn.step
    except KeybrokerError as error:
        return Outlook(course.record, standing.report.state, None, error)
    return Outlook(course.record, standing.report.state, None if step is None else activity(step), None)


def _lines(outlooks: list[Outlook]) -> list[str]:
    lines = table([_HEAD, *(_row(each) for each in outlooks)])
    for each in outlooks:
        name = each.record.name
        lines += [f"{name}: {PLAINTEXT}"] if each.record.stage == "plain" else []
        if each.next is not None:
            lines.append(f"{name}: {each.next.step}: {each.next.why}")
            lines += [f"{name}: then {each.next.then}"] if each.next.then else []
        if each.error is not None:
            lines.append(f"{name}: {each.error.problem.slug}: {each.error.detail}")
            lines += [f"{name}: hint: {each.error.hint}"] if each.error.hint else []
    return lines


def _row(each: Outlook) -> tuple[str, ...]:
    record = each.record
    next_step = each.next.step if each.next else "none: " + each.error.problem.slug if each.error else "none"
    return (
        record.name,
        each.state,
        str(record.current or "-"),
        str(record.wanted or "-"),
        record.order.kind if record.order else "-",
        next_step,
    )
