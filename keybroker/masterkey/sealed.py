"""A master key in shares: sealed until enough of them were given; how ``shares:`` wraps after that."""

from __future__ import annotations

import threading
from typing import Final

from keybroker.envelope import Context
from keybroker.masterkey.local import LocalMasterKey
from keybroker.masterkey.provider import MasterKey
from keybroker.masterkey.shares import Share, ShareSet
from keybroker.masterkey.splitting import combine
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

RETRY_SECONDS: Final = 15
"""What whoever needs a sealed key is told: holders have to be found first."""


class SharesMasterKey:
    """Collects shares, and wraps once it is open. Shares are in this object alone, and gone once it is open.

    Args:
        shares: which key, and how many shares it takes.
    """

    def __init__(self, shares: ShareSet) -> None:
        self.set = shares
        self.lock = threading.Lock()
        self._given: dict[int, Share] = {}
        self._key: LocalMasterKey | None = None

    @property
    def identity(self) -> str:
        """Return its name, 32 hex digits; the URI says it before the key is there."""
        return self.set.identity

    @property
    def is_sealed(self) -> bool:
        """Say whether shares are missing."""
        return self._key is None

    @property
    def given(self) -> int:
        """Return how many shares are there; none once it is open."""
        return len(self._given)

    def would_take(self, share: Share) -> tuple[dict[int, Share], LocalMasterKey | None]:
        """Return what would be there with one more share, and the key, if that makes enough.

        Shares that together give another key are all thrown away: which of them is wrong nobody can say.

        Raises:
            KeybrokerError: CONFLICT for a share that is of another key, of another splitting of it than those
                before, or another than one of its number that was given before; for shares that give another
                key.
        """
        known = self.set
        if (share.of, share.threshold, share.count) != (known.id, known.threshold, known.count):
            raise KeybrokerError(Problem.CONFLICT, f"share {share.number}: is of another set")
        if any(other.set_id != share.set_id for other in self._given.values()):
            raise KeybrokerError(
                Problem.CONFLICT,
                f"share {share.number}: was made another time than those that were given before",
                hint="only shares that were printed together give the key; of others: restart the broker, and"
                " begin again",
            )
        before = self._given.get(share.number)
        if before is not None and before.value != share.value:
            raise KeybrokerError(
                Problem.CONFLICT,
                f"share {share.number}: another one of that number was given before",
                hint="one of the two is wrong: restart the broker, and begin again",
            )
        there = {**self._given, share.number: share}
        if len(there) < known.threshold:
            return there, None
        key = LocalMasterKey(combine(there.values()))
        if key.identity != known.identity:
            self._given = {}
            raise KeybrokerError(
                Problem.CONFLICT,
                f"shares {', '.join(map(str, sorted(there)))}: do not give the key, so one of them is wrong; "
                "all are forgotten",
                hint="begin again with other holders' shares",
            )
        return there, key

    def take(self, there: dict[int, Share], key: LocalMasterKey | None) -> None:
        """Have what ``would_take`` returned, once it is on record."""
        self._given = {} if key is not None else there
        self._key = key

    def wrap(self, key: Secret, context: Context, entropy: bytes) -> bytes:
        """Wrap a key as ``file:`` does.

        Raises:
            KeybrokerError: UNAVAILABLE while it is sealed.
        """
        return self._open().wrap(key, context, entropy)

    def unwrap(self, wrapped: bytes, context: Context) -> Secret:
        """Unwrap what ``wrap`` made with the same context.

        Raises:
            EnvelopeError: a blob that was changed, moved, or wrapped by another key.
            KeybrokerError: UNAVAILABLE while it is sealed.
        """
        return self._open().unwrap(wrapped, context)

    def _open(self) -> LocalMasterKey:
        if self._key is None:
            raise self.sealed()
        return self._key

    def sealed(self) -> KeybrokerError:
        """Return what whoever needs the key is told."""
        return KeybrokerError(
            Problem.UNAVAILABLE,
            f"broker: is sealed, with {self.given} of {self.set.threshold} shares",
            hint="keybroker unseal, on the broker's machine",
            retry_after=RETRY_SECONDS,
        )


def is_sealed(key: MasterKey) -> bool:
    """Say whether a master key waits for shares."""
    return isinstance(key, SharesMasterKey) and key.is_sealed
