"""Splitting a master key into shares, and putting it together: Shamir's scheme, as PyCryptodome has it.

Its field is GF(2**128), so a key of 32 bytes is split as two halves of 16, each by a random polynomial of its
own: K-1 shares say nothing about either half, and so nothing about both.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Final

from keybroker.envelope import KEY_BYTES
from keybroker.masterkey.local import LocalMasterKey
from keybroker.masterkey.shares import SPLIT_BYTES, Share, ShareSet
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

_HALF: Final = KEY_BYTES // 2


def split(key: Secret, threshold: int, count: int) -> tuple[ShareSet, tuple[Share, ...]]:
    """Split a key into ``count`` shares, of which ``threshold`` give it back; each was seen to do so.

    Raises:
        KeybrokerError: INTERNAL where they do not give the key back.
    """
    from Crypto.Protocol.SecretSharing import Shamir

    name = secrets.token_bytes(SPLIT_BYTES)
    made = ShareSet(threshold, count, LocalMasterKey(key).identity)
    halves = [Shamir.split(threshold, count, half) for half in (key.reveal()[:_HALF], key.reveal()[_HALF:])]
    shares = tuple(
        Share(threshold, count, number, made.id + name, Secret(first + second))
        for (number, first), (_same, second) in zip(*halves, strict=True)
    )
    # each share in turn with those behind it: all lie on the polynomials that give the key
    for i in range(count):
        if combine([shares[(i + j) % count] for j in range(threshold)]) != key:
            raise KeybrokerError(Problem.INTERNAL, "shares: do not give the key back")
    return made, shares


def combine(shares: Iterable[Share]) -> Secret:
    """Return what so many shares give; whether that is the key, only its identity says.

    Args:
        shares: exactly as many as are needed, each with a number of its own.
    """
    from Crypto.Protocol.SecretSharing import Shamir

    given = [(share.number, share.value.reveal()) for share in shares]
    first = Shamir.combine([(number, value[:_HALF]) for number, value in given])
    second = Shamir.combine([(number, value[_HALF:]) for number, value in given])
    return Secret(first + second)
