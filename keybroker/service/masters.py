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
| wraps, unwraps | yes, in shares | good, and sealed; not waited for once it wraps nothing |
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from keybroker.audit import rfc3339
from keybroker.envelope import ENTROPY_BYTES, KEY_BYTES, EnvelopeError
from keybroker.masterkey import MasterKey, Ring, is_sealed
from keybroker.policy import Peer
from keybroker.service.admission import Caller, consult, perform
from keybroker.service.broker import Broker, ConfiguredKey
from keybroker.service.directory import lasting_addon
from keybroker.service.keys import KEY_CHECK
from keybroker.service.rewrap import Left, left, renew
from keybroker.store import Reading, Writing
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
        if not is_sealed(
            there[row.identity].key
        ):  # else it is checked once it is open, before it does anything
            check_key(row, there[row.identity].key)
    live = [row for row in live if not _is_idle(row, there[row.identity].key)]
    unused = sorted(there.keys() - {row.identity for row in live})
    for identity in unused:
        _log.warning("master key %s (%s): is configured and not in use", there[identity].uri, identity)
    return Ring((there[row.identity].key for row in live), wraps[0])


def _is_idle(row: MasterKeyRow, key: MasterKey) -> bool:
    """Say whether a sealed key need not be waited for: nothing is wrapped by it any more."""
    return is_sealed(key) and row.state != "wraps" and row.emptied is not None


def _missing(row: MasterKeyRow, configured: tuple[ConfiguredKey, ...]) -> KeybrokerError:
    there = ", ".join(f"{one.uri} is {one.key.identity}" for one in configured)
    was = f", which was {row.uri}," if row.uri else ""
    return KeybrokerError(
        Problem.CONFIGURATION,
        f"master key {row.identity}{was} is not configured, and the database needs it: {there}",
        hint="put its URI back into master_key, and the key where that says, from your copy if need be",
    )


@dataclass(frozen=True, slots=True)
class MastersView:
    """What operators are shown of the master keys, and of what is still to be rewrapped.

    Attributes:
        rows: each master key, the newest last, and how many keys it wraps.
    """

    rows: tuple[tuple[MasterKeyRow, int], ...]
    left: Left

    def as_json(self) -> dict[str, Any]:
        """Return the wire form; times are RFC 3339 in UTC."""
        return {
            "keys": [
                {
                    "identity": row.identity,
                    "uri": row.uri or None,
                    "state": row.state,
                    "wraps": count,
                    "renews": row.renews,
                    "created": rfc3339(row.created),
                    "emptied": row.emptied and rfc3339(row.emptied),
                }
                for row, count in self.rows
            ],
            "rewrap": {
                "keys_left": self.left.by_masters,
                "keys": sum(count for _row, count in self.rows),
                "addons_left": self.left.renewals,
                "records_left": self.left.records,
                "records": self.left.all_records,
                "done": not self.left.anything,
            },
        }


def _view(reading: Reading) -> MastersView:
    counts = reading.wrapped_by_masters()
    rows = tuple((row, counts.get(row.identity, 0)) for row in reading.master_keys())
    return MastersView(rows, left(reading))


def show(broker: Broker, peer: Peer) -> MastersView:
    """Return the master keys, and what is still to be rewrapped.

    Raises:
        KeybrokerError: NOT_ALLOWED, NO_IDENTITY, REVOKED or CERTIFICATE for the peer; UNAVAILABLE.
    """
    return consult(broker, peer, "master.read", _view)


def rotate(broker: Broker, peer: Peer, uri: str, *, compromised: bool = False) -> MastersView:
    """Have a master key wrap from here on; what others wrap is rewrapped in the background.

    Args:
        uri: one that the configuration names at this moment.
        compromised: whether the one before is known to somebody, and with it every add-on's key: then those
            are renewed too, and every record rewrapped.

    Raises:
        KeybrokerError: as ``show`` for the peer; UNKNOWN for a URI that is not configured; CONFLICT for a
            key that was forgotten; CONFIGURATION where one that is needed is missing.
    """
    consult(broker, peer, "master.rotate", lambda _reading: None)
    # before the transaction: a provider may be slow, and a writer that waits is everybody's wait
    configured = broker.configured()
    chosen = next((one for one in configured if one.uri == uri), None)
    row = None if chosen is None else new_master_key_row(chosen.key, uri, broker.entropy, broker.clock())

    def work(writing: Writing, caller: Caller) -> MastersView:
        if row is None:
            raise KeybrokerError(
                Problem.UNKNOWN, "master key: the broker's configuration does not name it", hint=_LIST_HINT
            )
        before = {one.identity: one for one in writing.master_keys()}
        known = before.get(row.identity)
        wanted = replace(known, state="wraps", emptied=None) if known else row
        wanted = replace(wanted, uri=uri, renews=wanted.renews or compromised)
        if known is not None and known.state == "forgotten":
            raise KeybrokerError(
                Problem.CONFLICT, f"master key {row.identity}: was forgotten; take another key"
            )
        if wanted != known:
            writing.put_master_key(wanted)
            writing.append(caller.about("done", master=row.identity, uri=uri, compromised=wanted.renews))
        return _view(writing)

    view = perform(broker, peer, "master.rotate", work)
    _take(broker, configured)
    return view


_LIST_HINT = "put its URI into master_key in keybroker.toml"


def forget(broker: Broker, peer: Peer, identity: str, *, backups_gone: bool) -> MastersView:
    """Forget a master key that wraps nothing any more.

    Args:
        backups_gone: whether no backup of the database is needed that was made while it wrapped something:
            such a backup opens with that key alone.

    Raises:
        KeybrokerError: as ``show`` for the peer; UNKNOWN; CONFLICT while it wraps something, or may be needed
            for a backup.
    """

    def work(writing: Writing, caller: Caller) -> MastersView:
        view = _view(writing)
        found = next((pair for pair in view.rows if pair[0].identity == identity), None)
        if found is None:
            raise KeybrokerError(Problem.UNKNOWN, "master key: there is none of that identity")
        row, count = found
        if row.state == "forgotten":
            return view
        refusal = _why_not_forget(row, count, backups_gone=backups_gone)
        if refusal is not None:
            raise refusal
        writing.put_master_key(replace(row, state="forgotten"))
        writing.append(caller.about("done", master=identity, uri=row.uri))
        return _view(writing)

    view = perform(broker, peer, "master.forget", work)
    _take(broker, ())
    return view


def _why_not_forget(row: MasterKeyRow, count: int, *, backups_gone: bool) -> KeybrokerError | None:
    """Say why a master key has to be kept; None where it need not."""
    name = f"master key {row.identity}"
    if row.state == "wraps":
        return KeybrokerError(
            Problem.CONFLICT, f"{name}: is the one that wraps", hint="keybroker master rotate"
        )
    if count:
        return KeybrokerError(
            Problem.CONFLICT,
            f"{name}: still wraps {count} keys; they are rewrapped in the background",
            hint="keybroker master list --wait",
        )
    if row.emptied is None:
        return KeybrokerError(
            Problem.CONFLICT, f"{name}: the rewrapping is not finished", hint="keybroker master list --wait"
        )
    if not backups_gone:
        return KeybrokerError(
            Problem.CONFLICT,
            f"{name}: a backup of the database from before {rfc3339(row.emptied)} opens with it alone",
            hint=f"once no such backup is kept: keybroker master forget {row.identity} --backups-gone",
        )
    return None


def _take(broker: Broker, configured: tuple[ConfiguredKey, ...]) -> None:
    """Put the ring together anew, as the table has it; keys that were on it stay the objects they were."""
    rows = broker.store.read(lambda reading: reading.master_keys())
    held = broker.masterkey.keys
    fresh = {one.key.identity: one.key for one in configured}
    live = [row for row in rows if row.state != "forgotten"]
    wraps = next(row.identity for row in live if row.state == "wraps")
    keys = ((row, held.get(row.identity) or fresh.get(row.identity)) for row in live)
    broker.masterkey.replace((key for row, key in keys if key is not None and not _is_idle(row, key)), wraps)


def keep_up(broker: Broker) -> bool:
    """Take over what another broker on the database has changed of the master keys.

    Returns:
        Whether anything was.

    Raises:
        KeybrokerError: CONFIGURATION where a key that is needed is not configured here, or is another one;
            UNAVAILABLE.
    """
    rows = broker.store.read(lambda reading: reading.master_keys())
    held = broker.masterkey.keys
    live = {row.identity: row for row in rows if row.state != "forgotten"}
    wraps = next(row.identity for row in live.values() if row.state == "wraps")
    lacks = [row for row in live.values() if row.identity not in held and row.emptied is None]
    if not lacks and wraps == broker.masterkey.identity and held.keys() <= live.keys():
        return False
    configured = broker.configured() if lacks or wraps not in held else ()
    there = {one.key.identity: one.key for one in configured}
    for row in lacks:
        if row.identity not in there:
            raise _missing(row, configured)
        if not is_sealed(there[row.identity]):
            check_key(row, there[row.identity])
    _take(broker, configured)
    _log.info("master keys: %s wraps, as another broker was told", wraps)
    return True


def look_again(broker: Broker) -> None:
    """Do as ``keep_up``, for whoever has just met a key that is not here; what goes wrong is only said."""
    try:
        keep_up(broker)
    except KeybrokerError as error:
        for line in error.lines("master keys"):
            _log.error("%s", line)


def renew_addon(broker: Broker, peer: Peer, addon: str, generation: int) -> tuple[int, bool]:
    """Have an add-on's key be of a generation; its records are rewrapped in the background.

    Args:
        generation: the one that it has, which changes nothing, or the next.

    Returns:
        The generation, and whether it is new.

    Raises:
        KeybrokerError: as ``show`` for the peer; UNKNOWN; CONFLICT for any other generation.
    """

    def work(writing: Writing, caller: Caller) -> tuple[int, bool]:
        row = lasting_addon(writing, addon)
        newest = writing.addon_keys(row.name)[-1]
        if generation == newest.generation:
            return generation, False
        if generation != newest.generation + 1:
            raise KeybrokerError(
                Problem.CONFLICT, f"add-on {addon}: its key is of generation {newest.generation}"
            )
        made = renew(broker, writing, newest)
        writing.append(caller.about("done", addon=addon, generation=made.generation))
        return made.generation, True

    return perform(broker, peer, "addon.rekey", work)


def addon_generation(broker: Broker, peer: Peer, addon: str) -> int:
    """Return which generation an add-on's key is of (errors as ``renew_addon``)."""

    def work(reading: Reading) -> int:
        row = lasting_addon(reading, addon)
        return reading.addon_keys(row.name)[-1].generation

    return consult(broker, peer, "addon.read", work)
