"""An installation on its host: making one, and opening it with every mode and owner checked.

CONFIG/  0700   keybroker.toml 0600, ca.crt 0444, ca.key 0400, server.crt 0444, server.key 0400,
                master.key 0400 (unless it is a credential), operators/ 0700 with NAME.crt 0444, NAME.key 0400
STATE/   0700   keybroker.db 0600
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from keybroker.service.broker import Broker, BrokerSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``create`` is to make.

    Attributes:
        config_directory, state_directory: absolute; absent, or empty directories.
        server_names, server_addresses: DNS names and IP addresses of the server certificate; one at least.
        operator: name of the first operator (``wire.names.OPERATOR_NAME``).
        configuration: the text of ``keybroker.toml``, written as it is.
        master_key: ``file:`` and the path inside ``config_directory`` where it is made, or ``credential:NAME``
            for one that is there already.
        owner: uid and gid that all of it belongs to; None for whoever runs this.
    """

    config_directory: Path
    state_directory: Path
    trust_domain: str
    server_names: tuple[str, ...]
    server_addresses: tuple[str, ...]
    operator: str
    configuration: str
    master_key: str
    owner: tuple[int, int] | None = None
    server_lifetime: timedelta = timedelta(days=3650)
    operator_lifetime: timedelta = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Created:
    """What ``create`` made.

    Attributes:
        ca_fingerprint: SHA-256 of the CA certificate's DER, hex.
    """

    ca_certificate: Path
    ca_fingerprint: str
    operator_certificate: Path
    operator_key: Path
    configuration: Path


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the parts of an installation are; ``keybroker.config`` reads it from ``keybroker.toml``.

    Attributes:
        configuration: the file that all this was read from, checked like the rest; None if there is none.
        master_key: ``file:/absolute/path`` or ``credential:NAME``.
        credentials_directory: $CREDENTIALS_DIRECTORY (systemd.exec(5)), None outside a unit.
    """

    ca_certificate: Path
    ca_key: Path
    server_certificate: Path
    server_key: Path
    database: Path
    master_key: str
    settings: BrokerSettings
    configuration: Path | None = None
    credentials_directory: Path | None = None


def create(
    plan: Plan,
    *,
    clock: Callable[[], datetime],
    entropy: Callable[[int], bytes],
    credentials_directory: Path | None = None,
) -> Created:
    """Make an installation: CA, server certificate, master key, database, first operator.

    All of it is built beside its place and then renamed, the state first: as long as there is no configuration
    directory, there is no installation.

    Raises:
        KeybrokerError: EXISTS where either directory holds anything already; MALFORMED for a name that is none;
            CONFIGURATION where a directory cannot be made, or the credential is not there.
    """
    raise NotImplementedError


def open_broker(
    installation: Installation, *, clock: Callable[[], datetime], entropy: Callable[[int], bytes]
) -> Broker:
    """Open an installation after checking the mode and owner of each of its files.

    Nothing is written before the master key's check value is found good.

    Raises:
        KeybrokerError: CONFIGURATION with a hint like ``chmod 0400 PATH`` for a file that is missing, open to others
            or somebody else's; for another master key than the database's; for a CA key that is not the CA
            certificate's; for a database at another revision of the schema.
    """
    raise NotImplementedError
