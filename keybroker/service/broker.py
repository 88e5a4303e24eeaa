"""The broker: the few things that every use case needs, put together once at the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from keybroker.ca import Authority
from keybroker.masterkey import MasterKey, Ring, SharesMasterKey
from keybroker.service.lately import Lately
from keybroker.service.limiter import Limiter
from keybroker.service.precedence import Precedence
from keybroker.service.repeats import Repeats
from keybroker.store import Store
from keybroker.tally import Tally
from keybroker.wire.receipt import MAIN


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """What an operator decides for a whole installation.

    Attributes:
        trust_domain: the authority part of every identity's URI (``wire.names.TRUST_DOMAIN``).
        brokers: base URLs of the main listeners, told to each host when it is certified.
        enrolment: base URLs of the enrolment listeners, told to each host when it is certified.
        host_lifetime: of a host's certificate.
        grace: how long after its end a host's certificate is renewed; 0 for not at all.
        operator_lifetime: of an operator's certificate.
        retention: how long a retired key waits for its destruction.
        deletion_wait: how long a destruction that one person asks for is pending at least.
        backups_kept: how long backups of the database are kept, for statements; None where nobody says so.
        default_deny: whether hosts of an add-on without an address list may ask from nowhere.
        checkpoint_records, checkpoint_interval: so many new audit records, or any new one after so long, make
            a checkpoint due.
        writer: this broker's name in the audit trail, where it has a chain of its own; each of several
            brokers on one database has another one.
    """

    trust_domain: str
    brokers: tuple[str, ...]
    host_lifetime: timedelta = timedelta(days=90)
    grace: timedelta = timedelta(days=30)
    enrolment: tuple[str, ...] = ()
    retention: timedelta = timedelta(days=30)
    operator_lifetime: timedelta = timedelta(days=365)
    deletion_wait: timedelta = timedelta(days=14)
    backups_kept: timedelta | None = None
    default_deny: bool = False
    checkpoint_records: int = 1000
    checkpoint_interval: timedelta = timedelta(seconds=60)
    writer: str = MAIN


@dataclass(slots=True)
class Progress:
    """What this process has done beside the requests; for whoever measures how far behind it is.

    Attributes:
        copied: up to which audit record the journal was told; None where there is no journal.
        served_until: when the server's certificate ends, of those the one that new connections get; None
            where nothing is served.
    """

    copied: int | None = None
    served_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class ConfiguredKey:
    """A master key that the configuration names, opened."""

    uri: str
    key: MasterKey


@dataclass(slots=True)
class Authorities:
    """The CA as it is; the server puts another one here when it reads its files again."""

    current: Authority


@dataclass(frozen=True, slots=True)
class Broker:
    """Everything a use case may touch; made by ``installation.open_broker`` and shared by all threads.

    Attributes:
        masterkey: all master keys; they change while others use them, by ``masters.rotate``.
        clock: the time in UTC, aware.
        entropy: so many bytes from the kernel's generator; a parameter so that a test can be repeated.
        configured: opens the master keys that the configuration names at this moment, the newest first.
        shared: those of them that are in shares, sealed or not; the same objects at each call.
        lately: what was counted last (``measuring.Figures``).
    """

    store: Store
    masterkey: Ring
    authorities: Authorities
    clock: Callable[[], datetime]
    entropy: Callable[[int], bytes]
    settings: BrokerSettings
    configured: Callable[[], tuple[ConfiguredKey, ...]] = tuple
    limiter: Limiter = field(default_factory=Limiter)
    repeats: Repeats = field(default_factory=Repeats)
    progress: Progress = field(default_factory=Progress)
    tally: Tally = field(default_factory=Tally)
    precedence: Precedence = field(default_factory=Precedence)
    lately: Lately[Any] = field(default_factory=Lately)
    shared: Callable[[], tuple[SharesMasterKey, ...]] = tuple

    @property
    def authority(self) -> Authority:
        """The CA that issues at this moment."""
        return self.authorities.current

    def close(self) -> None:
        """Finish what is queued for the database and let go of it."""
        self.store.close()
