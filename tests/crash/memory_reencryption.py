"""``Reencryption`` in memory, and how far it gets before the power goes."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as Keys
from typing import TYPE_CHECKING

from agent.plan import steps
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.reports import Progress
from keybroker.wire.secret import Secret
from tests.crash.memory_header import Luks
from tests.crash.memory_headers import check_expected

if TYPE_CHECKING:
    from tests.crash.memory_world import MemoryWorld


class MemoryReencryption:
    """The re-encryptions of a world's volumes.

    Attributes:
        corrupting: the tool that there is would corrupt the data.
    """

    def __init__(self, world: MemoryWorld) -> None:
        self._world = world
        self.corrupting = False

    def check(self) -> None:
        if self.corrupting:
            raise KeybrokerError(Problem.TOOL_FAILED, "cryptsetup corrupts data in an online re-encryption")

    def begin(self, record: Record, keys: Keys[KeyVersion, Secret], *, by: KeyVersion) -> None:
        luks = self._luks(record)
        if luks.moved is not None:
            return
        check_expected(record, luks)
        if luks.opened_by(keys[by]) is None:
            raise KeybrokerError(Problem.LOCKED_OUT, f"{record.name}: version {by} opens nothing")
        self._world.write_header(record, luks.begun(self._new_key(), keys[by]))

    def run(
        self,
        record: Record,
        keys: Keys[KeyVersion, Secret],
        *,
        by: KeyVersion,
        progress: Callable[[Progress], None],
    ) -> None:
        luks = self._luks(record)
        if luks.moved is None:
            return
        kept = {text for number, text in luks.keyslots.items() if luks.in_place or number in luks.unbound}
        assert keys[by].reveal().decode() in kept, "data under a key that nothing opens"
        order = record.order
        assert order is not None
        assert order.digest == "sha256:" + (luks.next_key or luks.volume_key), (
            "data under a key that the broker does not know"
        )
        progress(Progress(luks.moved, 100))
        progress(Progress(100, 100))
        self._world.write_header(record, luks.reencrypted())

    def partial(
        self, step: type, record: Record, keys: Keys[KeyVersion, Secret], by: KeyVersion, *_: object
    ) -> None:
        """Do part of an effect: of Begin the new keyslot alone, of Reencrypt half of the data."""
        luks = self._luks(record)
        if step is steps.Begin and luks.moved is None:
            self._world.write_header(record, luks.torn(self._new_key(), keys[by]))
        elif step is steps.Reencrypt and luks.moved is not None:
            self._world.write_header(record, luks.changed(moved=min(99, luks.moved + 40)))

    def _new_key(self) -> str:
        self._world.composed += 1
        return f"{self._world.composed:064x}"

    def _luks(self, record: Record) -> Luks:
        luks = self._world.header(record)
        if luks is None:
            raise KeybrokerError(Problem.HEADER_REFUSED, f"{record.name}: no header")
        return luks
