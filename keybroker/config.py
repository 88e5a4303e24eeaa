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
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keybroker.wire.fields import Fields
from keybroker.wire.messages import LARGEST_HEADER_COPY
from keybroker.wire.names import TRUST_DOMAIN
from keybroker.wire.problems import KeybrokerError, Problem

DEFAULT_DIRECTORY: Final = Path("/etc/keybroker")
FILE_NAME: Final = "keybroker.toml"

LARGEST_BODY: Final = 1 << 20
"""Of a request, in bytes; only a header deposit may be larger."""

LARGEST_DEPOSIT: Final = LARGEST_HEADER_COPY * 4 // 3 + 65536
"""Of a header deposit, in bytes: the copy in base64, and what surrounds it."""

_URL: Final = re.compile(r"https://[A-Za-z0-9.:\[\]-]+(:[0-9]{1,5})?")
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
class Limits:
    """How much of the machine strangers and clients may use.

    Attributes:
        threads: worker threads, each of which answers one request at a time.
        queue: requests that may wait for a thread; one more is told 503 at once.
        connections: at most open at a time; beyond it the oldest without a finished handshake is dropped.
        idle_seconds: from the first byte of the handshake to the last one of a request's header fields.
        body_seconds: for the body of a request.
        reply_seconds: for a client to take its reply.
        stop_seconds: for requests in flight when the server is told to stop.
    """

    threads: int = 8
    queue: int = 256
    connections: int = 4096
    idle_seconds: int = 15
    body_seconds: int = 15
    reply_seconds: int = 30
    stop_seconds: int = 20


@dataclass(frozen=True, slots=True)
class Settings:
    """What one installation is made of.

    Attributes:
        file: where this was read from.
        trust_domain: of the names in certificates (``keybroker.wire.names.Identity``).
        brokers: base URLs of the main listeners, in the order in which agents try them.
        enrolment: base URL of the enrolment listener, which ``host enrol`` prints.
        master_key: URI of the master key, ``file:/path`` or ``credential:name``.
        database: SQLAlchemy URL; ``sqlite:////var/lib/keybroker/keybroker.db``.
        health: a unix socket's path, or a loopback address for plain HTTP.
    """

    file: Path
    trust_domain: str
    brokers: tuple[str, ...]
    enrolment: str
    ca_certificate: Path
    ca_key: Path
    server_certificate: Path
    server_key: Path
    master_key: str
    database: str
    listen_main: Address
    listen_enrolment: Address
    health: Path | Address
    limits: Limits = Limits()

    @property
    def directory(self) -> Path:
        """Return the directory of the installation's configuration."""
        return self.file.parent


def load(file: Path) -> Settings:
    """Read the configuration file.

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
    return parse(text, file)


def parse(text: str, file: Path) -> Settings:
    """Read the text of a configuration file; paths in it that are not absolute are below its directory.

    Raises:
        KeybrokerError: CONFIGURATION, naming the file and the field.
    """
    try:
        fields = Fields(tomllib.loads(text))
        settings = _settings(fields, file)
        fields.end()
    except tomllib.TOMLDecodeError as error:
        raise _wrong(str(file), str(error)) from error
    except KeybrokerError as error:
        raise KeybrokerError(Problem.CONFIGURATION, f"{file}: {error.detail}", hint=error.hint) from error
    return settings


def _settings(fields: Fields, file: Path) -> Settings:
    brokers = fields.texts("brokers", most=16)
    enrolment = fields.text("enrolment", match=_URL)
    if not brokers or not all(_URL.fullmatch(url) for url in brokers):
        raise fields.wrong("brokers", "must be one or more https:// URLs without a path")
    files = fields.object("files")
    listen = fields.object("listen")
    settings = Settings(
        file=file,
        trust_domain=fields.text("trust_domain", match=TRUST_DOMAIN),
        brokers=brokers,
        enrolment=enrolment,
        ca_certificate=_path(files, "ca_certificate", file, "ca.crt"),
        ca_key=_path(files, "ca_key", file, "ca.key"),
        server_certificate=_path(files, "server_certificate", file, "server.crt"),
        server_key=_path(files, "server_key", file, "server.key"),
        master_key=files.text("master_key", most=4096),
        database=_database(files, file),
        listen_main=Address.parse(listen.text("main"), "listen.main"),
        listen_enrolment=Address.parse(listen.text("enrolment"), "listen.enrolment"),
        health=_health(listen.text("health", most=4096)),
        limits=_limits(fields.optional("limits", fields.object)),
    )
    files.end()
    listen.end()
    return settings


def _path(files: Fields, key: str, file: Path, name: str) -> Path:
    return file.parent / (files.optional(key, lambda key: files.text(key, most=4096)) or name)


def _database(files: Fields, file: Path) -> str:
    text = files.text("database", most=4096)
    return text if "://" in text else f"sqlite:///{file.parent / text}"


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
