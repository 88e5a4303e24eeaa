"""What a change of the CA has to know: parts of ``Reading`` and ``Writing``, and of what is behind them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Protocol

from sqlalchemy import Connection, insert, or_, select, update

from keybroker.store.rows import CertificateRow, to_text
from keybroker.store.signings import SigningReading, SigningWriting, SqlSigningReading, SqlSigningWriting
from keybroker.store.tables import CERTIFICATES, HOSTS, INSTALLATION, OPERATORS, SHOWN_CERTIFICATES
from keybroker.store.values import certificate_of

_SHOWN: Final = select(SHOWN_CERTIFICATES.c.fingerprint)
_WELCOME: Final = (
    select(CERTIFICATES)
    .select_from(
        CERTIFICATES.outerjoin(HOSTS, CERTIFICATES.c.host == HOSTS.c.id).outerjoin(
            OPERATORS, CERTIFICATES.c.operator == OPERATORS.c.name
        )
    )
    .where(HOSTS.c.revoked.is_(None), OPERATORS.c.revoked.is_(None))
    .where(or_(CERTIFICATES.c.operator.is_(None), CERTIFICATES.c.issued >= OPERATORS.c.since))
    .order_by(CERTIFICATES.c.issued, CERTIFICATES.c.fingerprint)
)


class TrustedReading(SigningReading, Protocol):
    """What is read."""

    def welcome_certificates(self, since: datetime) -> list[CertificateRow]:
        """Return the certificates of those who are not turned away that end after a moment, oldest first."""
        ...

    def shown_certificates(self, fingerprint: str | None = None) -> frozenset[str]:
        """Return the fingerprints of certificates that somebody has come with; of all, or of this one."""
        ...


class TrustedWriting(TrustedReading, SigningWriting, Protocol):
    """What is written."""

    def show_certificate(self, fingerprint: str, now: datetime) -> None:
        """Keep that somebody has come with a certificate, for the first time."""
        ...

    def set_ca(self, fingerprint: str) -> None:
        """Keep which CA issues."""
        ...


class SqlTrustedReading(SqlSigningReading):
    """``TrustedReading`` on one connection."""

    _connection: Connection

    def welcome_certificates(self, since: datetime) -> list[CertificateRow]:
        """Return the certificates of those who are not turned away that end after a moment, oldest first."""
        statement = _WELCOME.where(CERTIFICATES.c.not_after > to_text(since))
        return [certificate_of(row) for row in self._connection.execute(statement)]

    def shown_certificates(self, fingerprint: str | None = None) -> frozenset[str]:
        """Return the fingerprints of certificates that somebody has come with; of all, or of this one."""
        one = SHOWN_CERTIFICATES.c.fingerprint == fingerprint
        statement: Any = _SHOWN if fingerprint is None else _SHOWN.where(one)
        return frozenset(row.fingerprint for row in self._connection.execute(statement))


class SqlTrustedWriting(SqlTrustedReading, SqlSigningWriting):
    """``TrustedWriting`` on one connection."""

    def show_certificate(self, fingerprint: str, now: datetime) -> None:
        """Keep that somebody has come with a certificate, for the first time."""
        self._connection.execute(insert(SHOWN_CERTIFICATES), {"fingerprint": fingerprint, "at": to_text(now)})

    def set_ca(self, fingerprint: str) -> None:
        """Keep which CA issues."""
        self._connection.execute(update(INSTALLATION).values(ca_fingerprint=fingerprint))
