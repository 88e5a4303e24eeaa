"""What an outside CA is to sign: parts of ``Reading`` and ``Writing``, and of what is behind them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from sqlalchemy import Connection, Row, delete, insert, select

from keybroker.store.rows import from_text, to_text
from keybroker.store.signingtables import SIGNING_REQUESTS
from keybroker.store.tables import HOSTS, OPERATORS
from keybroker.wire.names import HostId

_ALL: Final = (
    select(SIGNING_REQUESTS)
    .select_from(
        SIGNING_REQUESTS.outerjoin(HOSTS, SIGNING_REQUESTS.c.host == HOSTS.c.id).outerjoin(
            OPERATORS, SIGNING_REQUESTS.c.operator == OPERATORS.c.name
        )
    )
    .where(HOSTS.c.revoked.is_(None), OPERATORS.c.revoked.is_(None))
    .order_by(SIGNING_REQUESTS.c.asked, SIGNING_REQUESTS.c.spki)
)


@dataclass(frozen=True, slots=True)
class SigningRow:
    """A signing request that waits, of a host or an operator.

    Attributes:
        spki: SHA-256 of its public key, hex; a key waits for one of them.
        csr: PEM.
        token: hash of the enrolment token that was spent on it; None for a renewal.
    """

    spki: str
    host: HostId | None
    operator: str | None
    csr: str
    asked: datetime
    token: str | None = None


class SigningReading(Protocol):
    """What is read."""

    def signings(self) -> list[SigningRow]:
        """Return the requests that wait of those who are not turned away, oldest first."""
        ...

    def signing(self, *, spki: str | None = None, token: str | None = None) -> SigningRow | None:
        """Return the request that waits for a key, or that a token was spent on."""
        ...


class SigningWriting(SigningReading, Protocol):
    """What is written."""

    def put_signing(self, row: SigningRow, most: int) -> None:
        """Keep a request, in place of the oldest of the same host or operator where that has so many."""
        ...

    def end_signing(self, spki: str) -> None:
        """Let a request wait no more."""
        ...


class SqlSigningReading:
    """``SigningReading`` on one connection."""

    _connection: Connection

    def signings(self) -> list[SigningRow]:
        """Return the requests that wait of those who are not turned away, oldest first."""
        return [_row(row) for row in self._connection.execute(_ALL)]

    def signing(self, *, spki: str | None = None, token: str | None = None) -> SigningRow | None:
        """Return the request that waits for a key, or that a token was spent on."""
        table = SIGNING_REQUESTS.c
        which = table.spki == spki if token is None else table.token == token
        row = self._connection.execute(select(SIGNING_REQUESTS).where(which)).one_or_none()
        return None if row is None else _row(row)


class SqlSigningWriting(SqlSigningReading):
    """``SigningWriting`` on one connection."""

    def put_signing(self, row: SigningRow, most: int) -> None:
        """Keep a request, in place of the oldest of the same host or operator where that has so many."""
        table = SIGNING_REQUESTS.c
        whose = table.host == row.host if row.host is not None else table.operator == row.operator
        older = select(table.spki).where(whose).order_by(table.asked.desc(), table.spki)
        for spki in self._connection.execute(older).scalars().all()[most - 1 :]:
            self.end_signing(spki)
        columns = {"spki": row.spki, "host": row.host, "operator": row.operator, "csr": row.csr}
        self._connection.execute(
            insert(SIGNING_REQUESTS), columns | {"asked": to_text(row.asked), "token": row.token}
        )

    def end_signing(self, spki: str) -> None:
        """Let a request wait no more."""
        self._connection.execute(delete(SIGNING_REQUESTS).where(SIGNING_REQUESTS.c.spki == spki))


def _row(row: Row[Any]) -> SigningRow:
    return SigningRow(row.spki, row.host, row.operator, row.csr, from_text(row.asked), row.token)
