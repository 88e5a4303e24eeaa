"""A host whose certificate ended long ago, though every clock is right: as if it had been off for months."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests.machine.broker import HostBroker
from tests.machine.vm import Machine
from tests.tls.forging import Signer

IDENTITY: Final = "/var/lib/keybroker-agent/identity"
ENDED_DAYS: Final = 60
LIFETIME_DAYS: Final = 90


@contextmanager
def certificate_ended(broker: HostBroker, machine: Machine, host: str) -> Iterator[None]:
    """Have the host's certificate be one that ended, at the broker only while the block runs.

    Args:
        machine: is on, and the host; it keeps that certificate.
    """
    present = x509.load_pem_x509_certificate(machine.run(f"cat {IDENTITY}/host.crt").encode())
    former = _aged(broker, present)
    pem = former.public_bytes(Encoding.PEM).decode()
    begins, ends = former.not_valid_before_utc, former.not_valid_after_utc
    about = json.loads(machine.run(f"cat {IDENTITY}/enrolment.json"))
    about |= {"not_before": int(begins.timestamp()), "not_after": int(ends.timestamp())}
    machine.run(f"cat >{IDENTITY}/host.crt <<'END'\n{pem}END")
    machine.run(f"cat >{IDENTITY}/enrolment.json <<'END'\n{json.dumps(about)}\nEND")

    fingerprint = former.fingerprint(hashes.SHA256()).hex()
    with closing(sqlite3.connect(broker.directory / "var/keybroker.db", timeout=10)) as database:
        (spki, issued, now) = database.execute(
            "SELECT spki, issued, fingerprint FROM certificates WHERE host = ? ORDER BY issued DESC", (host,)
        ).fetchone()
        row = (
            fingerprint,
            f"{former.serial_number:x}",
            host,
            spki,
            _moment(begins),
            _moment(ends),
            issued,
            pem,
        )
        with database:
            database.execute(
                "UPDATE certificates SET issued = ? WHERE fingerprint = ?", (_moment(begins), now)
            )
            database.execute(
                "INSERT INTO certificates"
                " (fingerprint, serial, host, spki, not_before, not_after, issued, pem)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        try:
            yield
        finally:
            with database:
                database.execute("DELETE FROM certificates WHERE fingerprint = ?", (fingerprint,))
                database.execute("UPDATE certificates SET issued = ? WHERE fingerprint = ?", (issued, now))


def _aged(broker: HostBroker, present: x509.Certificate) -> x509.Certificate:
    """Return that certificate as the broker's CA would have issued it long ago."""
    signer = Signer.load(broker.directory / "etc/ca.crt", broker.directory / "etc/ca.key")
    ends = dt.datetime.now(dt.UTC) - dt.timedelta(days=ENDED_DAYS)
    builder = (
        x509.CertificateBuilder()
        .subject_name(present.subject)
        .issuer_name(present.issuer)
        .public_key(present.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends - dt.timedelta(days=LIFETIME_DAYS))
        .not_valid_after(ends)
    )
    for extension in present.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(signer.key, hashes.SHA256())


def _moment(when: dt.datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S.%f}Z"
