"""The part of the store's Protocols that is about boots of hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from keybroker.model.boots import Boot
from keybroker.wire.names import HostId


class BootingReading(Protocol):
    """What is read."""

    def boots(self, host: HostId) -> list[Boot]:
        """Return the boots of a host, the one that was heard of last first."""
        ...

    def boots_of(self, addon: str | None = None) -> list[Boot]:
        """Return the boots of all hosts that are not revoked, or of one add-on's, by host, the last first."""
        ...

    def boot(self, boot: str) -> Boot | None:
        """Return one boot."""
        ...


class BootingWriting(BootingReading, Protocol):
    """What is written."""

    def put_boot(self, boot: Boot) -> None:
        """Keep a boot, instead of what was kept of it before."""
        ...

    def forget_boots(self, boots: Sequence[str]) -> None:
        """Let go of boots."""
        ...
