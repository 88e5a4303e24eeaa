"""Unsealing: shares of master keys are given one by one, each on record, until the keys are there.

Shares are in this process's memory alone: a broker that ends while it is being unsealed comes up with none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keybroker.audit import AuditEvent, Outcome
from keybroker.masterkey import SharesMasterKey
from keybroker.masterkey.shares import Share
from keybroker.service import masters
from keybroker.service.broker import Broker
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret


@dataclass(frozen=True, slots=True)
class KeyState:
    """One master key in shares.

    Attributes:
        given: shares that are there; of an open key, all that it takes.
        in_use: whether the broker waits for it.
    """

    identity: str
    threshold: int
    count: int
    given: int
    is_open: bool
    in_use: bool

    def as_json(self) -> dict[str, Any]:
        """Return the form on the socket, and of ``--json``."""
        return {
            "identity": self.identity,
            "threshold": self.threshold,
            "count": self.count,
            "given": self.given,
            "open": self.is_open,
            "in_use": self.in_use,
        }


def sealed(broker: Broker) -> KeybrokerError | None:
    """Return what whoever asks is told while a master key that is in use waits for shares; else None."""
    for key in broker.masterkey.keys.values():
        if isinstance(key, SharesMasterKey) and key.is_sealed:
            return key.sealed()
    return None


def states(broker: Broker) -> tuple[KeyState, ...]:
    """Return every master key in shares that the configuration names at this moment."""
    used = broker.masterkey.identities
    return tuple(
        KeyState(
            identity=key.identity,
            threshold=key.set.threshold,
            count=key.set.count,
            given=key.given if key.is_sealed else key.set.threshold,
            is_open=not key.is_sealed,
            in_use=key.identity in used,
        )
        for key in broker.shared()
    )


def give(broker: Broker, text: Secret, who: str) -> str:
    """Give one share; given again, it changes nothing.

    Args:
        text: as its holder has it.
        who: in words, for the record.

    Returns:
        Identity of the master key that it is of.

    Raises:
        KeybrokerError: MALFORMED for what is no share; UNKNOWN for a share of a key that is not configured;
            CONFLICT for one that does not fit those before; UNAVAILABLE where nothing can be put on record.
            All but the last are on record.
    """
    try:
        share = Share.parse(text)
        key = next((one for one in broker.shared() if one.set.id == share.of), None)
        if key is None:
            raise KeybrokerError(
                Problem.UNKNOWN,
                f"share {share.number}: is of a master key that the configuration does not name",
                hint="keybroker unseal --status",
            )
        _take(broker, key, share, who)
    except KeybrokerError as error:
        if error.problem is not Problem.UNAVAILABLE:
            _record(broker, "refused", problem=error.problem.slug, why=error.detail, who=who)
        raise
    return key.identity


def _take(broker: Broker, key: SharesMasterKey, share: Share, who: str) -> None:
    with key.lock:
        if not key.is_sealed:
            return
        before = key.given
        there, opened = key.would_take(share)
        if len(there) == before:
            return
        if opened is not None:
            for row in broker.store.read(lambda reading: reading.master_keys()):
                if row.identity == key.identity:
                    masters.check_key(row, opened)
        given = f"{len(there)} of {key.set.threshold}"
        # the record first: no key is here that nobody is known to have brought
        _record(broker, "done", master=key.identity, share=share.number, given=given, who=who)
        key.take(there, opened)


def _record(broker: Broker, outcome: Outcome, **detail: Any) -> None:
    event = AuditEvent(broker.clock(), "local", "", "local", "unseal", outcome, detail=detail)
    broker.store.write(lambda writing: writing.append(event))
