"""Master keys: which of those that are configured are in use, and which one wraps.

The configuration says where master keys are; the table ``master_keys`` says which of them wraps and which
still have to unwrap. So no crash between a change of the one and of the other keeps a broker from starting: a
key that is configured and not in the table is in no use yet, or no longer.

| in the table | configured | a start |
|---|---|---|
| wraps, unwraps | yes, and its check value opens | good |
| wraps, unwraps | yes, and its check value does not open | refused |
| wraps, unwraps | no | refused: something may be wrapped by it |
| forgotten, or not at all | yes | good; the key is not on the ring |
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime

from keybroker.envelope import ENTROPY_BYTES, KEY_BYTES, EnvelopeError
from keybroker.masterkey import MasterKey, Ring
from keybroker.service.broker import ConfiguredKey
from keybroker.service.keys import KEY_CHECK
from keybroker.store.rows import MasterKeyRow
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

_log = logging.getLogger("keybroker.masters")


def new_master_key_row(
    key: MasterKey, uri: str, entropy: Callable[[int], bytes], now: datetime
) -> MasterKeyRow:
    """Return the row of a master key that is to wrap, with a check value that was seen to open.

    Raises:
        EnvelopeError: the key does not open what it wrapped.
    """
    known = Secret(bytes(KEY_BYTES))
    check = key.wrap(known, KEY_CHECK, entropy(ENTROPY_BYTES))
    row = MasterKeyRow(key.identity, uri, "wraps", check, now)
    check_key(row, key)
    return row


def check_key(row: MasterKeyRow, key: MasterKey) -> None:
    """Check that a key is the one whose row this is, by its check value.

    Raises:
        KeybrokerError: CONFIGURATION where it is not.
    """
    try:
        good = key.unwrap(row.key_check, KEY_CHECK) == Secret(bytes(KEY_BYTES))
        why = "is not what it must be"
    except EnvelopeError as error:
        good, why = False, f"does not open: {error.detail}"
    if not good:
        raise KeybrokerError(Problem.CONFIGURATION, f"master key {row.identity}: its key check value {why}")


def ring_of(known: Iterable[MasterKeyRow], configured: tuple[ConfiguredKey, ...]) -> Ring:
    """Put the ring together, once each key is found to be the one that the table speaks of.

    Raises:
        KeybrokerError: CONFIGURATION for a key that is missing or another, or a table without any.
    """
    live = [row for row in known if row.state != "forgotten"]
    wraps = [row.identity for row in live if row.state == "wraps"]
    if len(wraps) != 1:
        raise KeybrokerError(Problem.CONFIGURATION, "database: names no master key: an init was cut short")
    there = {one.key.identity: one for one in configured}
    for row in live:
        if row.identity not in there:
            raise _missing(row, configured)
        check_key(row, there[row.identity].key)
    unused = sorted(there.keys() - {row.identity for row in live})
    for identity in unused:
        _log.warning("master key %s (%s): is configured and not in use", there[identity].uri, identity)
    return Ring((there[row.identity].key for row in live), wraps[0])


def _missing(row: MasterKeyRow, configured: tuple[ConfiguredKey, ...]) -> KeybrokerError:
    there = ", ".join(f"{one.uri} is {one.key.identity}" for one in configured)
    was = f", which was {row.uri}," if row.uri else ""
    return KeybrokerError(
        Problem.CONFIGURATION,
        f"master key {row.identity}{was} is not configured, and the database needs it: {there}",
        hint="put its URI back into master_key, and the key where that says, from your copy if need be",
    )
