"""A backup of the whole installation, made while the broker runs, for offline keys only."""

from __future__ import annotations

import base64
import mmap
import os
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import IO

from keybroker.audit import AuditEvent, Writer, rfc3339
from keybroker.masterkey import key_file
from keybroker.masterkey.files import read_key
from keybroker.service import archive, served
from keybroker.service.archive import CONFIGURATION, DATABASE, FORMER_KEY, Manifest
from keybroker.service.installation import Installation, ca_held, check_files, load_authority
from keybroker.store import Writing, schema
from keybroker.store.copying import check_integrity, snapshot
from keybroker.store.sqlite import SqliteStore
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret


def make(
    installation: Installation,
    target: IO[bytes],
    recipients: tuple[str, ...],
    *,
    now: datetime,
    who: str,
    with_ca_key: bool = True,
) -> Manifest:
    """Write a backup; that one was begun is in the audit trail, and in the backup itself.

    Args:
        target: a file that is nobody else's.
        recipients: as ``age.read_recipients`` has checked them; empty for those of the recovery key.
        who: makes it, in words.

    Returns:
        What is in it.

    Raises:
        KeybrokerError: CONFIGURATION as ``check_files``, for a file that a restore could not put in place, or
            where the master key would be among what is backed up; USAGE without any recipient; UNAVAILABLE;
            CONFLICT while the CA is being changed, or where its rotation was cut; CORRUPT where the copy of
            the database does not pass its checks.
        OSError: ``target`` cannot be written to.
    """
    with ca_held(installation, to_change=False):
        return _made(installation, target, recipients, now, who, with_ca_key=with_ca_key)


def _made(
    installation: Installation,
    target: IO[bytes],
    recipients: tuple[str, ...],
    now: datetime,
    who: str,
    *,
    with_ca_key: bool,
) -> Manifest:
    if installation.cluster is not None:
        raise KeybrokerError(
            Problem.CONFIGURATION,
            "backup: the database is PostgreSQL's, and this copies a database of one file",
            hint="pgBackRest or pg_basebackup for the database; age for the configuration's directory",
        )
    check_files(installation)
    schema.check(installation.database)
    authority = load_authority(installation)
    if authority.following is not None:  # a restore takes the first one of ca.crt for the one that signed
        raise KeybrokerError(
            Problem.CONFLICT, "CA: its rotation was cut short", hint="keybroker ca rotate: it goes on"
        )
    if served.certificate(installation) is None:
        raise KeybrokerError(
            Problem.CONFLICT,
            "server: has no certificate yet, without which a backup would be nobody's",
            hint="keybroker ca requests --help",
        )
    is_changing = authority.before is not None
    parts = _parts(installation, with_ca_key=with_ca_key, is_changing=is_changing)
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=installation.database.parent) as private:
        copy = Path(private) / DATABASE
        recipients = _note(installation, recipients, now, who)
        snapshot(installation.database, copy)
        check_integrity(copy)
        parts[DATABASE] = copy
        _check_without_master_key(installation, parts)
        manifest = _manifest(installation, parts, now)
        signature = archive.sign(authority.key or served.key(installation), manifest)
        archive.write(target, manifest, signature, parts, recipients)
    return manifest


def _parts(installation: Installation, *, with_ca_key: bool, is_changing: bool) -> dict[str, Path]:
    assert installation.configuration is not None, "the command line read it"  # noqa: S101
    home = installation.configuration.parent
    parts = {
        CONFIGURATION: installation.configuration,
        "ca.crt": installation.ca_certificate,
        "ca.key": installation.ca_key,
        "server.crt": installation.server_certificate,
        "server.key": installation.server_key,
    }
    for name, path in parts.items():
        if path != home / name or installation.database.name != DATABASE:
            raise KeybrokerError(
                Problem.CONFIGURATION,
                f"{path}: is not {home / name}, where a restore would put it",
                hint="back such an installation up with the tools of its host",
            )
    if installation.outside_ca or not with_ca_key:
        del parts["ca.key"]
    elif is_changing and os.path.lexists(installation.former_ca_key):
        parts[FORMER_KEY] = installation.former_ca_key
    return parts


def _note(
    installation: Installation, recipients: tuple[str, ...], now: datetime, who: str
) -> tuple[str, ...]:
    """Put on record that a backup is made, and say for whom."""

    def work(writing: Writing) -> tuple[str, ...]:
        kept = writing.recovery_key()
        chosen = recipients or (tuple(kept.recipients.split("\n")) if kept else ())
        if not chosen:
            raise KeybrokerError(
                Problem.USAGE, "backup: nobody could open it", hint="--recipient age1…, or recovery set-key"
            )
        facts = {"who": who, "recipients": " ".join(chosen)}
        writing.append(AuditEvent(now, "local", "", "local", "database.backup", "done", detail=facts))
        return chosen

    store = SqliteStore(installation.database, Writer(installation.settings.writer))
    try:
        return store.write(work)
    finally:
        store.close()


def _manifest(installation: Installation, parts: dict[str, Path], now: datetime) -> Manifest:
    store = SqliteStore(parts[DATABASE])
    try:
        row, masters, heads = store.read(
            lambda reading: (reading.installation(), reading.master_keys(), reading.heads())
        )
    finally:
        store.close()
    for beside in ("-wal", "-shm"):  # what is hashed is the one file
        Path(f"{parts[DATABASE]}{beside}").unlink(missing_ok=True)
    if row is None:
        raise KeybrokerError(Problem.CORRUPT, "database: belongs to no installation")
    return Manifest(
        made=rfc3339(now),
        schema=schema.newest(),
        trust_domain=row.trust_domain,
        ca_fingerprint=row.ca_fingerprint,
        config_directory=str(parts[CONFIGURATION].parent),
        state_directory=str(installation.database.parent),
        master_keys=tuple(each.identity for each in masters if each.state != "forgotten"),
        heads=heads,
        files={name: archive.digest(path) for name, path in parts.items()},
        outside_ca=installation.outside_ca,
    )


def _check_without_master_key(installation: Installation, parts: dict[str, Path]) -> None:
    """Refuse where a master key's file is one of the parts, or its bytes are in one, in whatever form.

    A key that only a unit or a token has cannot be looked for; it is in no file here.
    """
    for uri in installation.master_keys:
        if not uri.startswith("file:"):
            continue
        path = key_file(uri, None)
        key = read_key(path)
        for part in parts.values():
            if os.path.samestat(path.stat(), part.stat()) or _holds(part, _forms(key)):
                raise KeybrokerError(
                    Problem.CONFIGURATION,
                    f"{part}: holds the master key, which is never in a backup of what it wraps",
                    hint="keep the master key in a file of its own",
                )


def _forms(key: Secret) -> tuple[bytes, ...]:
    raw = key.reveal()
    return raw, raw.hex().encode(), raw.hex().upper().encode(), base64.b64encode(raw).rstrip(b"=")


def _holds(path: Path, forms: Iterable[bytes]) -> bool:
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(form) >= 0 for form in forms)
