"""The way to the broker, begun before anything else: during the handshake the rest of the agent is imported.

That order is why this is a module of its own. It imports what a connection needs and nothing more.
"""

from __future__ import annotations

from collections.abc import Callable

from agent import hygiene, identity, supervisor, thisboot
from agent.broker import BrokerClient, Clockwork
from agent.broker.connection import Credentials
from agent.config import Config
from agent.identity import Identity
from agent.parallel import Aside
from agent.receipts import Receipts
from agent.world import Broker
from keybroker.wire.messages import (
    ClaimRequest,
    DepositRequest,
    HeaderCopy,
    ReadyRequest,
    UnlockReply,
    UnlockRequest,
)
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.records import Grant, Record

Tell = Callable[[str, int], None]
"""Is given a line and its priority (syslog(3)): 3 error, 4 warning, 6 information."""


def begin(config: Config, deadline: float, tell: Tell) -> Broker:
    """Return the client, on its way to a connection already; or what says why there is none.

    Args:
        deadline: of ``time.monotonic``.
    """
    for failed in hygiene.harden():  # before a key is read
        tell(f"memory: {failed}", 4)

    def waiting(line: str) -> None:
        tell(line, 4)
        supervisor.notify(STATUS=f"Waiting: {line}")

    clockwork = Clockwork(tell=waiting)

    def client_of(mine: Identity) -> BrokerClient:
        return BrokerClient(
            config.brokers or mine.brokers,
            credentials(mine),
            deadline=deadline,
            clockwork=clockwork,
            receipts=Receipts(config.state_directory, tell),
            boot=thisboot.named(),
        )

    try:
        mine = identity.load(config.state_directory)
        if clockwork.wall() > mine.not_after:
            return _after_renewal(config, deadline, clockwork, client_of, tell)
        client = client_of(mine)
    except KeybrokerError as error:
        return NoBroker(error)
    Aside(lambda each: each.prepare(), client)  # the handshake, meanwhile
    return client


def _after_renewal(
    config: Config,
    deadline: float,
    clockwork: Clockwork,
    client_of: Callable[[Identity], BrokerClient],
    tell: Tell,
) -> Broker:
    """Return a client that renews the ended certificate first, and has begun to."""
    from agent.lapsed import Lapsed, renewed  # 100 ms of imports that no other boot needs

    lapsed = Lapsed(lambda: client_of(renewed(config, deadline=deadline, clockwork=clockwork, tell=tell)))
    Aside(lambda each: each.prepare(), lapsed)
    return lapsed


def credentials(mine: Identity) -> Credentials:
    """Return what a connection trusts and shows."""
    return Credentials(mine.ca, mine.key, mine.certificate, mine.not_before, mine.not_after)


class NoBroker:
    """A ``Broker`` that cannot be asked, each call saying why."""

    def __init__(self, error: KeybrokerError) -> None:
        self._error = error

    def unlock(self, request: UnlockRequest) -> UnlockReply:
        raise self._error

    def claim(self, volume: VolumeId, request: ClaimRequest) -> Grant:
        raise self._error

    def deposit(self, volume: VolumeId, request: DepositRequest) -> Record:
        raise self._error

    def header_copy(self, volume: VolumeId) -> HeaderCopy:
        raise self._error

    def ready(self, volume: VolumeId, request: ReadyRequest) -> Record:
        raise self._error
