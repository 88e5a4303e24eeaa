"""A restore that is only rehearsed: everything that a backup holds is opened, in a directory of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keybroker.ca import Authority, load_key
from keybroker.masterkey import MasterKey, Ring, is_sealed
from keybroker.service import masters, trail
from keybroker.service.archive import DATABASE, FORMER_KEY, Manifest
from keybroker.service.broker import ConfiguredKey
from keybroker.service.installation import Installation, open_master_keys
from keybroker.service.keys import (
    STATEMENT_KEY,
    AddonKeys,
    addon_key_context,
    header_context,
    passphrase_context,
    recovery_context,
    recovery_key_context,
)
from keybroker.store import Reading, Store, schema
from keybroker.store.copying import check_integrity
from keybroker.store.sqlite import SqliteStore
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one check.

    Attributes:
        state: ``good``, ``warning`` or ``wrong``.
    """

    check: str
    state: str
    detail: str

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {"check": self.check, "state": self.state, "detail": self.detail}


def rehearse(
    directory: Path,
    manifest: Manifest,
    installation: Installation,
    held: dict[str, MasterKey] | None = None,
) -> tuple[Result, ...]:
    """Check all that a backup holds.

    Args:
        directory: where it was taken apart (``archive.read``); its database is brought to this version's
            tables here.
        installation: as the backup's own configuration has it, read in that directory; its master keys are
            used as far as they are at hand.
        held: master keys in shares that were given enough of them, by URI.
    """
    database = directory / DATABASE
    whose = f"CA {manifest.ca_fingerprint[:16]}…"
    signer = f"server of the outside {whose}" if manifest.outside_ca else whose
    there = replace(installation, database=database)
    results = [
        Result("archive", "good", f"signed by the {signer}, made {manifest.made}"),
        *_authority(directory, manifest),
        _tried("database", lambda: _sound(database)),
        _tried("schema", lambda: _upgraded(database, manifest)),
    ]
    if any(result.state == "wrong" for result in results):
        return tuple(results)
    store = SqliteStore(database)
    try:
        results += [
            _tried("installation", lambda: _belongs(store, manifest)),
            _tried("audit trail", lambda: _trail(store, manifest)),
            *_keys(store, there, held),
        ]
    finally:
        store.close()
    return tuple(results)


def _tried(check: str, look: Callable[[], str]) -> Result:
    try:
        return Result(check, "good", look())
    except KeybrokerError as error:
        return Result(check, "wrong", error.detail)


def _authority(directory: Path, manifest: Manifest) -> tuple[Result, ...]:
    """Say whether the CA's keys are there and its own; without the first of them no broker starts."""
    check = "CA"
    if manifest.outside_ca:
        return (Result(check, "good", "an outside one, whose key is elsewhere"),)
    if not (directory / "ca.key").exists():
        return (Result(check, "warning", "its key was left out: put it in place before the broker starts"),)
    try:
        authority = Authority.load(
            (directory / "ca.crt").read_text(), Secret((directory / "ca.key").read_bytes()), "ca.crt"
        )
        if authority.following is not None:
            raise KeybrokerError(Problem.CORRUPT, "ca.crt: its rotation was cut short")
        if authority.before is None:
            return (Result(check, "good", "with its key"),)
        former = directory / FORMER_KEY
        if not former.exists():
            what = "two are trusted; the key of the one before is not here, which ca renew-server needs"
            return (Result(check, "warning", what),)
        if load_key(Secret(former.read_bytes())).public_key() != authority.before.public_key():
            raise KeybrokerError(Problem.CORRUPT, f"{FORMER_KEY}: is not the key of the CA before")
    except KeybrokerError as error:
        return (Result(check, "wrong", error.detail),)
    return (Result(check, "good", "two are trusted, with the keys of both"),)


def _sound(database: Path) -> str:
    check_integrity(database)
    return f"{database.stat().st_size} bytes, every page and index is sound"


def _upgraded(database: Path, manifest: Manifest) -> str:
    before = schema.revision(database)
    if before != manifest.schema:
        raise KeybrokerError(Problem.CORRUPT, f"database: is at revision {before}, not {manifest.schema}")
    schema.upgrade(database)
    schema.check(database)
    return f"revision {before}" + (
        "" if before == schema.newest() else f"; a restore upgrades it to {schema.newest()}"
    )


def _belongs(store: Store, manifest: Manifest) -> str:
    row = store.read(lambda reading: reading.installation())
    if row is None or row.ca_fingerprint != manifest.ca_fingerprint:
        raise KeybrokerError(Problem.CORRUPT, "database: is another CA's")
    counts = store.read(lambda reading: (len(reading.addons()), len(reading.volumes()), len(reading.hosts())))
    return "{}: {} add-ons, {} volumes, {} hosts".format(row.trust_domain, *counts)


def _trail(store: Store, manifest: Manifest) -> str:
    verdict = trail.proofread(store)
    if verdict.heads != manifest.heads:
        raise KeybrokerError(Problem.CORRUPT, "audit trail: does not end where the manifest says")
    return f"records: {verdict.records}, and the chain is whole"


def _keys(store: Store, installation: Installation, held: dict[str, MasterKey] | None) -> tuple[Result, ...]:
    check = "keys"
    configured: tuple[ConfiguredKey, ...] = ()
    missing = []
    for uri in installation.master_keys:
        try:
            opened = open_master_keys(installation, (uri,), held)
            if is_sealed(opened[0].key):
                missing.append(f"{uri}: its shares were not given")
            else:
                configured += opened
        except KeybrokerError as error:
            missing.append(error.detail)
    if not configured:
        what = "the master key is not at hand, so no key was unwrapped: " + "; ".join(missing)
        return (Result(check, "warning", what),)
    try:
        ring = masters.ring_of(store.read(lambda reading: reading.master_keys()), configured)
    except KeybrokerError as error:
        return (Result(check, "wrong", error.detail),)
    return (_tried(check, lambda: store.read(lambda reading: unwrap_all(reading, ring))),)


def unwrap_all(reading: Reading, ring: Ring) -> str:
    """Unwrap everything that is wrapped; return in words how much that was.

    Raises:
        KeybrokerError: CORRUPT for the first that does not open.
    """
    counts = dict.fromkeys(("add-on keys", "passphrases", "header copies", "recovery ciphertexts"), 0)
    for addon in reading.addons():
        rows = reading.addon_keys(addon.name)
        for row in rows:
            ring.unwrap(row.wrapped, addon_key_context(row.addon, row.generation))
        counts["add-on keys"] += len(rows)
        keys = AddonKeys(ring, rows)
        for volume in reading.volumes(addon.name):
            for version, wrapped in volume.wrapped.items():
                keys.unwrap(wrapped, passphrase_context(volume.volume, version))
                kept = reading.recovery(volume.volume.id, version)
                if kept is not None:
                    keys.unwrap(kept.wrapped, recovery_context(volume.volume, version))
                    counts["recovery ciphertexts"] += 1
            counts["passphrases"] += len(volume.wrapped)
            for copy in reading.headers(volume.volume.id):
                keys.unwrap(copy.wrapped, header_context(volume.volume, copy.number))
                counts["header copies"] += 1
    signer, recovery = reading.signer(), reading.recovery_key()
    if signer is not None:
        ring.unwrap(signer.wrapped, STATEMENT_KEY)
    if recovery is not None:
        ring.unwrap(recovery.wrapped, recovery_key_context(recovery.number))
    return "unwrapped: " + ", ".join(f"{count} {what}" for what, count in counts.items())
