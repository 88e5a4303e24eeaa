"""The broker's configuration: one TOML file, parsed at the border into values that need no second look.

    trust_domain = "keybroker.internal"
    brokers = ["https://broker.example:8443"]
    enrolment = "https://broker.example:8444"

    [files]
    database = "/var/lib/keybroker/keybroker.db"
    master_key = "file:/etc/keybroker/master.key"

    [listen]
    main = "0.0.0.0:8443"
    enrolment = "0.0.0.0:8444"
    health = "unix:/run/keybroker/health.sock"

Nothing in it turns TLS, or the verification of clients, off; an unknown key is refused.
"""

from __future__ import annotations

import ipaddress
import json
import re
import tomllib
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from keybroker import writers
from keybroker.limits import Limits
from keybroker.service.broker import BrokerSettings
from keybroker.service.installation import Installation
from keybroker.store.places import Cluster, Database, read_place
from keybroker.wire.fields import Fields
from keybroker.wire.messages import LARGEST_HEADER_COPY
from keybroker.wire.names import TRUST_DOMAIN
from keybroker.wire.problems import KeybrokerError, Problem

DEFAULT_DIRECTORY: Final = Path("/etc/keybroker")
STATE_DIRECTORY: Final = Path("/var/lib/keybroker")
_STATE: Final = "\n# What is of this machine alone; the database is every broker's.\nstate = "
FILE_NAME: Final = "keybroker.toml"

LARGEST_BODY: Final = 1 << 20
"""Of a request, in bytes; only a header deposit may be larger."""

LARGEST_DEPOSIT: Final = LARGEST_HEADER_COPY * 4 // 3 + 65536
"""Of a header deposit, in bytes: the copy in base64, and what surrounds it."""

_URL: Final = re.compile(r"https://[A-Za-z0-9.:\[\]-]+(:[0-9]{1,5})?")
_MASTER_KEY: Final = re.compile(
    r"file:/.+|credential:[A-Za-z0-9._-]+|pkcs11:[!-~]+|shares:[0-9]+/[0-9]+/[0-9a-f]{32}"
)
_MOST_MASTER_KEYS: Final = 16
_OUTSIDE: Final = (
    "\n# The CA's key is elsewhere: keybroker ca requests, keybroker ca import.\noutside_ca = true"
)
_HEALTH: Final = re.compile(r"unix:(?P<path>/.+)|http://(?P<address>[^/]+)")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener binds: a numeric address, so that no name service decides it, and a port; 0 is any."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, what: str) -> Address:
        """Read ``192.0.2.1:8443`` or ``[2001:db8::1]:8443``.

        Raises:
            KeybrokerError: CONFIGURATION.
        """
        host, _, port = text.rpartition(":")
        try:
            number = int(port) if re.fullmatch(r"[0-9]{1,5}", port) else -1
            parsed = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise _wrong(what, f"{text!r} is not a numeric address and a port") from None
        if not 0 <= number <= 65535:
            raise _wrong(what, f"{text!r} has no port from 0 to 65535")
        return cls(str(parsed), number)


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``keybroker serve`` is told.

    Attributes:
        file: where this was read from.
        installation: its files, and what holds for all of it.
        enrolment: base URL of the enrolment listener, which ``host enrol`` prints.
        health: a unix socket's path, or a loopback address for plain HTTP.
        journal: whether audit records are copied to the journal, where there is one.
    """

    file: Path
    installation: Installation
    enrolment: str
    listen_main: Address
    listen_enrolment: Address
    health: Path | Address
    limits: Limits = field(default_factory=Limits)
    journal: bool = True


def render(
    *,
    trust_domain: str,
    broker: str,
    enrolment: str,
    database: Database,
    master_key: str,
    listen_main: Address,
    listen_enrolment: Address,
    health: str,
    state: Path = STATE_DIRECTORY,
    default_deny: bool = False,
    outside_ca: bool = False,
) -> str:
    """Return the text of a new configuration file, which ``parse`` reads back.

    Args:
        broker, enrolment: base URLs of the listeners as agents reach them.
        health: ``unix:/path`` or ``http://127.0.0.1:port``.
        state: directory of what is of this machine alone; said where the database is elsewhere.
        default_deny: whether hosts of an add-on without an address list may ask from nowhere.
        outside_ca: whether the CA's key is elsewhere.
    """
    return f"""# Keybroker's configuration; `keybroker check` verifies it. Restart the broker after a change.

# Whose names its certificates carry: spiffe://{trust_domain}/host/...
trust_domain = {_quoted(trust_domain)}

# Where agents reach this broker, and where new ones enrol.
brokers = [{_quoted(broker)}]
enrolment = {_quoted(enrolment)}

[files]
# ca_certificate, ca_key, server_certificate and server_key are beside this file unless they are named here.
database = {_quoted(str(database))}{_STATE + _quoted(str(state)) if isinstance(database, Cluster) else ""}
master_key = {_quoted(master_key)}{_OUTSIDE if outside_ca else ""}

[listen]
main = {_quoted(str(listen_main))}
enrolment = {_quoted(str(listen_enrolment))}
# Without TLS, so only a unix socket or a loopback address.
health = {_quoted(health)}

[release]
# Where hosts of an add-on without an address list may ask from: anywhere or nowhere (keybroker addon policy).
unlisted = {_quoted("nowhere" if default_deny else "anywhere")}

# [limits]
# threads = 8          # that answer requests
# queue = 256          # requests that may wait for one; more are told 503 at once
# connections = 4096

# [lifetimes]
# host_days = 90
# grace_days = 30      # a host that was off is still renewed so long after that; 0 for not at all
# operator_days = 365
# retired_key_days = 30
# deletion_days = 14   # that a volume's or add-on's destruction is pending; sooner takes a second person
# backup_days = 90     # that backups of the database are kept, for statements of destruction to say so

# [audit]
# The trail's end is signed once there are so many new records, or any new one after so many seconds.
# checkpoint_records = 1000
# checkpoint_seconds = 60
# journal = true       # copy each record to the journal
# writer = "main"      # this broker's own chain, one for each on a database; on PostgreSQL the host's name
"""


def _quoted(text: str) -> str:
    """Write a TOML basic string (TOML 1.0.0, "String"), whose escapes JSON's are a part of."""
    return json.dumps(text, ensure_ascii=False)


def load(file: Path, *, credentials_directory: Path | None = None) -> Settings:
    """Read the configuration file.

    Args:
        credentials_directory: $CREDENTIALS_DIRECTORY (systemd.exec(5)), None outside a unit.

    Raises:
        KeybrokerError: CONFIGURATION, naming the file and the field.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise KeybrokerError(
            Problem.CONFIGURATION, f"{file}: cannot be read: {reason}", hint="keybroker init --help"
        ) from error
    settings = parse(text, file, credentials_directory=credentials_directory)

    def master_keys() -> tuple[str, ...]:
        return load(file, credentials_directory=credentials_directory).installation.master_keys

    return replace(settings, installation=replace(settings.installation, reread=master_keys))


def parse(text: str, file: Path, *, credentials_directory: Path | None = None) -> Settings:
    """Read the text of a configuration file; paths in it that are not absolute are below its directory.

    Raises:
        KeybrokerError: CONFIGURATION, naming the file and the field.
    """
    try:
        fields = Fields(tomllib.loads(text))
        settings = _settings(fields, file, credentials_directory)
        fields.end()
    except tomllib.TOMLDecodeError as error:
        raise _wrong(str(file), str(error)) from error
    except KeybrokerError as error:
        raise KeybrokerError(Problem.CONFIGURATION, f"{file}: {error.detail}", hint=error.hint) from error
    return settings


def _settings(fields: Fields, file: Path, credentials_directory: Path | None) -> Settings:
    listen = fields.object("listen")
    audit = fields.optional("audit", fields.object) or Fields({})
    journal = audit.optional("journal", audit.flag)
    enrolment = fields.text("enrolment", match=_URL)
    settings = Settings(
        file=file,
        enrolment=enrolment,
        installation=_installation(fields, audit, file, enrolment, credentials_directory),
        listen_main=Address.parse(listen.text("main"), "listen.main"),
        listen_enrolment=Address.parse(listen.text("enrolment"), "listen.enrolment"),
        health=_health(listen.text("health", most=4096)),
        limits=_limits(fields.optional("limits", fields.object)),
        journal=journal is not False,
    )
    listen.end()
    audit.end()
    return settings


def _installation(
    fields: Fields, audit: Fields, file: Path, enrolment: str, credentials_directory: Path | None
) -> Installation:
    brokers = fields.texts("brokers", most=16)
    if not brokers or not all(_URL.fullmatch(url) for url in brokers):
        raise fields.wrong("brokers", "must be one or more https:// URLs without a path")
    files = fields.object("files")
    lifetimes = fields.optional("lifetimes", fields.object)
    release = fields.optional("release", fields.object)
    database = read_place(files.text("database", most=4096), file.parent)
    state = (
        STATE_DIRECTORY if isinstance(database, Path) else _path(files, "state", file, str(STATE_DIRECTORY))
    )
    installation = Installation(
        ca_certificate=_path(files, "ca_certificate", file, "ca.crt"),
        ca_key=_path(files, "ca_key", file, "ca.key"),
        server_certificate=_path(files, "server_certificate", file, "server.crt"),
        server_key=_path(files, "server_key", file, "server.key"),
        database=database if isinstance(database, Path) else state / "keybroker.db",
        cluster=None if isinstance(database, Path) else database,
        master_keys=_master_keys(files),
        settings=BrokerSettings(
            trust_domain=fields.text("trust_domain", match=TRUST_DOMAIN),
            brokers=brokers,
            host_lifetime=_days(lifetimes, "host_days", 90),
            grace=_days(lifetimes, "grace_days", 30, least=0),
            enrolment=(enrolment,),
            retention=_days(lifetimes, "retired_key_days", 30),
            operator_lifetime=_days(lifetimes, "operator_days", 365),
            deletion_wait=_days(lifetimes, "deletion_days", 14),
            backups_kept=_days(lifetimes, "backup_days", 0) or None,
            default_deny=_denies(release),
            checkpoint_records=_number(audit, "checkpoint_records", 1000, most=1_000_000),
            checkpoint_interval=timedelta(seconds=_number(audit, "checkpoint_seconds", 60, most=86400)),
            writer=writers.read_name(audit, shared=not isinstance(database, Path)),
        ),
        configuration=file,
        credentials_directory=credentials_directory,
        outside_ca=files.optional("outside_ca", files.flag) is True,
    )
    files.end()
    if lifetimes is not None:
        lifetimes.end()
    return installation


def _master_keys(files: Fields) -> tuple[str, ...]:
    """Read one URI, or a list of them; what is wrong is not repeated, for it may be the key itself."""
    found = files.one_or_more("master_key", most=_MOST_MASTER_KEYS, each=4096)
    if not found or not all(_MASTER_KEY.fullmatch(uri) for uri in found):
        raise files.wrong(
            "master_key", f"must be a URI that matches {_MASTER_KEY.pattern}, or a list of them"
        )
    if len(set(found)) != len(found):
        raise files.wrong("master_key", "names one twice")
    return found


def _denies(release: Fields | None) -> bool:
    if release is None:
        return False
    unlisted = release.optional("unlisted", lambda key: release.choice(key, {"anywhere", "nowhere"}))
    release.end()
    return unlisted == "nowhere"


def _path(files: Fields, key: str, file: Path, name: str) -> Path:
    return file.parent / (files.optional(key, lambda key: files.text(key, most=4096)) or name)


def _days(lifetimes: Fields | None, key: str, otherwise: int, *, least: int = 1) -> timedelta:
    return timedelta(days=_number(lifetimes, key, otherwise, least=least, most=3650))


def _number(section: Fields | None, key: str, otherwise: int, *, least: int = 1, most: int) -> int:
    if section is None:
        return otherwise
    found = section.optional(key, lambda key: section.number(key, least=least, most=most))
    return otherwise if found is None else found


def _health(text: str) -> Path | Address:
    """Read where health is told; plain HTTP must not be reachable from another machine."""
    match = _HEALTH.fullmatch(text)
    if match is None:
        raise _wrong("listen.health", f"{text!r} is neither unix:/path nor http://127.0.0.1:port")
    if match["path"] is not None:
        return Path(match["path"])
    address = Address.parse(match["address"], "listen.health")
    if not ipaddress.ip_address(address.host).is_loopback:
        raise KeybrokerError(
            Problem.CONFIGURATION,
            f"listen.health: {address} is not a loopback address, and health is told without TLS",
            hint='health = "unix:/run/keybroker/health.sock"',
        )
    return address


def _limits(fields: Fields | None) -> Limits:
    if fields is None:
        return Limits()
    found = {
        name: fields.optional(name, lambda key: fields.number(key, least=1, most=1_000_000))
        for name in Limits.__slots__
    }
    fields.end()
    return Limits(**{name: value for name, value in found.items() if value is not None})


def _wrong(what: str, wrong: str) -> KeybrokerError:
    return KeybrokerError(Problem.CONFIGURATION, f"{what}: {wrong}")
