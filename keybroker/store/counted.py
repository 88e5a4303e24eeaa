"""The part of the store's Protocol that counts: numbers and times of everything at once, for metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from keybroker.model import Deletion


@dataclass(frozen=True, slots=True)
class Ages:
    """How long ago something happened to each of many.

    Attributes:
        known, unknown: of how many it is known, and of how many it never happened.
        oldest, newest: None where it is known of none.
        within: for each bound that was asked about, how many are no older.
    """

    known: int
    unknown: int
    oldest: datetime | None
    newest: datetime | None
    within: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ends:
    """When certificates end.

    Attributes:
        soonest: of those that are good still; None where there are none.
        over: how many are over.
    """

    soonest: datetime | None
    over: int


class CountingReading(Protocol):
    """What is read."""

    def count_stages(self) -> dict[str, int]:
        """Return how many volumes there are in each stage; a stage without any is not in it."""
        ...

    def count_hosts(self) -> tuple[int, int, int]:
        """Return how many hosts are enrolled and welcome, invited, and revoked."""
        ...

    def proof_ages(self, now: datetime, bounds: Sequence[timedelta]) -> Ages:
        """Return how long ago a key was last seen to open each volume that is in use and has keys."""
        ...

    def key_ages(self, now: datetime, bounds: Sequence[timedelta]) -> Ages:
        """Return how long ago each volume's current key was made."""
        ...

    def keys_to_destroy(self) -> tuple[int, datetime | None]:
        """Return how many retired keys wait for their destruction, and when the first is due."""
        ...

    def pending_volumes(self) -> list[Deletion]:
        """Return the destructions of volumes that are pending, in no order."""
        ...

    def pending_addons(self) -> list[Deletion]:
        """Return the destructions of add-ons that are pending, in no order."""
        ...

    def hosts_ends(self, now: datetime) -> Ends:
        """Return when the certificates end of the hosts that are not revoked, each host's newest."""
        ...

    def operators_ends(self, now: datetime) -> Ends:
        """Return when the certificates end of the operators that are not revoked, each one's newest."""
        ...
