"""What a power cut interrupted, brought to its end at boot, before the database starts, if the order says so.

The volume is open by then and its data is whole; what fails here is told, and goes on beside the database
(``keybroker-agent settle``). There is no reason to keep a database from its data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agent import supervisor, unlocking
from agent.change import outfit, reporting
from agent.change.reporting import Reporter
from agent.change.settlement import carry_out
from agent.config import Config
from agent.contact import Tell
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record

PATIENCE_SECONDS: Final = 30.0
"""How long each call of the broker may take; the volumes' keys have just been fetched from it."""

ALIVE_SECONDS: Final = 300
"""How long systemd may hear nothing before it gives the unit up; something is said every second or so."""


def finish(config: Config, records: Sequence[Record], tell: Tell) -> None:
    """Bring the re-encryptions of these volumes to their end; every trouble is told and is no reason to stop.

    Args:
        records: of volumes that are open.
    """
    try:
        broker = outfit.client(config, patience=PATIENCE_SECONDS, tell=tell)
        shop, boot = outfit.workshop(config, broker, tell), unlocking.boot()
        runtime = config.runtime_directory
        reports = [reporting.look(shop.world, record, runtime).report for record in records]
        reporter = Reporter(
            lambda: outfit.client(config, patience=10.0, tell=lambda line, priority: None),
            boot, reports, every=reporting.EVERY_SECONDS,
        )  # fmt: skip
        with reporter:
            outcomes = carry_out(
                shop,
                boot,
                records,
                known=records,
                runtime=runtime,
                reporter=reporter,
                tell=tell,
                alive=_still_there,
            )
    except KeybrokerError as failed:
        _tell("re-encryption", failed, tell)
        return
    except OSError as failed:  # a full /run, or a disk that fails: not worth a boot either
        _tell("re-encryption", KeybrokerError(Problem.INTERNAL, str(failed)), tell)
        return
    for outcome in outcomes:
        if outcome.error is not None:
            _tell(outcome.record.name, outcome.error, tell)


def _tell(name: str, error: KeybrokerError, tell: Tell) -> None:
    tell(f"{name}: the re-encryption goes on later: {error.problem.slug}: {error.detail}", 4)


def _still_there() -> None:
    supervisor.notify(EXTEND_TIMEOUT_USEC=ALIVE_SECONDS * 1_000_000)
