"""A machine that was told to close its volumes has systemd stop what uses them, and closes what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from agent import mountunits
from agent.change import locking
from agent.lock import Closed
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from tests.crash.volumes import record

DATA = record("data", mount="/srv/data")
TOLD = KeybrokerError(Problem.LOCK, "broker: is revoked")


@dataclass
class Site:
    """What stops and closes, and what was done, in order."""

    error: KeybrokerError | None = None
    held: KeybrokerError | None = None
    done: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def stop(self, units: Sequence[str]) -> None:
        self.done.append(f"stop {' '.join(units)}")
        if self.error is not None:
            raise self.error

    def close(self, records: Sequence[Record]) -> tuple[Closed, ...]:
        self.done.append("close")
        result = "closed" if self.held is None else "held"
        return tuple(Closed(record.volume, record.name, result, self.held) for record in records)  # type: ignore[arg-type]

    def run(self, *records: Record, by_systemd: bool = True) -> int:
        return locking.carry_out(
            records,
            TOLD,
            lambda line, priority: self.said.append(line),
            stop=self.stop if by_systemd else None,
            close=self.close,
        )


def test_mounts_are_stopped_with_the_service_that_closes_and_what_is_left_is_closed() -> None:
    site = Site()
    assert site.run(DATA) == TOLD.problem.exit_status
    mount = mountunits.unit_name("/srv/data", "mount")
    assert site.done == [f"stop {mount} {mountunits.TARGET} {mountunits.UNLOCK}", "close"]


def test_what_systemd_cannot_stop_does_not_keep_the_others_open() -> None:
    site = Site(error=KeybrokerError(Problem.TOOL_FAILED, "systemctl: failed"))
    assert site.run(DATA) == TOLD.problem.exit_status
    assert site.done[-1] == "close"
    assert "systemd: systemctl: failed" in site.said


def test_a_volume_that_is_held_is_said_to_be_open_still() -> None:
    site = Site(held=KeybrokerError(Problem.WRONG_DEVICE, "/srv/data: is in use by postgres (7)"))
    assert site.run(DATA) == Problem.WRONG_DEVICE.exit_status
    assert any("still open: /srv/data: is in use" in line for line in site.said)


def test_without_systemd_everything_is_closed_from_here() -> None:
    site = Site()
    site.run(DATA, by_systemd=False)
    assert site.done == ["close"]
