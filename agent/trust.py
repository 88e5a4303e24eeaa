"""Keeping up with the broker's CA: a machine that trusts others than it gets now renews at once.

A new CA issues while the one before is still trusted, so nothing breaks meanwhile; the reply to a report says
which certificates are trusted. They come with the next certificate, over a connection that the ones from
before have verified, and take their place together with it, at one instant (``agent.identity``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from agent import contact, identity, thisboot
from agent.broker import REAL, BrokerClient, Clockwork
from agent.config import Config
from agent.contact import Tell
from agent.identity import Identity
from keybroker.wire.problems import KeybrokerError

ONE_IN: Final = 10
"""Of the runs that see another CA, so many do something about it: a fleet hears of it within one minute."""

_SECONDS: Final = 20.0


def follow(
    config: Config,
    told: str | None,
    *,
    tell: Tell,
    spread: bool,
    chance: Callable[[], float] = REAL.chance,
) -> bool:
    """Renew the certificate if the broker trusts other CAs than this machine; what fails is only told.

    Args:
        told: ``ReportReply.trust``.
        spread: leave it to a later run, more often than not.

    Returns:
        Whether it was renewed.
    """
    if told is None:
        return False
    try:
        if told == digest(identity.load(config.state_directory)) or (spread and chance() * ONE_IN >= 1):
            return False
        from agent import enrolment  # and cryptography with it: seldom

        def client(mine: Identity) -> BrokerClient:
            return BrokerClient(
                config.brokers or mine.brokers,
                contact.credentials(mine),
                deadline=time.monotonic() + _SECONDS,
                clockwork=Clockwork(tell=lambda line: tell(line, 4)),
                boot=thisboot.named(),
            )

        enrolment.renew(config.state_directory, client, now=time.time(), force=True)
    except (KeybrokerError, OSError) as error:
        tell(f"certificate: the broker's CA has changed, and it cannot be renewed yet: {error}", 4)
        return False
    tell("certificate: renewed, for the broker's CA has changed", 6)
    return True


def digest(mine: Identity) -> str:
    """Return the SHA-256 of the CA certificates that a machine trusts, hex."""
    return sha256(mine.ca.encode()).hexdigest()
