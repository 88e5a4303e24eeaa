"""What waits for an outside CA to sign it: whoever asked asks again, with the same key, until it is here.

docs/decisions/0021; ``service.courier`` takes the requests out and the certificates in.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, TypeVar

from keybroker.csr import RequestedKey
from keybroker.outside import Wanted, check_request, names_anyone
from keybroker.store import Writing
from keybroker.store.signings import SigningRow
from keybroker.wire.names import HostId, Identity
from keybroker.wire.problems import KeybrokerError, Problem

AGAIN_SECONDS: Final = 60
MOST: Final = 4
"""Requests of one host or operator that wait at a time."""

T = TypeVar("T")


def keep(
    writing: Writing, identity: Identity, requested: RequestedKey, now: datetime, token: str | None = None
) -> bool:
    """Have a request wait for the outside CA.

    Args:
        token: hash of the enrolment token that is spent on it.

    Returns:
        False where it waits already: that is on record, and is not again.

    Raises:
        KeybrokerError: MALFORMED for a request that asks for somebody else's names; CONFLICT where its key is
            in somebody else's.
    """
    host = HostId(identity.name) if identity.kind == "host" else None
    operator = identity.name if identity.kind == "operator" else None
    check_request(requested.pem, Wanted.of(requested.spki, identity))
    known = writing.signing(spki=requested.spki)
    if known is not None:
        if (known.host, known.operator) != (host, operator):
            raise KeybrokerError(Problem.CONFLICT, "csr: its key is in another request that waits")
        if not names_anyone(known.csr) and names_anyone(requested.pem):
            # the same key, and a CA that reads no more than requests knows whose it is
            writing.end_signing(known.spki)
            writing.put_signing(SigningRow(known.spki, host, operator, requested.pem, now, known.token), MOST)
        return False
    writing.put_signing(SigningRow(requested.spki, host, operator, requested.pem, now, token), MOST)
    return True


def waits(identity: Identity | None = None) -> KeybrokerError:
    """Return what whoever asks is told meanwhile; a host that enrols learns its name by it."""
    return KeybrokerError(
        Problem.PENDING,
        "certificate: the CA is an outside one, and has not signed it yet",
        hint="at the broker: keybroker ca requests --to DIR; then ask again with the same key",
        retry_after=AGAIN_SECONDS,
        identity=None if identity is None else identity.uri,
    )


def given(found: T | KeybrokerError) -> T:
    """Return what was found, or raise the error that it is: one that leaves the transaction standing."""
    if isinstance(found, KeybrokerError):
        raise found
    return found
