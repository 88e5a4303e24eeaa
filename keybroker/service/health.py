"""What the health listener asks."""

from __future__ import annotations

from keybroker.service import unsealing
from keybroker.service.broker import Broker
from keybroker.wire.problems import KeybrokerError, Problem


def ready(broker: Broker) -> None:
    """Return if this broker could hand out a key now: the database answers, and takes its records.

    Raises:
        KeybrokerError: UNAVAILABLE, with what is wrong.
    """
    sealed = unsealing.sealed(broker)
    if sealed is not None:
        raise sealed
    if not broker.store.alive:
        raise KeybrokerError(Problem.UNAVAILABLE, "database: its writer has stopped")
    broker.store.read(lambda reading: reading.check_writer())
