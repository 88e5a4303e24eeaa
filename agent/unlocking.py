"""The verb ``unlock``: the real world put together, one run of the driver, and a line for each volume.

What cannot be had is no reason to stop before it is needed: without an identity or a broker, swap still goes
on, and what is open stays open.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent import layout, mountunits, supervisor, thisboot
from agent.config import Config
from agent.contact import Tell
from agent.driver import Boot, Driver, Report, VolumeOutcome
from agent.machine import machine
from agent.mounts import Mounts
from agent.places import Places
from agent.process import run
from agent.search import Search
from agent.world import Broker
from keybroker import __version__
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.records import Record

INCOMPLETE: Final = "incomplete"
"""In the runtime directory after a run that left a volume closed: what waited for it has failed by then."""

_GRACE_SECONDS: Final = 900
"""What may still be done after the deadline, with a disk that came late: making a filesystem, checking it."""


def unlock(config: Config, broker: Broker, *, deadline: float, mount: bool, begun: float, tell: Tell) -> int:
    """Open and mount this machine's volumes.

    Args:
        broker: as ``agent.contact`` gives it.
        deadline: of ``time.monotonic``, for disks and brokers that are not there.
        mount: check and mount without systemd's mount units.
        begun: when this process began, on ``time.monotonic``, for the times that are told.

    Returns:
        0, or the exit status of what went wrong (75 if trying again can help).
    """
    seconds = math.ceil(max(0.0, deadline - time.monotonic())) + _GRACE_SECONDS
    supervisor.notify(STATUS="Opening volumes", EXTEND_TIMEOUT_USEC=seconds * 1_000_000)
    known = layout.load(config.state_directory)
    if known.warning:
        tell(f"layout: {known.warning}", 4)
    by_systemd = config.mounts == "systemd" and not mount and supervisor.is_running()
    world = machine(
        broker,
        places=Places(config.devices, Search()),
        runtime=config.runtime_directory,
        deadline=deadline,
        clock=time.time,
        mounts=Mounts() if mount or config.mounts == "agent" else None,
    )
    keeper = _Keeper(config.state_directory, known.records, by_systemd, tell)
    report = Driver(world, boot(), keep=keeper.keep).unlock(known.records)
    status = judge(report)
    _finish_first(config, report, tell)
    _hand_over(report, config.runtime_directory, status, keeper.changed, by_systemd, tell)
    for line, priority in lines(report, time.monotonic() - begun):
        tell(line, priority)
    supervisor.notify(STATUS=summary(report))
    return status


def _finish_first(config: Config, report: Report, tell: Tell) -> None:
    """Bring to its end what a power cut interrupted, before the database starts, where the order says so."""
    opened = [outcome.record for outcome in report.outcomes if outcome.error is None]
    first = [
        record
        for record in opened
        if record.order is not None and record.order.is_reencrypting and record.order.at_boot == "before"
    ]
    if first:
        from agent.change import unfinished  # most boots have no use for it

        unfinished.finish(config, first, tell)


class _Keeper:
    """Keeps what the broker said for the next boot; a full or broken /var is no reason to stop this one."""

    def __init__(self, state: Path, known: tuple[Record, ...], by_systemd: bool, tell: Tell) -> None:
        self._state = state
        self._kept = known
        self._installed: tuple[Record, ...] | None = None
        self._by_systemd = by_systemd
        self._tell = tell
        self.changed = False

    def keep(self, records: tuple[Record, ...]) -> None:
        if not self._state.is_dir():
            return  # never enrolled: there is nothing to keep
        try:
            if records != self._kept:
                layout.save(self._state, records)
                self._kept = records
            if self._by_systemd and records != self._installed:
                self.changed |= mountunits.install(records)
                self._installed = records
        except OSError as error:
            self._tell(f"layout: not kept for the next boot: {error}", 4)


def boot() -> Boot:
    """Say which boot of which machine this is."""
    return Boot(thisboot.first_line(thisboot.BOOT_ID), thisboot.first_line(thisboot.MACHINE_ID), __version__)


def _hand_over(
    report: Report, runtime: Path, status: int, changed: bool, by_systemd: bool, tell: Tell
) -> None:
    """Have systemd mount what it could not know of, or has given up on."""
    incomplete = runtime / INCOMPLETE
    try:
        if by_systemd and (changed or incomplete.exists()):
            mountunits.start(
                [outcome.record for outcome in report.outcomes if outcome.error is None], changed=changed
            )
            run("systemctl", "start", "--no-block", "--", mountunits.TARGET)
        if status:
            incomplete.touch(mode=0o600)
        else:
            incomplete.unlink(missing_ok=True)
    except KeybrokerError as error:
        tell(f"systemd: {error.detail}", 3)
    except OSError as error:
        tell(f"{incomplete}: {error.strerror}", 4)


def judge(report: Report) -> int:
    """Return the exit status of a run: that of a problem that time may heal, if there is one."""
    errors = [outcome.error for outcome in report.outcomes if outcome.error is not None]
    if report.error is not None and (errors or not report.outcomes):
        errors.insert(0, report.error)
    return exit_status(errors)


def exit_status(errors: Sequence[KeybrokerError]) -> int:
    """Return that of a problem that time may heal, if there is one; that of the first otherwise, or 0."""
    if not errors:
        return 0
    return next((error for error in errors if error.problem.temporary), errors[0]).problem.exit_status


def lines(report: Report, seconds: float) -> list[tuple[str, int]]:
    """Return what is said of a run, with priorities; one line a volume, and hints.

    Args:
        seconds: since the process began.
    """
    said: list[tuple[str, int]] = []
    if report.error is not None:
        said += [(line, 3) for line in _error(report.error)]
    for outcome in report.outcomes:
        said += _of(outcome, report.error)
    said.append((f"{summary(report)} after {seconds * 1000:.0f} ms", 6))
    return said


def _of(outcome: VolumeOutcome, said_already: KeybrokerError | None) -> list[tuple[str, int]]:
    name = outcome.record.name
    if outcome.error is not None:
        if outcome.error is said_already:
            return [(f"{name}: closed", 3)]
        return [
            (f"{name}: closed: {outcome.error.problem.slug}", 3),
            *((line, 3) for line in _error(outcome.error)),
        ]
    steps = ", ".join(type(step).__name__ for step in outcome.steps)
    where = f" for {outcome.record.mount}" if outcome.record.mount else ""
    state = "swap is on" if outcome.record.is_swap else "open"
    already = " (already)" if outcome.result == "already" else f" ({steps})"
    return [(f"{name}: {state}{where}{already}", 6), *((f"{name}: {note}", 4) for note in outcome.notes)]


def _error(error: KeybrokerError) -> list[str]:
    return [error.detail, *([f"hint: {error.hint}"] if error.hint else [])]


def summary(report: Report) -> str:
    """Return a run in one line."""
    good = sum(outcome.error is None for outcome in report.outcomes)
    count = len(report.outcomes)
    if count == 0:
        return "No volumes" if report.error is None else report.error.detail
    return f"{good} of {count} volume{'' if count == 1 else 's'} open"
