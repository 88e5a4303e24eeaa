"""``Headers`` in memory: what cryptsetup does to a header, and how far it gets before the power goes."""

from __future__ import annotations

from collections.abc import Mapping as Keys
from typing import TYPE_CHECKING, Any

from agent.plan import steps
from agent.plan.keyslots import Keyslots
from agent.world import Sighting
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret
from tests.crash.memory_header import Luks

if TYPE_CHECKING:
    from tests.crash.memory_world import MemoryWorld


class MemoryHeaders:
    """The headers on a world's disks.

    Attributes:
        cleared: each keyslot that was killed: its number, and the passphrase that it held.
    """

    def __init__(self, world: MemoryWorld) -> None:
        self._world = world
        self.cleared: list[tuple[int, str]] = []

    def probe(self, record: Record, keys: Keys[KeyVersion, Secret], seen: Sighting) -> Keyslots:
        assert seen.copy is not None
        luks = Luks.read(seen.copy.reveal())
        check_expected(record, luks)
        return luks.probed(record, dict(keys))

    def fill(
        self, record: Record, keys: Keys[KeyVersion, Secret], *, version: KeyVersion, by: KeyVersion
    ) -> None:
        luks = self._checked(record)
        if luks.opened_by(keys[version]) is not None:
            return
        if luks.opened_by(keys[by]) is None:
            raise KeybrokerError(Problem.LOCKED_OUT, f"{record.name}: version {by} opens nothing")
        free = next(number for number in range(32) if number not in luks.keyslots)
        self._write(record, luks.changed(keyslots={**luks.keyslots, free: keys[version].reveal().decode()}))

    def tag(self, record: Record, versions: Keys[int, KeyVersion], recovery: str | None = None) -> None:
        luks = self._checked(record)
        recovery = recovery or luks.recovery
        if luks.token != versions or luks.recovery != recovery or self._world.is_degraded(record):
            self._write(record, luks.changed(token=dict(versions), recovery=recovery))

    def enclose(self, record: Record, recovery: str) -> None:
        luks = self._checked(record)
        if luks.recovery != recovery or self._world.is_degraded(record):
            self._write(record, luks.changed(recovery=recovery))

    def raise_sequence(self, record: Record) -> int:
        luks = self._checked(record).changed()
        self._write(record, luks)
        return luks.sequence

    def clear(self, record: Record, keys: Keys[KeyVersion, Secret], *, keyslot: int, by: KeyVersion) -> None:
        luks = self._checked(record)
        if keyslot not in luks.keyslots:
            return
        ours = keyslot in luks.unbound or any(
            luks.keyslots[keyslot] == key.reveal().decode() for key in keys.values()
        )
        if not ours and keyslot not in (luks.token or {}):
            raise KeybrokerError(Problem.FOREIGN_KEYSLOTS, f"{record.name}: {keyslot} is not ours to clear")
        if luks.without(keyslot).opened_by(keys[by]) is None:
            raise KeybrokerError(Problem.LOCKED_OUT, f"{record.name}: version {by} opens no other keyslot")
        self.cleared.append((keyslot, luks.keyslots[keyslot]))
        self._write(record, luks.without(keyslot))

    def evict(self, record: Record, keys: Keys[KeyVersion, Secret], *, keyslot: int, by: KeyVersion) -> None:
        luks = self._checked(record)
        if keyslot not in luks.keyslots:
            return
        if luks.opened_by(keys[by]) in (None, keyslot):
            raise KeybrokerError(Problem.LOCKED_OUT, f"{record.name}: version {by} opens no other keyslot")
        self._write(record, luks.without(keyslot))

    def detach(self, record: Record, *, token: int) -> None:
        return  # tokens of others are on real headers only

    def partial(self, step: type, record: Record, *rest: Any) -> None:
        """Do part of an effect: of Fill nothing that shows, of a token one copy, of Clear the area alone."""
        luks = self._checked(record)
        if step is steps.Raise:
            self._world.write_header(record, luks.changed(), only=("first",))
            return
        if step is steps.Tag:
            tagged = luks.changed(token=dict(rest[0]), recovery=(*rest, None)[1] or luks.recovery)
        elif step is steps.Enclose:
            tagged = luks.changed(recovery=rest[0])
        else:
            tagged = luks
        if (tagged.token, tagged.recovery) != (luks.token, luks.recovery):
            self._world.write_header(record, tagged, only=("first",))
        elif step is steps.Clear and rest[1] in luks.keyslots:
            # the area goes first, and nothing in the JSON area tells of it: not even the sequence id
            self._world.write_header(record, luks.wiped(rest[1]))

    def _checked(self, record: Record) -> Luks:
        luks = self._world.header(record)
        if luks is None or luks.moved is not None:
            raise KeybrokerError(Problem.HEADER_REFUSED, f"{record.name}: no header, or midway")
        check_expected(record, luks)
        return luks

    def _write(self, record: Record, luks: Luks) -> None:
        self._world.write_header(record, luks)


def check_expected(record: Record, luks: Luks) -> None:
    """Refuse a header, at rest, that is neither the pinned one nor the one that an order leads to."""
    order, pin = record.order, record.pin
    assert pin is not None
    pins = {pin.digest} | ({order.digest} if order is not None and order.is_reencrypting else set())
    if luks.uuid != pin.uuid or luks.pin.digest not in pins:
        raise KeybrokerError(Problem.HEADER_REFUSED, f"{record.name}: not the pinned header")
