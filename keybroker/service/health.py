"""What the health listener asks."""

from __future__ import annotations

from keybroker.service.broker import Broker


def ready(broker: Broker) -> None:
    """Return if this broker could hand out a key now: the database answers and its writer lives.

    Raises:
        KeybrokerError: UNAVAILABLE, with what is wrong.
    """
    raise NotImplementedError
