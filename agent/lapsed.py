"""The way to the broker of a machine whose certificate has ended while it was off.

Imported only then: it brings cryptography with it, which no other boot pays for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from agent import enrolment, thisboot
from agent.broker import BrokerClient, Clockwork
from agent.broker.connection import Credentials
from agent.config import Config
from agent.contact import Tell
from agent.identity import Identity
from keybroker.wire.messages import (
    ClaimRequest,
    DepositRequest,
    HeaderCopy,
    ReadyRequest,
    UnlockReply,
    UnlockRequest,
)
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Grant, Record


def renew(config: Config, *, deadline: float, clockwork: Clockwork) -> enrolment.Renewed:
    """Get a new certificate in place of the one that has ended.

    Args:
        deadline: on ``clockwork.monotonic``, in seconds.

    Raises:
        KeybrokerError: as ``enrolment.renew_late``; CERTIFICATE where nobody knows whom to ask.
    """

    def client(mine: Identity) -> BrokerClient:
        urls = config.enrolment or mine.enrolment()
        if not urls:
            raise KeybrokerError(
                Problem.CERTIFICATE,
                f"certificate: ended on {enrolment.until(mine)}, and no enrolment listener is known",
                hint='enrolment = ["https://broker.example:8444"] in agent.toml; or enrol this machine again',
            )
        return BrokerClient(
            urls, Credentials(mine.ca), deadline=deadline, clockwork=clockwork, boot=thisboot.named()
        )

    return enrolment.renew_late(config.state_directory, client, now=clockwork.wall)


def renewed(config: Config, *, deadline: float, clockwork: Clockwork, tell: Tell) -> Identity:
    """Return who this machine is by its new certificate, be it stored or not, and tell of it.

    Raises:
        KeybrokerError: as ``renew``.
    """
    tell("certificate: has ended; asking the enrolment listener for the next one", 4)
    done = renew(config, deadline=deadline, clockwork=clockwork)
    if done.unsaved is None:
        tell("certificate: renewed", 6)
    else:
        tell(f"certificate: renewed, but only for this run: {done.unsaved}", 4)
        tell(f"hint: make room in {config.state_directory}", 4)
    return done.identity


class Lapsed:
    """A ``Broker`` that gets its certificate first; a call waits for it, and a refusal is every call's.

    Args:
        begin: gets the certificate and makes the client that shows it.
    """

    def __init__(self, begin: Callable[[], BrokerClient]) -> None:
        self._begin = begin
        self._turn = threading.Lock()
        self._found: BrokerClient | KeybrokerError | None = None

    def prepare(self) -> None:
        """Renew while there is something else to do; a call meets what fails."""
        with suppress(KeybrokerError):  # kept, and raised by whoever asks
            self._client()

    def unlock(self, request: UnlockRequest) -> UnlockReply:
        return self._client().unlock(request)

    def claim(self, volume: VolumeId, request: ClaimRequest) -> Grant:
        return self._client().claim(volume, request)

    def deposit(self, volume: VolumeId, request: DepositRequest) -> Record:
        return self._client().deposit(volume, request)

    def header_copy(self, volume: VolumeId) -> HeaderCopy:
        return self._client().header_copy(volume)

    def ready(self, volume: VolumeId, request: ReadyRequest) -> Record:
        return self._client().ready(volume, request)

    def _client(self) -> BrokerClient:
        with self._turn:
            if self._found is None:
                try:
                    self._found = self._begin()
                except KeybrokerError as error:
                    self._found = error
                except OSError as error:  # a broken /var: said, and no reason to leave swap off
                    self._found = KeybrokerError(Problem.CERTIFICATE, f"certificate: {error}")
            if isinstance(self._found, KeybrokerError):
                raise self._found
            return self._found
