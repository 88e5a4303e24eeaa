"""Certificates whose end has come, made as if this broker had issued them that long ago."""

from __future__ import annotations

import datetime as dt
import sqlite3
from contextlib import closing
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from keybroker.ca import spki_digest
from tests.tls.forging import Files, issue
from tests.tls.running import Broker


def ended(
    broker: Broker, host: str, directory: Path, key: ec.EllipticCurvePrivateKey, *, days: float
) -> Files:
    """Give a host a certificate for ``key`` that ended so many days ago, and make it the newest on record."""
    files = issue(
        directory,
        broker.signer,
        uris=[f"spiffe://test.internal/host/{host}"],
        begins=dt.timedelta(days=-days - 90),
        ends=dt.timedelta(days=-days),
        common=f"{host}-{days}",
        key=key,
    )
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    begins, ends = (
        f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"
        for moment in (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    )
    row = (
        certificate.fingerprint(hashes.SHA256()).hex(), f"{certificate.serial_number:x}", host,
        spki_digest(key.public_key()), begins, ends, begins, files.certificate.read_text(),
    )  # fmt: skip
    with closing(sqlite3.connect(broker.database, timeout=10)) as database, database:
        # what it got when it enrolled was before that
        database.execute(
            "UPDATE certificates SET issued = '2020-01-01T00:00:00.000000Z' WHERE host = ?", (host,)
        )
        database.execute(
            "INSERT INTO certificates (fingerprint, serial, host, spki, not_before, not_after, issued, pem)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            row,
        )
    return files
