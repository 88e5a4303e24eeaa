"""What ``keybroker check`` looks at, one finding a thing."""

from __future__ import annotations

import os
import pwd
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from keybroker.cli.finding import Finding, wrong
from keybroker.cli.surroundings import surroundings
from keybroker.config import DEFAULT_DIRECTORY, FILE_NAME, Settings, load
from keybroker.masterkey import MasterKey, credentials_of, is_sealed
from keybroker.service import trail
from keybroker.service.broker import Broker
from keybroker.service.destruction import pending
from keybroker.service.installation import Installation, open_broker
from keybroker.service.rollover import waiting
from keybroker.service.roster import managers
from keybroker.service.setback import Standing, standing
from keybroker.verdict import Verdict
from keybroker.web import tls
from keybroker.wire.problems import KeybrokerError, Problem

_SOON: Final = timedelta(days=30)
_SERVER_SOON: Final = timedelta(days=60)
_CA_SOON: Final = timedelta(days=365)
"""A new CA has to reach every host before the old one ends, and a host may be off for long."""


def examine(config: Path, credentials_directory: Path | None, now: datetime) -> tuple[Finding, ...]:
    """Look at everything that the broker relies on, without changing any of it.

    Args:
        now: UTC.
    """
    try:
        settings = load(config, credentials_directory=credentials_directory)
    except KeybrokerError as error:
        return (wrong("configuration", error),)
    installation = settings.installation
    operators = sorted(settings.file.parent.glob("operators/*.crt"))
    ca_hint, server_hint = "keybroker ca rotate --help", "keybroker ca renew-server"
    if installation.outside_ca:
        ca_hint, server_hint = "whoever keeps that CA has to know", "keybroker ca requests --server --help"
    return (
        Finding("configuration", "good", str(config)),
        *_database(installation, now),
        _tried("TLS", lambda: _listeners(settings)),
        _certificate("CA certificate", installation.ca_certificate, now, _CA_SOON, ca_hint),
        _certificate(
            "server certificate",
            installation.server_certificate,
            now,
            _SERVER_SOON,
            server_hint,
        ),
        *(
            _certificate(f"operator {path.stem}", path, now, _SOON, "keybroker operator renew")
            for path in operators
        ),
        *surroundings(settings, now),
    )


def _tried(check: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(check, "good", look())
    except KeybrokerError as error:
        return wrong(check, error)


def _database(installation: Installation, now: datetime) -> tuple[Finding, ...]:
    """Open the installation as ``serve`` does, which checks modes, owners, master key and schema."""
    check = "files and database"
    try:
        broker = open_broker(installation, clock=lambda: now, entropy=secrets.token_bytes)
    except KeybrokerError as error:
        found = wrong(check, error)
        return (replace(found, hint=in_unit(installation, "check") or found.hint),)
    try:
        return (
            Finding(check, "good", "modes, owners, master key and schema are right"),
            *_sealed(broker.masterkey.keys.values()),
            _tried("audit trail", lambda: _trail(trail.proofread(broker.store))),
            *_restored(broker.store.read(standing)),
            *_pending(broker.store.read(pending)),
            _managers(broker.store.read(lambda reading: managers(reading, now))),
            *_trusted(broker, now),
        )
    finally:
        broker.close()


def _sealed(keys: Iterable[MasterKey]) -> tuple[Finding, ...]:
    """Say of each master key in shares that it was not looked at: only the running broker may have it."""
    return tuple(
        Finding("master key", "good", f"{key.identity} is in shares, and proven when the broker is unsealed")
        for key in keys
        if is_sealed(key)
    )


def _trusted(broker: Broker, now: datetime) -> tuple[Finding, ...]:
    """Say so while two CAs are trusted, or were to be."""
    authority = broker.authority
    if authority.key is None:
        waiting_here = len(broker.store.read(lambda reading: reading.signings()))
        if not waiting_here:
            return ()
        what = f"an outside one; requests that wait for it: {waiting_here}"
        return (Finding("CA", "warning", what, "keybroker ca requests --to DIRECTORY"),)
    if authority.following is not None:
        return (Finding("CA", "warning", "its rotation was cut short", "keybroker ca rotate: it goes on"),)
    if authority.before is None:
        return ()
    left = broker.store.read(lambda reading: waiting(reading, authority, now, broker.settings.grace))
    what = f"two are trusted; without a certificate of the new one: {len(left)}"
    return (Finding("CA", "warning", what, "keybroker ca show" if left else "keybroker ca retire"),)


def _restored(found: Standing) -> tuple[Finding, ...]:
    """Say so while a restored database is behind some of its hosts, or may be."""
    if not found.is_open:
        return ()
    row = found.restore
    since = f"restored {row.at:%F %T}Z" if row is not None and row.finished is None else "behind its hosts"
    what = f"{since}; volumes of which nothing is minted or destroyed: {len(found.left)}"
    return (Finding("restore", "warning", what, "keybroker restore --check"),)


def _pending(found: dict[str, datetime]) -> tuple[Finding, ...]:
    """Say what is to be destroyed, and when, the next one first: here somebody may see it in time."""
    if not found:
        return ()
    words = [f"{what} after {due:%F %T}Z" for what, due in sorted(found.items(), key=lambda one: one[1])]
    more = f", and {len(words) - 5} more" if len(words) > 5 else ""
    told = f"to be destroyed: {', '.join(words[:5])}{more}"
    return (Finding("deletions", "warning", told, "keybroker volume undelete, keybroker addon undelete"),)


def in_unit(installation: Installation, verb: str) -> str | None:
    """Return the command that runs a verb where its credentials are; None where none are missing.

    Only systemd has them, and gives them to the user that a unit runs as: the owner that we have become.

    Args:
        verb: with its arguments, but for ``--config``.
    """
    credentials = [name for uri in installation.master_keys for name in credentials_of(uri)]
    if not credentials or installation.credentials_directory is not None:
        return None
    configuration = installation.configuration
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    loaded = " ".join(f"-p LoadCredentialEncrypted={name}" for name in credentials)
    unit = f"systemd-run --pipe --wait -q -p User={user} {loaded}"
    usual = configuration in (None, DEFAULT_DIRECTORY / FILE_NAME)
    return f"{unit} keybroker {verb}{'' if usual else f' --config {configuration}'}"


def _managers(found: list[str]) -> Finding:
    """Say who can manage operators. Nobody is only a warning: the hosts get their keys all the same."""
    if found:
        return Finding("operators", "good", f"can manage operators: {', '.join(found)}")
    return Finding("operators", "warning", "nobody can manage operators", "keybroker operator recover --help")


def _trail(verdict: Verdict) -> str:
    signers = ", ".join(signer[:16] for signer in verdict.signers) or "none yet"
    hashes = ", ".join(head.hash[:16] for head in verdict.heads)
    whole = (
        "the chain is whole" if len(verdict.chains) == 1 else f"the {len(verdict.chains)} chains are whole"
    )
    return (
        f"records: {verdict.records}, checkpoints: {verdict.checkpoints}, and {whole};"
        f" the last hash is {hashes}, the signer {signers}"
    )


def _listeners(settings: Settings) -> str:
    """Prove both contexts, as ``serve`` does before it listens."""
    tls.main_context(settings.installation)
    tls.enrolment_context(settings.installation)
    return f"main on {settings.listen_main}, enrolment on {settings.listen_enrolment}"


def _certificate(check: str, path: Path, now: datetime, soon: timedelta, hint: str) -> Finding:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return Finding(check, "wrong", f"{path}: is not a certificate", problem=Problem.CONFIGURATION)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    good = f"good until {ends:%F}"
    if now < begins:
        return Finding(
            check, "wrong", f"{path}: begins on {begins:%F %T} UTC", "timedatectl", Problem.CERTIFICATE
        )
    if now > ends:
        return Finding(check, "wrong", f"{path}: ended on {ends:%F}", hint, Problem.CERTIFICATE)
    if ends - now < soon:
        return Finding(check, "warning", f"{good}, which is soon", hint)
    return Finding(check, "good", good)
