"""The verb ``settle``: report, do what is wanted of each volume, report; a line for each that was changed.

    every volume as it stands ──▶ POST /v1/report ──▶ what is wanted
      └─▶ each volume of which something is: a course on a thread of its own, its progress reported
    every volume as it stands ──▶ POST /v1/report

A volume that is refused does not stop the others. Where nothing is wanted no key is asked for, and the broker
says when it wants to be asked again; ``--if-due`` keeps to that.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from agent import layout, supervisor, trust, unlocking
from agent.change import locking, outfit, reporting
from agent.change.course import Course, CourseOutcome
from agent.change.disks import undertake
from agent.change.reporting import Reporter, Standing
from agent.change.undertaking import Keep, keep_nothing
from agent.change.workshop import Workshop
from agent.config import Config
from agent.contact import Tell
from agent.parallel import at_once
from agent.passage import Boot
from agent.plan import relapse, settling
from agent.turn import alone
from keybroker.wire.names import VolumeId, VolumeName
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.reports import Activity, ReportReply
from keybroker.wire.values import replace

AGAIN: Final = "report-again"
"""In the runtime directory: the time of ``time.monotonic`` at which the broker wants the next report."""

INTERIM_SECONDS: Final = 10.0
"""How long an interim report may try to get through."""


def settle(config: Config, *, patience: float, if_due: bool, tell: Tell) -> int:
    """Bring every volume of this machine to where the broker wants it.

    Args:
        patience: seconds that each call of the broker may take until one answers.
        if_due: do nothing before the broker wants to hear of this machine again.

    Returns:
        0, or the exit status of what went wrong (75 if trying again can help).

    Raises:
        KeybrokerError: where this machine has no identity, or the broker could not be told or asked.
    """
    if if_due and not is_due(config.runtime_directory):
        return 0
    try:
        return _settle(config, patience, tell, spread=if_due)
    except KeybrokerError as error:
        if error.problem is Problem.CERTIFICATE:
            said = "what is open stays open, and nothing is heard from the broker: no order, and no lock"
            tell(f"report: not made: {said}", 4)
        if error.problem is not Problem.LOCK:
            raise
        return locking.close(config, layout.load(config.state_directory).records, error, tell)


def _settle(config: Config, patience: float, tell: Tell, *, spread: bool) -> int:
    broker = outfit.client(config, patience=patience, tell=tell)
    shop, boot = outfit.workshop(config, broker, tell), unlocking.boot()
    runtime = config.runtime_directory
    known = layout.load(config.state_directory).records
    standings = [reporting.look(shop.world, record, runtime) for record in known]
    reply = reporting.send(broker, boot, [standing.report for standing in standings])
    kept = {record.volume: record for record in relapse.kept(known, reply.records)}
    outfit.keep(config, tuple(kept.values()), tell)
    one = threading.Lock()

    def keep(records: tuple[Record, ...]) -> None:
        with one:
            kept.update({record.volume: record for record in records})
            outfit.keep(config, tuple(kept.values()), tell)

    fallen = relapse.names(known, reply.records)
    seen = {standing.report.volume: standing for standing in standings}
    wanting = [
        record
        for record in reply.records
        if record.name not in fallen and _is_wanting(shop, record, seen, runtime)
    ]
    reporter = Reporter(
        lambda: outfit.client(config, patience=INTERIM_SECONDS, tell=lambda line, priority: None),
        boot, [standing.report for standing in standings], every=reporting.EVERY_SECONDS,
    )  # fmt: skip
    with reporter:
        outcomes = carry_out(
            shop, boot, wanting, reply.records, runtime=runtime, reporter=reporter, tell=tell, keep=keep
        )
    outcomes += [
        CourseOutcome(record, (), relapse.error(record.name))
        for record in reply.records
        if record.name in fallen and record.role == "holder"
    ]
    for outcome in outcomes:
        _tell(outcome, tell)
    if any(outcome.steps or outcome.error for outcome in outcomes):
        reply = _report_again(shop, boot, reply, outcomes, runtime)
        outfit.keep(config, relapse.kept(known, reply.records), tell)
    trust.follow(config, reply.trust, tell=tell, spread=spread)
    _note(runtime, reply.again_seconds)
    return unlocking.exit_status([outcome.error for outcome in outcomes if outcome.error is not None])


def is_due(runtime: Path) -> bool:
    """Say whether the broker wants to hear of this machine now; of a time that nobody noted, too."""
    try:
        return time.monotonic() >= float((runtime / AGAIN).read_text())
    except (OSError, ValueError):
        return True


def _note(runtime: Path, seconds: int) -> None:
    with contextlib.suppress(OSError):  # then the next run comes sooner than it needs to
        (runtime / AGAIN).write_text(f"{time.monotonic() + seconds:.0f}\n")


def _is_wanting(shop: Workshop, record: Record, seen: dict[VolumeId, Standing], runtime: Path) -> bool:
    """Say whether a course has anything to look for; a successor goes along with its holder's."""
    if record.role == "successor":
        return False
    standing = seen.get(record.volume) or reporting.look(shop.world, record, runtime)
    return not settling.is_at_rest(record, standing.seen.header)


def _nothing() -> None:
    return


def carry_out(
    shop: Workshop,
    boot: Boot,
    records: Sequence[Record],
    known: Sequence[Record],
    *,
    runtime: Path,
    reporter: Reporter,
    tell: Tell,
    alive: Callable[[], None] = _nothing,
    keep: Keep = keep_nothing,
) -> list[CourseOutcome]:
    """Take each volume on its course, all of them at the same time, but those of one name one by one.

    Args:
        records: of which something is wanted.
        known: all of this machine's, as the broker said them just now.
        runtime: of the agent; there it is noted which agent is at a volume.
        reporter: hears what is going on.
        keep: remembers who holds the data, for the next boot, before a move's last write to both disks.
        alive: is called whenever something is said, every second or so as long work goes on.
    """
    outcomes: dict[VolumeId, CourseOutcome] = {}

    def watch(record: Record, activity: Activity | None) -> None:
        reporter.watch(record, activity)
        alive()
        if activity is not None:
            supervisor.notify(STATUS=f"{record.name}: {activity.step}: {activity.why}")
            if activity.progress is None:
                tell(f"{record.name}: {activity.step}: {activity.why}", 6)

    def take(name: VolumeName) -> None:
        mine = {record.volume: record for record in known if record.name == name}
        for record in [record for record in records if record.name == name and settling.has_course(record)]:
            try:
                with alone(runtime, record.volume):
                    outcome = Course(shop, boot, record, watch=watch).settle()
            except KeybrokerError as error:
                outcome = CourseOutcome(record, (), error)
            outcomes[record.volume], mine[record.volume] = outcome, outcome.record
        if any(outcomes[volume].error for volume in outcomes.keys() & mine.keys()):
            return  # a volume whose key or header is in trouble is not moved
        for volume, outcome in undertake(shop, boot, mine.values(), watch=watch, keep=keep).items():
            taken = (*outcomes[volume].steps, *outcome.steps) if volume in outcomes else outcome.steps
            outcomes[volume] = CourseOutcome(outcome.record, taken, outcome.error)

    at_once(take, {record.name for record in records})
    return list(outcomes.values())


def _report_again(
    shop: Workshop, boot: Boot, reply: ReportReply, outcomes: Sequence[CourseOutcome], runtime: Path
) -> ReportReply:
    errors = {outcome.record.volume: outcome.error for outcome in outcomes}
    newest = {outcome.record.volume: outcome.record for outcome in outcomes}
    reports = []
    for record in reply.records:
        error = errors.get(record.volume)
        if error is not None and error.problem is Problem.BUSY:
            continue  # the agent that is at it reports of it
        report = reporting.look(shop.world, newest.get(record.volume, record), runtime).report
        reports.append(replace(report, trouble=reporting.trouble(error)))
    return reporting.send(shop.broker, boot, reports)


def _tell(outcome: CourseOutcome, tell: Tell) -> None:
    name = outcome.record.name
    if outcome.error is None:
        if outcome.steps:
            tell(f"{name}: is where it is wanted: key version {outcome.record.current}", 6)
        return
    tell(f"{name}: {outcome.error.problem.slug}: {outcome.error.detail}", 3)
    if outcome.error.hint:
        tell(f"hint: {outcome.error.hint}", 3)
