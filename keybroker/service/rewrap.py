"""Rewrapping: what the newest key does not wrap yet is wrapped by it, while the broker serves.

Nothing is noted anywhere: what is left follows from the rows themselves, so that it may be cut at any moment
and run again. In this order, each a batch at a time:

| what | until |
|---|---|
| if that one renews: a new key for each add-on, and for statements | each was made under the one that wraps |
| what another master key wraps | only the one that wraps is named anywhere |
| records that an older key of their add-on wraps | only its newest is named |
| older keys of add-ons go | each add-on has one |
| a master key that wraps nothing is noted as emptied | – |

Of each row: unwrap, wrap, unwrap again and compare; then a compare-and-set on what was read, with its audit
record in the same transaction. A row that does not open is left as it is, and said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Protocol

from keybroker.audit import AuditEvent
from keybroker.envelope import ENTROPY_BYTES, Context, EnvelopeError, Failure, Purpose, wrapped_by
from keybroker.service.broker import Broker
from keybroker.service.keys import (
    STATEMENT_KEY,
    AddonKeys,
    addon_key_context,
    new_addon_key,
    recovery_key_context,
)
from keybroker.service.statements import new_signer
from keybroker.store import Reading, Writing
from keybroker.store.rows import AddonKeyRow, MasterKeyRow, WrappedRow
from keybroker.wire.names import AddonName

BATCH: Final = 128
"""Rows in one transaction."""

BY_MASTER: Final = ("addon_keys", "signers", "recovery_keys")
"""The tables of what master keys wrap themselves."""

BY_ADDON: Final = {"keys": BATCH, "headers": 16, "recoveries": BATCH}
"""The tables of what add-ons' keys wrap, and how many rows at once: header copies are large."""

_Key = tuple[Any, ...] | None
"""The primary key of the last row that was looked at; None before the first."""


class _Page(Protocol):
    """Reads the rows behind one that are to be wrapped anew."""

    def __call__(self, reading: Reading, after: _Key) -> list[WrappedRow]: ...


@dataclass(slots=True)
class Outcome:
    """What one pass came to.

    Attributes:
        rewrapped: rows.
        broken: rows that do not open, in words.
        whole: whether it got to its end.
    """

    rewrapped: int = 0
    broken: list[str] = field(default_factory=list)
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Left:
    """What is still to be done, in numbers.

    Attributes:
        by_masters: keys that another master key wraps than the one that wraps.
        renewals: add-ons that are to get a new key.
        records, all_records: that an older key of their add-on wraps; and all there are.
        stale: add-ons that have an older key.
        emptying: master keys that wrap nothing, and are not noted so yet.
    """

    by_masters: int
    renewals: int
    records: int
    all_records: int
    stale: int
    emptying: int

    @property
    def anything(self) -> bool:
        """Say whether a pass would do something."""
        return any((self.by_masters, self.renewals, self.stale, self.emptying))


def left(reading: Reading, *, all_records: bool = True) -> Left:
    """Count what is left.

    Args:
        all_records: whether records are counted, each one, also where none of them is left.
    """
    masters, counts = reading.master_keys(), reading.wrapped_by_masters()
    wraps = _wraps(masters)
    stale = len(reading.stale_addons())
    total, old = reading.wrapped_by_addons() if all_records or stale else (0, 0)
    return Left(
        by_masters=sum(count for identity, count in counts.items() if identity != wraps.identity),
        renewals=len(_to_renew(reading, wraps)),
        records=old,
        all_records=total,
        stale=stale,
        emptying=len(_emptied(masters, counts)),
    )


def is_wanted(broker: Broker) -> bool:
    """Say whether a pass would do something; this is asked every second."""

    def look(reading: Reading) -> bool:
        masters, counts = reading.master_keys(), reading.wrapped_by_masters()
        wraps = _wraps(masters)
        return bool(
            counts.keys() - {wraps.identity}
            or _emptied(masters, counts)
            or reading.stale_addons()
            or _to_renew(reading, wraps)
        )

    return broker.store.read(look)


def advance(broker: Broker, stopping: Callable[[], bool] = lambda: False) -> Outcome:
    """Do what is left, until it is done or is to stop.

    Raises:
        KeybrokerError: UNAVAILABLE; what was done until then stays done.
    """
    outcome = Outcome()
    for work in (_renew, _rewrap_keys, _rewrap_records, _note_emptied):
        for _batch in work(broker, outcome):
            if stopping():
                outcome.whole = False
                return outcome
    if outcome.rewrapped:
        broker.store.scrub()
    return outcome


def _wraps(masters: list[MasterKeyRow]) -> MasterKeyRow:
    return next(row for row in masters if row.state == "wraps")


def _emptied(masters: list[MasterKeyRow], counts: dict[str, int]) -> list[MasterKeyRow]:
    return [
        row
        for row in masters
        if row.state == "unwraps" and row.emptied is None and row.identity not in counts
    ]


def _to_renew(reading: Reading, wraps: MasterKeyRow) -> list[AddonKeyRow]:
    if not wraps.renews:
        return []
    return [row for row in reading.newest_addon_keys() if row.made_under != wraps.identity]


def _renew(broker: Broker, _outcome: Outcome) -> Iterator[None]:
    """Give each add-on a new key, and the statements, where the master key that wraps renews."""

    def batch(writing: Writing) -> int:
        wraps = _wraps(writing.master_keys())
        old = _to_renew(writing, wraps)[:BATCH]
        for row in old:
            renew(broker, writing, row)
        signer = writing.signer()
        resigned = wraps.renews and signer is not None and signer.made_under != wraps.identity
        if resigned:
            new_signer(broker, writing, broker.clock())
        if old or resigned:
            writing.append(_event(broker, "renew", addons=len(old), signer=resigned))
        return len(old)

    while broker.store.write(batch):
        yield


def renew(broker: Broker, writing: Writing, row: AddonKeyRow) -> AddonKeyRow:
    """Make the next generation of an add-on's key; what the one before wraps follows by and by."""
    made = new_addon_key(broker.masterkey, row.addon, row.generation + 1, broker.entropy, broker.clock())
    writing.add_addon_key(made)
    return made


def _rewrap_keys(broker: Broker, outcome: Outcome) -> Iterator[None]:
    """Have the master key that wraps wrap what others do."""
    for table in BY_MASTER:

        def page(reading: Reading, after: _Key, table: str = table) -> list[WrappedRow]:
            return reading.wrapped_by_other_masters(broker.masterkey.identity, table, after, BATCH)

        yield from _each(broker, outcome, page, partial(_by_master, broker))


def _rewrap_records(broker: Broker, outcome: Outcome) -> Iterator[None]:
    """Have each add-on's newest key wrap what older ones do, then let go of those."""
    for addon in broker.store.read(lambda reading: reading.stale_addons()):
        rows = broker.store.read(lambda reading, addon=addon: reading.addon_keys(addon))  # type: ignore[misc]
        keys = AddonKeys(broker.masterkey, rows)
        for table, limit in BY_ADDON.items():

            def page(
                reading: Reading,
                after: _Key,
                table: str = table,
                limit: int = limit,
                newest: AddonKeyRow = rows[-1],
            ) -> list[WrappedRow]:
                return reading.wrapped_by_older(newest, table, after, limit)

            yield from _each(broker, outcome, page, partial(_by_addon, broker, keys))
        broker.store.write(lambda writing, addon=addon: _drop_older(broker, writing, addon))  # type: ignore[misc]
        yield


def _each(
    broker: Broker,
    outcome: Outcome,
    page: _Page,
    wrap: Callable[[WrappedRow], bytes],
) -> Iterator[None]:
    """Wrap rows anew, a page at a time, by primary key: one that does not open is passed by."""
    after: _Key = None
    while rows := broker.store.read(partial(page, after=after)):
        after = rows[-1].key
        fresh: list[tuple[WrappedRow, bytes]] = []
        for row in rows:
            try:
                fresh.append((row, wrap(row)))
            except EnvelopeError as error:
                outcome.broken.append(f"{row.table} {_named(row)}: {error.detail}")
        if fresh:
            outcome.rewrapped += broker.store.write(partial(_save, broker, fresh=fresh))
        yield


def _place(row: WrappedRow) -> Context:
    """Return the context of something that a master key wraps."""
    if row.table == "addon_keys":
        return addon_key_context(*row.key)
    return STATEMENT_KEY if row.table == "signers" else recovery_key_context(*row.key)


_PURPOSES: Final = {
    "keys": Purpose.PASSPHRASE,
    "headers": Purpose.HEADER_COPY,
    "recoveries": Purpose.RECOVERY_CIPHERTEXT,
}


def _by_master(broker: Broker, row: WrappedRow) -> bytes:
    """Wrap a row by the master key that wraps; seen to open again."""
    place = _place(row)
    secret = broker.masterkey.unwrap(row.wrapped, place)
    made = broker.masterkey.wrap(secret, place, broker.entropy(ENTROPY_BYTES))
    if broker.masterkey.unwrap(made, place) != secret:
        raise EnvelopeError(Failure.FORM, "what was wrapped anew opens to something else")
    return made


def _by_addon(broker: Broker, keys: AddonKeys, row: WrappedRow) -> bytes:
    """Wrap a record by the newest key of its add-on; seen to open again."""
    volume, number = row.key
    place = Context(row.addon, volume, row.luks_uuid, number, _PURPOSES[row.table])
    secret = keys.unwrap(row.wrapped, place)
    made = keys.wrap(secret, place, broker.entropy)
    if keys.unwrap(made, place) != secret:
        raise EnvelopeError(Failure.FORM, "what was wrapped anew opens to something else")
    return made


def _save(broker: Broker, writing: Writing, fresh: list[tuple[WrappedRow, bytes]]) -> int:
    """Write a batch, but for rows that somebody else has changed since; return how many those were."""
    saved = sum(
        writing.rewrap(row, blob, wrapped_by(blob).hex() if row.table in BY_MASTER else None)
        for row, blob in fresh
    )
    if saved:
        writing.append(
            _event(broker, "rewrap", addon=fresh[0][0].addon or None, table=fresh[0][0].table, rows=saved)
        )
    return saved


def _drop_older(broker: Broker, writing: Writing, addon: AddonName) -> None:
    """Let go of an add-on's older keys, but for one that still wraps something."""
    gone = []
    for row in writing.addon_keys(addon)[:-1]:
        if not writing.addon_key_wraps(row):
            writing.drop_addon_key(row)
            gone.append(row.generation)
    if gone:
        writing.append(_event(broker, "addon.key-destroyed", addon=addon, generations=gone))


def _note_emptied(broker: Broker, _outcome: Outcome) -> Iterator[None]:
    """Note since when a master key wraps nothing: backups from before still need it."""

    def note(writing: Writing) -> None:
        for row in _emptied(writing.master_keys(), writing.wrapped_by_masters()):
            writing.put_master_key(replace(row, emptied=broker.clock()))
            writing.append(_event(broker, "master.emptied", master=row.identity))

    if broker.store.read(lambda reading: _emptied(reading.master_keys(), reading.wrapped_by_masters())):
        broker.store.write(note)
        yield


def _named(row: WrappedRow) -> str:
    return "/".join(part.hex() if isinstance(part, bytes) else str(part) for part in row.key)


def _event(broker: Broker, verb: str, *, addon: str | None = None, **detail: Any) -> AuditEvent:
    return AuditEvent(broker.clock(), "broker", "", "local", verb, "done", addon=addon, detail=detail)
