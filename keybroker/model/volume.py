"""A volume as the broker keeps it, and its way to its disk: pure transitions, each from a value to a value.

    new ─ claim ─▶ claimed ─ deposit ─▶ deposited ─ ready ─▶ ready        (swap: claimed ─▶ ready)
    foreign ─ adopt ─▶ ready      plain ─ prepare, back_up ─▶ ready      any ─ erased ─▶ erased

The first row is here; what changes a volume in use is in ``rotation``, ``orders`` and ``moving``. A repeated
transition returns the very volume it was given; one that does not fit raises CONFLICT.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from keybroker.model.deletion import Deletion
from keybroker.model.keyring import Keyring
from keybroker.wire.names import AddonName, VolumeId, VolumeName
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin, Profile
from keybroker.wire.records import Device, Record, Role, SeenHeader, Stage
from keybroker.wire.recovery import Recovery


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as the broker keeps it; ``record`` is what others are told of it.

    Attributes: as ``wire.records.Record``, but for
        keyring: None for swap, and for a plain disk until it was first to be encrypted in place.
        last_order: number of the last order there was; 0 before the first.
        born_encrypted: nothing was ever written to its disk in the clear, as far as we know.
        block_older: keys are kept from a header that is older than the one known, because the last rotation
            answered a compromise.
        recoveries: of key versions, as encrypted to the offline recovery key; not all need have one.
        complete_from: lowest sequence of its header at which its disk had all of the data; None where the
            data was never moved to it.
        deletion: its destruction, as far as that is pending; None where it is not.
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
    role: Role = "holder"
    partner: VolumeId | None = None
    order: Order | None = None
    last_order: int = 0
    born_encrypted: bool = True
    block_older: bool = False
    recoveries: tuple[Recovery, ...] = ()
    complete_from: int | None = None
    deletion: Deletion | None = None

    @property
    def is_swap(self) -> bool:
        """Say whether this is a swap volume, which has no keys here."""
        return self.filesystem == "swap"

    @property
    def begun(self) -> Order | None:
        """The order that has begun and leaves a header in between until it is done; None where none has."""
        return self.order if self.order is not None and self.order.phase == "begun" else None

    @property
    def rotating(self) -> bool:
        """Say whether a new key is wanted, or on its way."""
        keys = self.keyring
        return keys is not None and (
            keys.wanted != keys.current or keys.staged is not None or keys.retiring is not None
        )

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
            role=self.role,
            partner=self.partner,
            order=self.order,
            recovery=self.recovery,
            complete_from=self.complete_from,
        )

    @property
    def recovery(self) -> Recovery | None:
        """What our token is to carry: of the key that is on its way in, or else of the current one."""
        keys = self.keyring
        sealed = {recovery.version: recovery for recovery in self.recoveries}
        if keys is None:
            return None
        return next((sealed[each] for each in (keys.staged, keys.current) if each in sealed), None)

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
            raise conflict(self, f"another device was claimed, with serial {self.device.serial}")
        if self.stage != "new":
            raise conflict(self, f"at stage {self.stage} no device is claimed")
        self.expect(revision)
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
            raise conflict(self, f"at stage {self.stage} no other header is taken")
        self.expect(revision)
        wrong = self.unfit(header)
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
            raise conflict(self, f"at stage {self.stage} it cannot be ready")
        self.expect(revision)
        return replace(self, stage="ready", revision=self.revision + 1)

    def expect(self, revision: int) -> None:
        """Check that a change takes the very revision for granted that the volume is at.

        Raises:
            KeybrokerError: CONFLICT.
        """
        if revision != self.revision:
            raise conflict(self, f"is at revision {self.revision}, not {revision}")

    def incomplete(self, header: SeenHeader) -> str | None:
        """Return why the disk under a header does not have all of the data, None where it does."""
        if self.complete_from is None or header.sequence >= self.complete_from:
            return None
        return (
            f"the header's sequence is {header.sequence}, and the disk had all of the data from"
            f" {self.complete_from} on: it is a snapshot from the middle of the move to it"
        )

    def unfit(self, header: SeenHeader) -> str | None:
        """Return why the volume's profile does not allow a header, None where it does."""
        if header.requirements:
            return f"the header has requirements: {', '.join(header.requirements)}"
        return self.misfit(header)

    def misfit(self, header: SeenHeader) -> str | None:
        """Return why the volume's profile does not allow a header, whatever is under way in it."""
        least, most = self.profile.data_offsets
        if header.pin.uuid != self.luks_uuid:
            return f"the header's UUID is {header.pin.uuid}, the volume's is {self.luks_uuid}"
        if not least <= header.pin.data_offset <= most:
            return f"the header's data offset {header.pin.data_offset} is not from {least} to {most}"
        if header.pin.sector_size not in self.profile.sector_sizes:
            return f"the header's sector size {header.pin.sector_size} is not allowed"
        if header.others:
            return "the header has more than one volume key"
        if header.degraded:
            return "one copy of the header is damaged"
        return None


def conflict(volume: Volume, what: str) -> KeybrokerError:
    """Return, to be raised, that a volume is not in the state that a change takes for granted."""
    return KeybrokerError(Problem.CONFLICT, f"volume {volume.id}: {what}")


def not_ready(volume: Volume, what: str) -> KeybrokerError:
    """Return, to be raised, that a change comes too early or too late for a volume, with what helps."""
    early = volume.stage in ("new", "claimed", "deposited")
    return KeybrokerError(
        Problem.CONFLICT,
        f"volume {volume.addon}/{volume.name}: at stage {volume.stage}, as {volume.role}, {what}",
        hint=(
            f"its VM has not formatted it: attach a blank disk with the serial {volume.serial},"
            " then on the VM: keybroker-agent unlock"
            if early
            else f"keybroker volume show {volume.addon} {volume.name}"
        ),
    )
