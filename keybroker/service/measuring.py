"""What operators' monitoring is told of the whole installation: numbers and times, of nobody by name."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from keybroker.model import Deletion
from keybroker.policy import Peer
from keybroker.service.admission import consult
from keybroker.service.broker import Broker
from keybroker.service.rewrap import Left, left
from keybroker.service.trail import Standing, standing_in
from keybroker.store import Reading
from keybroker.store.counted import Ages, Ends

PROOF_BOUNDS: Final = tuple(timedelta(days=days) for days in (0.25, 1, 2, 3, 7, 14, 30))
KEY_BOUNDS: Final = tuple(timedelta(days=days) for days in (7, 30, 90, 180, 365, 730))


@dataclass(frozen=True, slots=True)
class Pending:
    """What is to be destroyed.

    Attributes:
        count: how many.
        sooner: of them, those of which a sooner time waits for a second person.
        first: when the first is due; None where there is none.
    """

    count: int
    sooner: int
    first: datetime | None


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that is counted in the database, as of one moment.

    Attributes:
        at, seconds: when that was, and how long the counting took.
        stages: how many volumes there are in each stage.
        proofs, keys: by ``PROOF_BOUNDS`` and ``KEY_BOUNDS``.
        to_destroy, first_destroyed: retired keys that wait, and when the first is due.
        volumes_pending, addons_pending: what is to be destroyed as a whole.
        hosts: enrolled, invited, revoked.
        ca, server: when their certificates end; None where nothing is served.
        rewrap: what is still to be rewrapped.
        wrapped: keys that master keys wrap.
        recovering: whether the database was set back, and that is not dealt with.
        ahead: volumes whose hosts know more of them, and which nobody has accepted.
    """

    at: datetime
    seconds: float
    stages: dict[str, int]
    proofs: Ages
    keys: Ages
    to_destroy: int
    first_destroyed: datetime | None
    volumes_pending: Pending
    addons_pending: Pending
    hosts: tuple[int, int, int]
    hosts_end: Ends
    operators_end: Ends
    ca: datetime
    server: datetime | None
    rewrap: Left
    wrapped: int
    trail: Standing
    recovering: bool
    ahead: int


def figures(broker: Broker, peer: Peer) -> Figures:
    """Return what is counted, to whoever has the role ``metrics``.

    Raises:
        KeybrokerError: what ``policy.may`` says of the peer; UNAVAILABLE, CORRUPT.
    """
    consult(broker, peer, "metrics.read", lambda _reading: None)
    return local_figures(broker)


def local_figures(broker: Broker) -> Figures:
    """Return what is counted, to whoever sits at the broker's own machine; there is no peer.

    Some seconds old at most, or twenty times as old as the counting takes: nobody's asking makes more work.
    """
    kept: Figures = broker.lately.get(lambda: count(broker))
    return kept


def count(broker: Broker) -> Figures:
    """Count everything in one reading transaction, which holds up no writer."""
    now, began = broker.clock(), time.monotonic()

    def look(reading: Reading) -> Figures:
        to_destroy, first = reading.keys_to_destroy()
        restore = reading.restore()
        ahead = sum(row.accepted is None for row in reading.ahead().values())
        return Figures(
            at=now,
            stages=reading.count_stages(),
            proofs=reading.proof_ages(now, PROOF_BOUNDS),
            keys=reading.key_ages(now, KEY_BOUNDS),
            to_destroy=to_destroy,
            first_destroyed=first,
            volumes_pending=_pending(reading.pending_volumes()),
            addons_pending=_pending(reading.pending_addons()),
            hosts=reading.count_hosts(),
            hosts_end=reading.hosts_ends(now),
            operators_end=reading.operators_ends(now),
            ca=broker.authority.certificate.not_valid_after_utc,
            server=broker.progress.served_until,
            rewrap=left(reading, all_records=False),
            wrapped=sum(reading.wrapped_by_masters().values()),
            trail=standing_in(broker, reading),
            recovering=ahead > 0 or (restore is not None and restore.finished is None),
            ahead=ahead,
            seconds=time.monotonic() - began,
        )

    return broker.store.read(look)


def _pending(deletions: list[Deletion]) -> Pending:
    sooner = sum(each.sooner is not None for each in deletions)
    return Pending(len(deletions), sooner, min((each.due for each in deletions), default=None))
