"""Brokers whose database can be saved and set back, and whose clock a test moves: in memory, and real."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from agent.change.workshop import Broker
from keybroker.wire.messages import UnlockReply, UnlockRequest
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret
from tests.crash import memory_keys
from tests.crash.memory_broker import MemoryBroker
from tests.crash.service_broker import ServiceBroker
from tests.crash.volumes import key_of

RETENTION_DAYS: Final = 30
"""For how long a key that is out of the header is kept."""


MOST_AHEAD: Final = timedelta(days=50)
"""How far the real broker's clock is moved; the host's certificate lasts for 90 days."""


class Vault(Protocol):
    """A broker with one volume, ``data``, as its operators have it in hand."""

    @property
    def broker(self) -> Broker:
        """What the agent calls."""

    @property
    def record(self) -> Record:
        """The volume as it is now."""

    def live(self) -> dict[KeyVersion, Secret]:
        """Return the keys that are handed out."""

    def kept(self) -> dict[KeyVersion, Secret]:
        """Return all keys that are not destroyed."""

    def copied(self) -> Secret:
        """Return the newest copy of the header."""

    def rotate(self) -> None:
        """Ask for a new key."""

    def pass_time(self, days: int) -> None:
        """Let days pass, and then destroy what is due."""

    def save(self) -> object:
        """Return a backup of the database."""

    def set_back(self, saved: object) -> None:
        """Restore a backup; the clock goes on."""

    def close(self) -> None:
        """Leave nothing behind."""


_TABLES: Final = ("records", "copies", "deposited", "copied", "retired", "keys", "due")


class _DatedBroker(MemoryBroker):
    """Keeps retired keys for a while, and calls their destruction off when an old snapshot turns up.

    Attributes:
        keys: every one that was minted and not destroyed.
        due: the day on which a retired one is destroyed; None where that is called off.
    """

    def __init__(self, record: Record) -> None:
        self.keys: dict[KeyVersion, Secret] = {}
        self.due: dict[KeyVersion, int | None] = {}
        self.today = 0
        self._minted = 0
        super().__init__([record], self._key)

    def _key(self, name: str, version: int) -> Secret:
        """Mint a key when it is first wanted: no two are alike, also after the database was set back."""
        if version not in self.keys:
            self._minted += 1
            self.keys[KeyVersion(version)] = key_of(f"{name}, mint {self._minted}", version)
        return self.keys[KeyVersion(version)]

    def unlock(self, request: UnlockRequest) -> UnlockReply:
        reply = super().unlock(request)
        for grant in reply.grants:
            for version in grant.keys.keys() & self.due.keys():
                self.due[version] = None
        return reply

    def retire(self, volume: VolumeId, version: KeyVersion) -> Record:
        before = self.records[volume]
        saved = super().retire(volume, version)
        if saved is not before:
            called_off = {each for each, day in self.due.items() if day is None}
            self.due |= dict.fromkeys({version, *called_off}, self.today + RETENTION_DAYS)
        return saved


class MemoryVault:
    """``Vault`` in memory."""

    def __init__(self, record: Record) -> None:
        self._volume = record.volume
        self.broker = _DatedBroker(record)

    @property
    def record(self) -> Record:
        return self.broker.records[self._volume]

    def live(self) -> dict[KeyVersion, Secret]:
        return memory_keys.live(self.record, self.broker.mint)

    def kept(self) -> dict[KeyVersion, Secret]:
        return dict(self.broker.keys)

    def copied(self) -> Secret:
        return self.broker.copies[self._volume]

    def rotate(self) -> None:
        self.broker.rotate(self._volume)

    def pass_time(self, days: int) -> None:
        self.broker.today += days
        due = [
            version
            for version, day in self.broker.due.items()
            if day is not None and day <= self.broker.today
        ]
        for version in due:
            del self.broker.due[version], self.broker.keys[version]
            self.broker.retired[self._volume].discard(version)

    def save(self) -> object:
        return {name: _copied(getattr(self.broker, name)) for name in _TABLES}

    def set_back(self, saved: Any) -> None:
        for name, table in saved.items():
            setattr(self.broker, name, _copied(table))

    def close(self) -> None:
        return


class ServiceVault:
    """``Vault`` over the real broker; one installation serves one vault after the other."""

    def __init__(self, service: ServiceBroker, fresh: Path) -> None:
        self.broker = service
        self._saved: list[Path] = []
        service.ahead = timedelta()
        service.set_back(fresh)

    @property
    def record(self) -> Record:
        return self.broker.record("data")

    def live(self) -> dict[KeyVersion, Secret]:
        named = (self.record.current, self.record.staged, self.record.retiring)
        return {version: key for version, key in self.kept().items() if version in named}

    def kept(self) -> dict[KeyVersion, Secret]:
        return self.broker.keys(self.record.volume)

    def rotate(self) -> None:
        self.broker.rotate()

    def pass_time(self, days: int) -> None:
        if self.broker.ahead < MOST_AHEAD:
            self.broker.ahead += timedelta(days=days)
        self.broker.sweep()

    def save(self) -> Path:
        to = self.broker.directory / f"backup-{len(self._saved)}.db"
        self._saved.append(to)
        self.broker.save(to)
        return to

    def set_back(self, saved: Any) -> None:
        self.broker.set_back(saved)

    def copied(self) -> Secret:
        return self.broker.header_copy(self.record.volume).copy

    def close(self) -> None:
        for each in self._saved:
            each.unlink()


def _copied(table: Any) -> Any:
    """Copy a table; what is in it never changes, and a ``Secret`` refuses to be copied."""
    if isinstance(table, dict):
        return {key: _copied(value) for key, value in table.items()}
    return set(table) if isinstance(table, set) else table
