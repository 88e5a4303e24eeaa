"""The keys of one data volume: pure transitions, each from a value to a value.

    staged ─ promote ─▶ current ─ promote of the next ─▶ retiring ─ retire ─▶ retired ─▶ destroyed
       └──────────── abandon, end ──────────┴──────── end ────────┴─────────────▶

A repeated transition changes nothing and returns the value it was given, the very same object; one that does
not fit raises CONFLICT. Versions are 1, 2, 3 … and never used again, whatever becomes of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem


def _conflict(detail: str) -> KeybrokerError:
    return KeybrokerError(Problem.CONFLICT, detail)


@dataclass(frozen=True, slots=True)
class Retired:
    """A key that opens no current header, kept for old snapshots.

    Attributes:
        destroy_after: when it may be destroyed; None while its destruction is called off.
    """

    version: KeyVersion
    destroy_after: datetime | None


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of one data volume (DESIGN section 4).

    Attributes:
        current: opens the volume; None once the volume is erased.
        wanted: what an operator wants to be current; ``current`` at rest.
        staged: minted, on its way into the header.
        retiring: was current, still in the header.
        retired: out of the header, not yet destroyed; lowest version first.
        destroyed: gone; lowest version first.
    """

    current: KeyVersion | None
    wanted: KeyVersion | None
    staged: KeyVersion | None = None
    retiring: KeyVersion | None = None
    retired: tuple[Retired, ...] = ()
    destroyed: tuple[KeyVersion, ...] = ()

    @classmethod
    def first(cls) -> Keyring:
        """Return the keyring of a new volume: version 1 is minted and current."""
        return cls(KeyVersion(1), KeyVersion(1))

    @property
    def live(self) -> tuple[KeyVersion, ...]:
        """The versions that may open the volume's header now, and that are therefore handed out."""
        alive = (self.current, self.staged, self.retiring)
        return tuple(sorted(version for version in alive if version is not None))

    @property
    def kept(self) -> tuple[KeyVersion, ...]:
        """The versions whose keys the broker still has."""
        return tuple(sorted((*self.live, *(old.version for old in self.retired))))

    @property
    def newest(self) -> KeyVersion:
        """The highest version that was ever minted."""
        return max((*self.kept, *self.destroyed))

    def want(self) -> Keyring:
        """Ask for the next version; while one is under way already, nothing changes."""
        if self.wanted != self.current:
            return self
        if self.current is None:
            raise _conflict("keyring: the volume is erased")
        return replace(self, wanted=KeyVersion(self.newest + 1))

    def unwant(self) -> Keyring:
        """Take a wish back that nothing was done about.

        Raises:
            KeybrokerError: CONFLICT where the wanted version is staged already: it may be in a header.
        """
        if self.staged is not None:
            raise _conflict(f"keyring: key {self.staged} is staged already")
        return self if self.wanted == self.current else replace(self, wanted=self.current)

    def stage(self) -> Keyring:
        """Mint the wanted version.

        Raises:
            KeybrokerError: CONFLICT where none is wanted, or the one before still has to be cleared away.
        """
        if self.staged is not None:
            return self
        if self.wanted == self.current:
            raise _conflict("keyring: no new key is wanted")
        if self.retiring is not None:
            raise _conflict(f"keyring: key {self.retiring} has to be retired first")
        return replace(self, staged=self.wanted)

    def promote(self, version: KeyVersion) -> Keyring:
        """Make the staged version the current one; the one that was current is retiring.

        Raises:
            KeybrokerError: CONFLICT unless ``version`` is staged, or current already.
        """
        if version == self.current:
            return self
        if version != self.staged:
            raise _conflict(f"keyring: key {version} is not staged")
        return replace(self, current=version, staged=None, retiring=self.current)

    def abandon(self, version: KeyVersion, destroy_after: datetime) -> Keyring:
        """Give up the staged version; it is kept for as long as a retired one, for it may be in a header.

        Raises:
            KeybrokerError: CONFLICT unless ``version`` is staged, or retired already.
        """
        if self._retired(version) is not None:
            return self
        if version != self.staged:
            raise _conflict(f"keyring: key {version} is not staged")
        return replace(self, staged=None, wanted=self.current, retired=self._with(version, destroy_after))

    def retire(self, version: KeyVersion, destroy_after: datetime) -> Keyring:
        """Take note that the retiring version is out of the header.

        What was called off when an old snapshot turned up is scheduled again: the newest header was opened
        with the current key since then.

        Raises:
            KeybrokerError: CONFLICT unless ``version`` is retiring, or retired already.
        """
        if self._retired(version) is not None:
            return self
        if version != self.retiring:
            raise _conflict(f"keyring: key {version} is not retiring")
        return replace(self, retiring=None, retired=self._with(version, destroy_after))._rescheduled(
            destroy_after
        )

    def end(self, destroy_after: datetime) -> Keyring:
        """Retire every version: the volume is erased, and none of them opens anything on its disk."""
        if self.current is None:
            return self
        live = tuple(Retired(version, destroy_after) for version in self.live)
        ended = tuple(sorted((*self.retired, *live), key=lambda old: old.version))
        gone = Keyring(None, None, retired=ended, destroyed=self.destroyed)
        return gone._rescheduled(destroy_after)

    def bring_back(self, version: KeyVersion) -> Keyring:
        """Make a version current that was minted before the database was set back, and is not known here.

        Every other key is kept, and none of them is destroyed: nobody knows yet what opens the header.

        Raises:
            KeybrokerError: CONFLICT for a version that was minted here too, or of an erased volume.
        """
        if version == self.current:
            return self
        if self.current is None or version <= self.newest:
            raise _conflict(f"keyring: key {version} is known here, or the volume is erased")
        kept = tuple(Retired(each, None) for each in self.kept)
        return Keyring(version, version, retired=kept, destroyed=self.destroyed)

    def call_off(self, versions: Iterable[KeyVersion]) -> Keyring:
        """Call the destruction of retired versions off: one of them may still be needed.

        A version that is not retired is passed over.
        """
        wanted = set(versions)
        rest = tuple(Retired(old.version, None) if old.version in wanted else old for old in self.retired)
        return self if rest == self.retired else replace(self, retired=rest)

    def schedule(self, version: KeyVersion, destroy_after: datetime | None) -> Keyring:
        """Set when a retired version may be destroyed; None calls it off.

        Raises:
            KeybrokerError: CONFLICT unless ``version`` is retired.
        """
        old = self._retired(version)
        if old is None:
            raise _conflict(f"keyring: key {version} is not retired")
        if old.destroy_after == destroy_after:
            return self
        rest = tuple(Retired(version, destroy_after) if each is old else each for each in self.retired)
        return replace(self, retired=rest)

    def destroy(self, version: KeyVersion, now: datetime) -> Keyring:
        """Give a retired version up for good, once its time has come.

        Raises:
            KeybrokerError: CONFLICT unless ``version`` is retired and due, or destroyed already.
        """
        if version in self.destroyed:
            return self
        old = self._retired(version)
        if old is None:
            raise _conflict(f"keyring: key {version} is not retired")
        if old.destroy_after is None or now < old.destroy_after:
            raise _conflict(f"keyring: key {version} is not due for destruction")
        rest = tuple(each for each in self.retired if each is not old)
        return replace(self, retired=rest, destroyed=tuple(sorted((*self.destroyed, version))))

    def destroy_all(self) -> Keyring:
        """Give up every version for good, due or not: the volume itself is destroyed.

        Raises:
            KeybrokerError: CONFLICT unless all of them are retired (``end``).
        """
        if self.current is not None:
            raise _conflict("keyring: only retired keys are destroyed")
        if not self.retired:
            return self
        return Keyring(None, None, destroyed=tuple(sorted((*self.kept, *self.destroyed))))

    def postponed(self, span: timedelta) -> Keyring:
        """Keep every retired version for longer: for a time, no host could say that it needs one."""
        rest = tuple(
            old if old.destroy_after is None else Retired(old.version, old.destroy_after + span)
            for old in self.retired
        )
        return self if rest == self.retired else replace(self, retired=rest)

    def due(self, now: datetime) -> tuple[KeyVersion, ...]:
        """Return the retired versions whose time has come."""
        return tuple(
            old.version for old in self.retired if old.destroy_after is not None and now >= old.destroy_after
        )

    def _rescheduled(self, destroy_after: datetime) -> Keyring:
        rest = tuple(
            Retired(old.version, destroy_after) if old.destroy_after is None else old for old in self.retired
        )
        return self if rest == self.retired else replace(self, retired=rest)

    def _retired(self, version: KeyVersion) -> Retired | None:
        return next((old for old in self.retired if old.version == version), None)

    def _with(self, version: KeyVersion, destroy_after: datetime) -> tuple[Retired, ...]:
        return tuple(sorted((*self.retired, Retired(version, destroy_after)), key=lambda old: old.version))
