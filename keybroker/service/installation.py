"""An installation on its host: where its parts are, and opening it with every mode and owner checked.

CONFIG/  0700   keybroker.toml 0600, ca.crt 0444, ca.key 0400, server.crt 0444, server.key 0400,
                ca-before.key and ca-next.key 0400 (while the CA is changed, service/rollover.py),
                master.key 0400 (unless it is a credential), operators/ 0700 with NAME.crt, NAME.key
STATE/   0700   keybroker.db 0600, unless the database is PostgreSQL's
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256

from keybroker.audit import Writer
from keybroker.ca import Authority
from keybroker.masterkey import MasterKey, SharesMasterKey, open_master_key
from keybroker.masterkey.files import check_private, open_private
from keybroker.service import masters
from keybroker.service.broker import Authorities, Broker, BrokerSettings, ConfiguredKey
from keybroker.service.founding import Created, Plan, create
from keybroker.store import Store, schema
from keybroker.store.places import Cluster, Database, database_name
from keybroker.store.rows import InstallationRow
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

__all__ = ["Created", "Installation", "Plan", "check_files", "create", "open_broker", "upgrade"]


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the parts of an installation are; ``keybroker.config`` reads it from ``keybroker.toml``.

    Attributes:
        configuration: the file that all this was read from, checked like the rest; None if there is none.
        master_keys: the URIs of all master keys that may be needed, the newest first.
        outside_ca: whether the CA is an outside one: there is no ``ca_key``, and no ``server_certificate``
            before it has signed that.
        database: SQLite's file; where ``cluster`` is named there is none, and its directory is what counts.
        cluster: the database, where PostgreSQL serves it.
        reread: reads ``master_keys`` anew; None where they stay what they are.
        credentials_directory: $CREDENTIALS_DIRECTORY (systemd.exec(5)), None outside a unit.
    """

    ca_certificate: Path
    ca_key: Path
    server_certificate: Path
    server_key: Path
    database: Path
    master_keys: tuple[str, ...]
    settings: BrokerSettings
    configuration: Path | None = None
    credentials_directory: Path | None = None
    outside_ca: bool = False
    cluster: Cluster | None = None
    reread: Callable[[], tuple[str, ...]] | None = field(default=None, compare=False)

    @property
    def former_ca_key(self) -> Path:
        """Return where the key of the CA before is, for as long as that is trusted."""
        return self.ca_key.with_name("ca-before.key")

    @property
    def server_request(self) -> Path:
        """Return where the first server certificate's signing request is, for an outside CA."""
        return self.server_certificate.with_suffix(".csr")

    @property
    def next_ca_key(self) -> Path:
        """Return where the key of the next CA is, until it issues."""
        return self.ca_key.with_name("ca-next.key")

    @property
    def unseal_socket(self) -> Path:
        """Return where the running broker takes shares of master keys."""
        return self.state_directory / "unseal.sock"

    @property
    def state_directory(self) -> Path:
        """Return where this broker keeps what is of this machine alone."""
        return self.database.parent

    @property
    def place(self) -> Database:
        """Return where the database is."""
        return self.cluster or self.database


def open_broker(
    installation: Installation,
    *,
    clock: Callable[[], datetime],
    entropy: Callable[[int], bytes],
    serves: bool = False,
) -> Broker:
    """Open an installation after checking the mode and owner of each of its files.

    Nothing is written before every master key's check value is found good.

    Args:
        serves: whether it is to serve, so that it has to take its name first (``trail.take_name``).

    Raises:
        KeybrokerError: CONFIGURATION with a hint like ``chmod 0400 PATH`` for a file that is missing, open to
            others or somebody else's; for master keys that are not the database's; for a CA key that is not
            the CA certificate's; for a database at another revision of the schema or another installation's.
    """
    check_files(installation)
    held: dict[str, MasterKey] = {}
    configured = open_master_keys(installation, installation.master_keys, held)
    authority = load_authority(installation)
    schema.check(installation.place)
    holder = entropy(16).hex() if serves else None
    store = schema.open_store(installation.place, Writer(installation.settings.writer, holder))
    try:
        row, known = store.read(lambda reading: (reading.installation(), reading.master_keys()))
        _check_belongs(installation, row, authority)
        ring = masters.ring_of(known, configured)
    except KeybrokerError:
        store.close()
        raise

    def uris() -> tuple[str, ...]:
        return installation.reread() if installation.reread else installation.master_keys

    def again() -> tuple[ConfiguredKey, ...]:
        return open_master_keys(installation, uris(), held)

    def shared() -> tuple[SharesMasterKey, ...]:
        named = tuple(uri for uri in uris() if uri.startswith("shares:"))
        keys = (one.key for one in open_master_keys(installation, named, held))
        return tuple(key for key in keys if isinstance(key, SharesMasterKey))

    broker = Broker(
        store, ring, Authorities(authority), clock, entropy, installation.settings, again, shared=shared
    )
    ring.look = partial(masters.look_again, broker)
    return broker


def open_master_keys(
    installation: Installation, uris: tuple[str, ...], held: dict[str, MasterKey] | None = None
) -> tuple[ConfiguredKey, ...]:
    """Open master keys.

    Args:
        held: keys in shares by URI: such a key is opened once, for what it was given is in it alone.

    Raises:
        KeybrokerError: CONFIGURATION, for the first that cannot be opened.
    """
    directory = installation.credentials_directory
    keep = {} if held is None else held

    def key(uri: str) -> MasterKey:
        if not uri.startswith("shares:"):
            return open_master_key(uri, directory)
        return keep.setdefault(uri, open_master_key(uri, directory))

    return tuple(ConfiguredKey(uri, key(uri)) for uri in uris)


def upgrade(installation: Installation) -> tuple[str | None, str]:
    """Bring an installation's database to this version's tables, all of it or nothing; keys stay as they are.

    Returns:
        The revision that it had, and the one that it has.

    Raises:
        KeybrokerError: as ``check_files``; CONFIGURATION where a newer version made it, or none; UNAVAILABLE
            where it cannot be written; CORRUPT.
    """
    check_files(installation)
    before = schema.revision(installation.place)
    if schema.is_older(installation.place):
        schema.upgrade(installation.place)
    schema.check(installation.place)
    return before, schema.newest()


def check_files(installation: Installation) -> None:
    """Check mode and owner of every file of an installation and of the directories that hold them.

    Raises:
        KeybrokerError: CONFIGURATION, with the command that mends it.
    """
    public = [installation.ca_certificate, installation.server_certificate]
    if installation.configuration is not None:
        public.append(installation.configuration)
    if installation.outside_ca and not os.path.lexists(installation.server_certificate):
        public.remove(installation.server_certificate)
    secret = [installation.server_key]
    if not installation.outside_ca:
        secret.append(installation.ca_key)
    for directory in sorted({installation.state_directory, *(path.parent for path in (*public, *secret))}):
        _check_directory(directory)
    for path in public:
        _check_public(path)
    for path in secret:
        open_private(path).close()
    for path in (installation.former_ca_key, installation.next_ca_key):
        if os.path.lexists(path):
            open_private(path).close()
    _check_operators(installation.ca_certificate.with_name("operators"))
    if installation.cluster is not None:
        for path in installation.cluster.password_files:
            check_private(path, _status(path), uid=os.geteuid(), allowed=0o600)
        return
    # Looked at without opening: closing any descriptor of a database drops the locks that SQLite holds on it
    # in this process (https://sqlite.org/howtocorrupt.html, section 2.2).
    database = installation.database
    check_private(database, _status(database), uid=os.geteuid(), allowed=0o600)
    for beside in (f"{database}-wal", f"{database}-shm"):
        if os.path.lexists(beside):
            check_private(Path(beside), os.lstat(beside), uid=os.geteuid(), allowed=0o600)


def _check_operators(directory: Path) -> None:
    """Check the operators' files that are still here; an operator may have taken theirs away."""
    if not os.path.lexists(directory):
        return
    _check_directory(directory)
    for path in sorted(directory.glob("*.crt")):
        _check_public(path)
    for path in sorted(directory.glob("*.key")):
        check_private(path, _status(path), uid=os.geteuid(), allowed=0o600)


def _status(path: Path) -> os.stat_result:
    try:
        status = path.lstat()
    except OSError as error:
        raise _wrong(path, f"cannot be looked at: {error.strerror}", None) from None
    if status.st_uid not in (0, os.geteuid()):
        raise _wrong(path, f"belongs to user {status.st_uid}", f"chown {os.geteuid()} {path}")
    return status


def _check_directory(path: Path) -> None:
    status = _status(path)
    if not stat.S_ISDIR(status.st_mode):
        raise _wrong(path, "is not a directory", None)
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise _wrong(path, f"has mode {stat.S_IMODE(status.st_mode):04o}", f"chmod 0700 {path}")


def _check_public(path: Path) -> None:
    """Check a file that anybody may read and nobody else may change."""
    status = _status(path)
    if not stat.S_ISREG(status.st_mode):
        raise _wrong(path, "is not a regular file", None)
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise _wrong(path, f"has mode {stat.S_IMODE(status.st_mode):04o}", f"chmod go-w {path}")


def _wrong(path: Path | str, what: str, hint: str | None) -> KeybrokerError:
    return KeybrokerError(Problem.CONFIGURATION, f"{path}: {what}", hint=hint)


@contextmanager
def ca_held(installation: Installation, *, to_change: bool) -> Iterator[None]:
    """Have the CA's files to oneself, or to those who only read them, until the end.

    Raises:
        KeybrokerError: CONFLICT where somebody else has them; CONFIGURATION.
    """
    home = installation.ca_key.parent
    try:
        descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _wrong(home, f"cannot be opened: {error.strerror}", None) from None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if to_change else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise KeybrokerError(
            Problem.CONFLICT, f"{home}: a backup or a change of the CA is under way", hint="try again"
        ) from None
    else:
        yield
    finally:
        os.close(descriptor)


def load_authority(installation: Installation, store: Store | None = None) -> Authority:
    """Read the CA's files.

    Args:
        store: of this installation, which is held to be this CA's; None where that is seen to elsewhere.

    Raises:
        KeybrokerError: CONFIGURATION, with the file's path, for what cannot be read, a key that is not the
            certificate's, or a CA that is not the database's; UNAVAILABLE.
    """
    path = installation.ca_certificate
    key = None
    if not installation.outside_ca:
        with open_private(installation.ca_key) as file:
            key = Secret(file.readall())
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror}", None) from None
    except UnicodeDecodeError:
        raise _wrong(path, "is not PEM", None) from None
    authority = Authority.outside(text, str(path)) if key is None else Authority.load(text, key, str(path))
    if store is not None:
        _check_belongs(installation, store.read(lambda reading: reading.installation()), authority)
    return authority


def _check_belongs(installation: Installation, row: InstallationRow | None, authority: Authority) -> None:
    """Check that database, CA and trust domain are of one installation."""
    if row is None:
        raise _wrong(
            database_name(installation.place), "belongs to no installation: an init was cut short", None
        )
    following = authority.following or authority.certificate  # between two writes of a rotation
    if row.ca_fingerprint not in (authority.fingerprint, following.fingerprint(SHA256()).hex()):
        raise _wrong(installation.ca_certificate, "is not the CA that the database was made with", None)
    if row.trust_domain != installation.settings.trust_domain:
        raise KeybrokerError(
            Problem.CONFIGURATION,
            f"trust domain {installation.settings.trust_domain}: the database's is {row.trust_domain}",
        )
