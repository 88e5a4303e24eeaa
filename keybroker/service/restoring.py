"""An installation that comes back from a backup: beside its place first, then two renames, or nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from keybroker.audit import AuditEvent
from keybroker.envelope import KEY_BYTES
from keybroker.masterkey import LocalMasterKey, key_file
from keybroker.masterkey.files import read_key
from keybroker.service import masters, setback
from keybroker.service.archive import DATABASE, FILES, MODES, Manifest, digest
from keybroker.service.drill import rehearse
from keybroker.service.installation import Installation
from keybroker.service.placing import Maker, beside, check_free, put_in_place
from keybroker.store import Writing
from keybroker.store.sqlite import SqliteStore
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back.

    Attributes:
        master_keys: files of master keys that were put in place.
        missing: URIs of master keys whose files are not in place.
        ca_changing: whether two CAs were trusted when the backup was made.
    """

    configuration: Path
    database: Path
    made: str
    ca_fingerprint: str
    master_keys: tuple[Path, ...]
    missing: tuple[str, ...]
    ca_changing: bool = False


def restore(
    directory: Path,
    manifest: Manifest,
    installation: Installation,
    *,
    master_keys: Iterable[Path],
    owner: tuple[int, int] | None,
    revoked: Iterable[str] = (),
    source: str,
    who: str,
    now: datetime,
) -> Restored:
    """Put a backup where it came from, marked as restored: the broker begins in RECOVERY.

    Args:
        directory: where it was taken apart (``archive.read``).
        installation: as the backup's configuration has it.
        master_keys: files; each is put where the configuration names it, if that is beside it.
        owner: uid and gid that all of it is to belong to; None for whoever runs this.
        revoked: hosts that were revoked after the backup was made: they are before anything is in place.
        source: name and hash of the backup's file, for the record.
        who: restores it, in words.

    Raises:
        KeybrokerError: EXISTS where there is an installation already; CORRUPT where the backup does not pass
            its checks; CONFIGURATION for a master key that is not this installation's, or where something
            cannot be made. Nothing is in place then.
    """
    home, state_home = Path(manifest.config_directory), Path(manifest.state_directory)
    for each in (home, state_home):
        check_free(each)
    keys = [(path, read_key(path)) for path in master_keys]
    for result in rehearse(directory, manifest, replace(installation, master_keys=())):
        if result.state == "wrong":
            raise KeybrokerError(Problem.CORRUPT, f"backup: {result.check}: {result.detail}")
    placed = _placed(directory, installation, keys)
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        state_home.parent.mkdir(parents=True, exist_ok=True)
        with beside(home) as config, beside(state_home) as state:
            maker = Maker(owner)
            for name in FILES:
                if name in manifest.files:
                    maker.file(config / name, (directory / name).read_bytes(), MODES[name])
            for path, key in placed.items():
                maker.file(config / path.name, key.reveal(), 0o400)
            _mark(directory / DATABASE, manifest, source, who, now, revoked)
            _copy(directory / DATABASE, state / DATABASE)
            maker.adopt(state / DATABASE)
            maker.finish(config, state)
            put_in_place(config, home, state, state_home)
    except OSError as error:
        path = error.filename or home
        raise KeybrokerError(
            Problem.CONFIGURATION, f"{path}: cannot be made: {error.strerror or error}"
        ) from None
    return Restored(
        configuration=home / "keybroker.toml",
        database=state_home / DATABASE,
        made=manifest.made,
        ca_fingerprint=manifest.ca_fingerprint,
        master_keys=tuple(placed),
        missing=tuple(uri for uri in installation.master_keys if not _is_there(uri, placed)),
        ca_changing=len(x509.load_pem_x509_certificates((directory / "ca.crt").read_bytes())) > 1,
    )


def _placed(
    directory: Path, installation: Installation, keys: Iterable[tuple[Path, Secret]]
) -> dict[Path, Secret]:
    """Say which master key goes where, once each is found to be one that the database knows."""
    store = SqliteStore(directory / DATABASE)
    try:
        known = store.read(lambda reading: reading.master_keys())
    finally:
        store.close()
    rows = {row.identity: row for row in known if row.state != "forgotten"}
    places: dict[Path, Secret] = {}
    for path, secret in keys:
        key = LocalMasterKey(Secret(secret.reveal()))
        row = rows.get(key.identity)
        if row is None:
            raise KeybrokerError(
                Problem.CONFIGURATION, f"{path}: is master key {key.identity}, which the backup does not need"
            )
        masters.check_key(row, key)
        uri = row.uri or (installation.master_keys[0] if len(installation.master_keys) == 1 else "")
        if uri.startswith("file:") and key_file(uri, None).parent == _home(installation):
            places[key_file(uri, None)] = secret
    return places


def _home(installation: Installation) -> Path:
    assert installation.configuration is not None, "the command line read it"  # noqa: S101
    return installation.configuration.parent


def _is_there(uri: str, placed: dict[Path, Secret]) -> bool:
    if not uri.startswith("file:"):
        return False
    path = key_file(uri, None)
    return path in placed or (path.is_file() and path.stat().st_size == KEY_BYTES)


def _mark(
    database: Path, manifest: Manifest, source: str, who: str, now: datetime, revoked: Iterable[str]
) -> None:
    """Write into the database that it was restored: with that, RECOVERY begins."""
    made = datetime.fromisoformat(manifest.made).astimezone(UTC)

    def work(writing: Writing) -> None:
        setback.enter(writing, now, made=made, source=source, who=who)
        for host in revoked:
            row = writing.host(host)
            if row is None:
                raise KeybrokerError(Problem.UNKNOWN, f"host {host[:40]}: the backup has none")
            writing.revoke_host(row.id, "revoked after the backup was made", now)
            event = AuditEvent(now, "local", "", "local", "host.revoke", "done", detail={"who": who})
            writing.append(replace(event, addon=row.addon, host=row.id))

    store = SqliteStore(database)
    try:
        store.write(work)
        if not store.scrub():
            raise KeybrokerError(Problem.UNAVAILABLE, f"{database}: is in use")
    finally:
        store.close()


def _copy(source: Path, to: Path) -> None:
    descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file, source.open("rb") as whole:
        shutil.copyfileobj(whole, file, 1 << 20)
        file.flush()
        os.fsync(descriptor)
    if digest(to) != digest(source):
        raise OSError(None, "what was written is not what was read", str(to))
