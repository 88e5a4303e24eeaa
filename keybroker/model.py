"""What a volume and its keys may do: pure transitions, each from a value to a value.

    keys      staged ─ promote ─▶ current ─ promote of the next ─▶ retiring ─ retire ─▶ retired ─▶ destroyed
    stages    new ─ claim ─▶ claimed ─ deposit ─▶ deposited ─ ready ─▶ ready       (swap: claimed ─▶ ready)

A repeated transition changes nothing and returns the value it was given, the very same object; one that does
not fit raises CONFLICT. Versions are 1, 2, 3 … and never used again, whatever becomes of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from keybroker.wire.names import AddonName, KeyVersion, VolumeId, VolumeName
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin, Profile
from keybroker.wire.records import Device, Record, SeenHeader, Stage


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
        current: opens the volume.
        wanted: what an operator wants to be current; ``current`` at rest.
        staged: minted, on its way into the header.
        retiring: was current, still in the header.
        retired: out of the header, not yet destroyed; lowest version first.
        destroyed: gone; lowest version first.
    """

    current: KeyVersion
    wanted: KeyVersion
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
        return replace(self, wanted=KeyVersion(self.newest + 1))

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

        Raises:
            KeybrokerError: CONFLICT unless ``version`` is retiring, or retired already.
        """
        if self._retired(version) is not None:
            return self
        if version != self.retiring:
            raise _conflict(f"keyring: key {version} is not retiring")
        return replace(self, retiring=None, retired=self._with(version, destroy_after))

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

    def due(self, now: datetime) -> tuple[KeyVersion, ...]:
        """Return the retired versions whose time has come."""
        return tuple(
            old.version for old in self.retired if old.destroy_after is not None and now >= old.destroy_after
        )

    def _retired(self, version: KeyVersion) -> Retired | None:
        return next((old for old in self.retired if old.version == version), None)

    def _with(self, version: KeyVersion, destroy_after: datetime) -> tuple[Retired, ...]:
        return tuple(sorted((*self.retired, Retired(version, destroy_after)), key=lambda old: old.version))


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as the broker keeps it; ``record`` is what others are told of it.

    Attributes: as ``wire.records.Record``, but for
        keyring: None for swap.
    """

    id: VolumeId
    addon: AddonName
    name: VolumeName
    stage: Stage
    revision: int
    size_bytes: int
    filesystem: str
    mount: str | None
    serial: str
    luks_uuid: str
    profile: Profile
    keyring: Keyring | None
    device: Device | None = None
    pin: Pin | None = None
    sequence: int | None = None

    @property
    def is_swap(self) -> bool:
        """Say whether this is a swap volume, which has no keys here."""
        return self.keyring is None

    @property
    def record(self) -> Record:
        """The volume as it is told to hosts and operators."""
        keys = self.keyring
        return Record(
            volume=self.id,
            addon=self.addon,
            name=self.name,
            stage=self.stage,
            revision=self.revision,
            size_bytes=self.size_bytes,
            filesystem=self.filesystem,
            mount=self.mount,
            serial=self.serial,
            device=self.device,
            luks_uuid=self.luks_uuid,
            profile=self.profile,
            pin=self.pin,
            sequence=self.sequence,
            current=keys.current if keys else None,
            wanted=keys.wanted if keys else None,
            staged=keys.staged if keys else None,
            retiring=keys.retiring if keys else None,
            newest=keys.newest if keys else None,
        )

    def wrong_device(self, device: Device) -> str | None:
        """Return why ``device`` is not the volume's disk, None where it is."""
        claimed = self.device or Device(self.serial, self.size_bytes)
        if device.serial != claimed.serial:
            return f"its serial is {device.serial}, the volume's is {claimed.serial}"
        if device.size_bytes < claimed.size_bytes:
            return f"it has {device.size_bytes} bytes, the volume needs {claimed.size_bytes}"
        return None

    def claim(self, revision: int, device: Device) -> Volume:
        """Let ``device`` become the volume's: the one-use authorisation to format it.

        Raises:
            KeybrokerError: WRONG_DEVICE; CONFLICT for another revision, or where another device was claimed.
        """
        if self.device == device:
            return self
        if self.device is not None:
            raise _conflict(f"volume {self.id}: another device was claimed, with serial {self.device.serial}")
        self._expect(revision)
        wrong = self.wrong_device(device)
        if wrong is not None:
            raise KeybrokerError(Problem.WRONG_DEVICE, f"volume {self.id}: {wrong}")
        return replace(self, stage="claimed", device=device, revision=self.revision + 1)

    def deposit(self, revision: int, header: SeenHeader) -> Volume:
        """Pin the header that is about to be written to the claimed device.

        Raises:
            KeybrokerError: HEADER_REFUSED for a header that the profile does not allow; CONFLICT for another
                revision or stage, or where another header was deposited.
        """
        if self.pin == header.pin and self.sequence == header.sequence:
            return self
        if self.stage != "claimed" or self.is_swap:
            raise _conflict(f"volume {self.id}: at stage {self.stage} no other header is taken")
        self._expect(revision)
        wrong = self._unfit(header)
        if wrong is not None:
            raise KeybrokerError(Problem.HEADER_REFUSED, f"volume {self.id}: {wrong}")
        return replace(
            self, stage="deposited", pin=header.pin, sequence=header.sequence, revision=self.revision + 1
        )

    def ready(self, revision: int) -> Volume:
        """Take note that the volume is on its disk, with its filesystem.

        Raises:
            KeybrokerError: CONFLICT for another revision or stage.
        """
        if self.stage == "ready":
            return self
        if self.stage != ("claimed" if self.is_swap else "deposited"):
            raise _conflict(f"volume {self.id}: at stage {self.stage} it cannot be ready")
        self._expect(revision)
        return replace(self, stage="ready", revision=self.revision + 1)

    def _expect(self, revision: int) -> None:
        if revision != self.revision:
            raise _conflict(f"volume {self.id}: is at revision {self.revision}, not {revision}")

    def _unfit(self, header: SeenHeader) -> str | None:
        least, most = self.profile.data_offsets
        if header.pin.uuid != self.luks_uuid:
            return f"the header's UUID is {header.pin.uuid}, the volume's is {self.luks_uuid}"
        if not least <= header.pin.data_offset <= most:
            return f"the header's data offset {header.pin.data_offset} is not from {least} to {most}"
        if header.pin.sector_size not in self.profile.sector_sizes:
            return f"the header's sector size {header.pin.sector_size} is not allowed"
        if header.requirements:
            return f"the header has requirements: {', '.join(header.requirements)}"
        if header.degraded:
            return "one copy of the header is damaged"
        return None
