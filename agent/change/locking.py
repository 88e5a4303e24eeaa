"""A machine that was turned away closes what it has open, for the broker told it so.

``settle`` sees the mounts of its own namespace only (PrivateMounts=), so systemd is asked first: it stops the
mount units with whatever requires them, and then the unlock service, whose own stop closes the volumes and
turns swap off. What is open after that, in a machine without systemd everything, is closed from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from agent import lock, mountunits, supervisor
from agent.config import Config
from agent.contact import Tell
from agent.process import run
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.records import Record

STOP_SECONDS: Final = 900.0
"""For databases to end, and for swap to be read back."""

Stop = Callable[[Sequence[str]], None]
Close = Callable[[Sequence[Record]], tuple[lock.Closed, ...]]


def close(config: Config, records: Sequence[Record], told: KeybrokerError, tell: Tell) -> int:
    """Close every volume of this machine.

    Args:
        records: the volumes as last heard of.
        told: what the broker said.

    Returns:
        The exit status of what it said, or of what held a volume.
    """
    by_systemd = config.mounts == "systemd" and supervisor.is_running()

    def close_here(records: Sequence[Record]) -> tuple[lock.Closed, ...]:
        return lock.lock(records, runtime=config.runtime_directory)

    return carry_out(records, told, tell, stop=_stop if by_systemd else None, close=close_here)


def carry_out(
    records: Sequence[Record], told: KeybrokerError, tell: Tell, *, stop: Stop | None, close: Close
) -> int:
    """Do it; arguments and returns as of ``close``, and

    Args:
        stop: stops units, in the order that they ask for; None where nobody does.
        close: closes what is open (``agent.lock.lock``).
    """
    tell(f"{told.detail}: closing all volumes", 3)
    if stop is not None:
        try:
            stop(mountunits.stopping(records))
        except KeybrokerError as error:  # what did not stop is in use; the others can be closed all the same
            tell(f"systemd: {error.detail}", 3)
    status = 0
    for volume in close(records):
        if volume.error is None:
            tell(f"{volume.name}: closed", 5)
            continue
        tell(f"{volume.name}: still open: {volume.error.detail}", 2)
        status = status or volume.error.problem.exit_status
    return status or told.problem.exit_status


def _stop(units: Sequence[str]) -> None:
    run("systemctl", "stop", "--", *units, timeout_seconds=STOP_SECONDS)
