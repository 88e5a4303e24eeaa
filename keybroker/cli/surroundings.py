"""What ``keybroker check`` says of the machine: clock, addresses, names and room; a cold start may lack each.

A broker starts without names and without its address, so these are warnings. A clock that cannot be right and
a disk that is full are wrong.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Final

from cryptography import x509

from keybroker import sockets
from keybroker.cli.finding import Finding
from keybroker.config import Settings
from keybroker.wire.problems import Problem

MIB: Final = 1 << 20
LITTLE_BYTES: Final = 512 * MIB
NONE_BYTES: Final = 32 * MIB
"""With less, a record may not be written, and then no key leaves."""

NAME_SECONDS: Final = 2.0


def surroundings(settings: Settings, now: datetime) -> tuple[Finding, ...]:
    """Look at the machine that a broker runs on.

    Args:
        now: UTC.
    """
    installation = settings.installation
    return (
        clock(now, _no_sooner_than(installation.database)),
        address([settings.listen_main.host, settings.listen_enrolment.host], sockets.is_here),
        *names(_names(installation.server_certificate), _resolves),
        *_room(installation.database.parent),
    )


def _no_sooner_than(database: Path) -> datetime:
    """Return a time that is over: of this program's installation, or of the database's last write."""
    times = [Path(__file__).stat().st_mtime]
    for path in (database, database.with_name(f"{database.name}-wal")):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue  # said elsewhere
    return datetime.fromtimestamp(max(times), UTC)


def clock(now: datetime, least: datetime) -> Finding:
    """Judge the clock.

    Args:
        least: it cannot be before that.
    """
    if now < least:
        said = f"says {now:%F %T} UTC, and cannot be before {least:%F %T} UTC"
        return Finding(
            "clock", "wrong", said, "timedatectl, or a time server that answers", Problem.UNAVAILABLE
        )
    return Finding("clock", "good", "not before what is known to be over")


def address(hosts: Sequence[str], is_here: Callable[[str], bool]) -> Finding:
    """Judge whether this machine has the addresses that are listened on.

    Args:
        hosts: numeric.
    """
    away = [host for host in dict.fromkeys(hosts) if not is_here(host)]
    if away:
        said = f"{', '.join(away)}: this machine has no such address yet; it is served once it has"
        return Finding("address", "warning", said, "ip -brief address")
    return Finding("address", "good", ", ".join(dict.fromkeys(hosts)))


def names(wanted: Sequence[str], resolves: Callable[[str], bool]) -> Iterator[Finding]:
    """Judge the names of the server's certificate, by which VMs may know this broker.

    Args:
        resolves: says whether a name is known here; it may take its time.
    """
    answers: Queue[tuple[str, bool]] = Queue()
    for name in wanted:
        # A daemon: a name server that never answers holds up nobody, this process's end neither.
        Thread(target=lambda name=name: answers.put((name, resolves(name))), daemon=True).start()
    known: set[str] = set()
    try:
        for _ in wanted:
            name, found = answers.get(timeout=NAME_SECONDS)
            known |= {name} if found else set()
    except Empty:
        pass
    away = [name for name in wanted if name not in known]
    if away:
        said = f"{', '.join(away)}: not known here; the broker looks up no name, but VMs and operators may"
        yield Finding("name", "warning", said, f"getent hosts {away[0]}")
    elif wanted:
        yield Finding("name", "good", ", ".join(wanted))


def _names(certificate: Path) -> list[str]:
    try:
        read = x509.load_pem_x509_certificate(certificate.read_bytes())
        found = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []  # said of the certificate
    return [name for name in found.get_values_for_type(x509.DNSName) if name != "localhost"]


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
    except OSError:
        return False


def _room(directory: Path) -> Iterator[Finding]:
    try:
        free = shutil.disk_usage(directory).free
    except OSError:
        return  # said of the database
    yield room(directory, free)


def room(directory: Path, free_bytes: int) -> Finding:
    """Judge how much can still be written where the database is."""
    said = f"{directory}: {free_bytes // MIB} MiB are free"
    if free_bytes < NONE_BYTES:
        return Finding(
            "disk space", "wrong", f"{said}, and no key leaves without a record", "df", Problem.UNAVAILABLE
        )
    if free_bytes < LITTLE_BYTES:
        return Finding("disk space", "warning", said, "df")
    return Finding("disk space", "good", f"{directory}: enough is free")
