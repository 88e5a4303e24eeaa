"""The part of the store's Protocols that is about boots of hosts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from keybroker.model.boots import Boot
from keybroker.terms import Priority
from keybroker.wire.names import AddonName, HostId


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

    def expected(self, now: datetime) -> dict[AddonName, datetime]:
        """Return until when boots of add-ons are expected, where they are."""
        ...

    def priorities(self, now: datetime) -> dict[str, Priority]:
        """Return the classes of certificates that have not ended, by fingerprint, but the normal one.

        Operators' are high (``service.precedence``).
        """
        ...


class BootingWriting(BootingReading, Protocol):
    """What is written."""

    def put_boot(self, boot: Boot) -> None:
        """Keep a boot, instead of what was kept of it before."""
        ...

    def forget_boots(self, boots: Sequence[str]) -> None:
        """Let go of boots."""
        ...

    def expect(self, addon: AddonName, until: datetime, said: str) -> None:
        """Keep until when an add-on's boots are expected, and who said so, instead of what was before."""
        ...
