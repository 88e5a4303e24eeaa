"""A volume as the broker knows it and as the agent sees it: the record, the observation, the grant.

    agent  --- Observation (what the device is) --->  broker
    agent  <-- Grant (the record, and its keys unless it is refused) ---  broker

Stages of a data volume, each entered by one call, none ever left backwards:

| stage | what is true | entered by |
|---|---|---|
| new | nothing was ever written to a disk for it | ``volume add`` |
| claimed | this one device (serial, size) may be formatted; nothing is written yet | PUT device |
| deposited | the broker holds the header and its pin; it may be on the disk, whole or in part | PUT header |
| ready | the disk has the header and a filesystem: from here on nothing formats anything | PUT ready |

| foreign | its disk has a LUKS2 header that somebody else made; to be adopted (→ ready) | ``volume adopt`` |
| plain | its disk holds a filesystem, in the clear or in part; to be encrypted (→ ready) | ``volume add`` |
| erased | its disk has no keyslot and no header any more; nothing leaves this stage | PUT erased |

A swap volume has no keys and no header: new → claimed → ready.

During a migration two volumes stand for the same data. Exactly one of them is its **holder**, and it alone is
opened at boot; the **successor** is on its way to be that, and a **former** volume has been it, or will not
become it any more: its disk is to be wiped.
"""

from __future__ import annotations

from typing import Any, Final, Literal, cast

from keybroker.wire import names
from keybroker.wire.fields import Fields
from keybroker.wire.names import AddonName, KeyVersion, VolumeId, VolumeName
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import DIGEST, Pin, Profile
from keybroker.wire.recovery import Recovery
from keybroker.wire.secret import Secret, passphrase
from keybroker.wire.values import dataclass, field

Stage = Literal["new", "claimed", "deposited", "ready", "foreign", "plain", "erased"]
STAGES: Final = frozenset({"new", "claimed", "deposited", "ready", "foreign", "plain", "erased"})

Role = Literal["holder", "successor", "former"]
ROLES: Final = frozenset({"holder", "successor", "former"})

FILESYSTEMS: Final = frozenset({"ext4", "xfs", "swap", "none"})
"""``swap`` makes it a swap volume; ``none`` leaves the opened device to whoever wants it raw."""

Sight = Literal["absent", "blank", "luks2", "swap-mark", "other"]
SIGHTS: Final = frozenset({"absent", "blank", "luks2", "swap-mark", "other"})


@dataclass(frozen=True, slots=True)
class Device:
    """Which disk: its serial as the kernel reports it, and its size in bytes."""

    serial: str
    size_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"serial": self.serial, "size_bytes": self.size_bytes}

    @classmethod
    def read(cls, fields: Fields, *, calm: bool = False) -> Device:
        """Read the wire form (MALFORMED otherwise); ``calm`` lets unknown fields go, as in a reply."""
        device = cls(
            serial=fields.text("serial", match=names.SERIAL),
            size_bytes=fields.number("size_bytes", least=1),
        )
        fields.end(calm=calm)
        return device


@dataclass(frozen=True, slots=True)
class Record:
    """All that the broker says about a volume, keys apart; the reply to every call about it.

    Attributes:
        volume: its id, and the serial that its disk is expected to have unless ``serial`` says otherwise.
        revision: grows by one with each change; a change names the revision it takes for granted.
        size_bytes: the least size its device must have.
        mount: mount point, or None where nothing is mounted.
        serial: of the disk it lives on.
        device: the disk that was claimed for it, None while the stage is new.
        luks_uuid: made by the broker with the volume.
        pin, sequence: of the header, None until it is deposited.
        current, wanted, staged, retiring: key versions (DESIGN section 4); ``current`` is None for swap, for
            a plain disk, and once the keys are destroyed.
        role: in a migration; ``holder`` outside of one.
        partner: the other volume of a migration, None outside of one.
        newest: the highest version there ever was, a staged one that was given up among them; None where the
            broker does not say. A header that names a higher one is ahead of a broker that was set back.
        order: what an operator wants done, None at rest.
        recovery: what our token is to carry for a day without a broker: the passphrase of ``staged``, or else
            of ``current``, encrypted to the offline recovery key; None where there is no such key.
        complete_from: lowest sequence of its header at which its disk had all of the data; None where the
            data was never moved to it, or the broker does not say.
    """

    volume: VolumeId
    addon: AddonName
    name: VolumeName
    stage: Stage
    revision: int
    size_bytes: int
    filesystem: str
    mount: str | None
    serial: str
    device: Device | None
    luks_uuid: str
    profile: Profile
    pin: Pin | None
    sequence: int | None
    current: KeyVersion | None
    wanted: KeyVersion | None
    staged: KeyVersion | None = None
    retiring: KeyVersion | None = None
    role: Role = "holder"
    partner: VolumeId | None = None
    order: Order | None = None
    newest: KeyVersion | None = None
    recovery: Recovery | None = None
    complete_from: int | None = None

    @property
    def is_bare(self) -> bool:
        """Say whether its disk is used as it is, in the clear: no header of ours is expected on it yet."""
        return self.stage == "plain" and (self.order is None or not self.order.is_reencrypting)

    @property
    def is_swap(self) -> bool:
        """Say whether this is a swap volume: keyless at the broker, a new key at each boot."""
        return self.filesystem == "swap"

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "volume": self.volume,
            "addon": self.addon,
            "name": self.name,
            "stage": self.stage,
            "revision": self.revision,
            "size_bytes": self.size_bytes,
            "filesystem": self.filesystem,
            "mount": self.mount,
            "serial": self.serial,
            "device": self.device and self.device.as_json(),
            "luks_uuid": self.luks_uuid,
            "profile": self.profile.as_json(),
            "pin": self.pin and self.pin.as_json(),
            "sequence": self.sequence,
            "current": self.current,
            "wanted": self.wanted,
            "staged": self.staged,
            "retiring": self.retiring,
            "role": self.role,
            "partner": self.partner,
            "order": self.order and self.order.as_json(),
            "newest": self.newest,
            "recovery": self.recovery and self.recovery.as_json(),
            "complete_from": self.complete_from,
        }

    @classmethod
    def read(cls, fields: Fields) -> Record:
        """Read the wire form (MALFORMED otherwise); a newer broker's extra fields are let go."""
        record = cls(
            volume=VolumeId(fields.text("volume", match=names.VOLUME_ID)),
            addon=AddonName(fields.text("addon", match=names.ADDON_NAME)),
            name=VolumeName(fields.text("name", match=names.VOLUME_NAME)),
            stage=cast(Stage, fields.choice("stage", STAGES)),
            revision=fields.number("revision", least=1),
            size_bytes=fields.number("size_bytes"),
            filesystem=fields.choice("filesystem", FILESYSTEMS),
            mount=fields.optional("mount", lambda key: fields.text(key, match=names.MOUNT_POINT)),
            serial=fields.text("serial", match=names.SERIAL),
            device=fields.optional("device", lambda key: Device.read(fields.object(key), calm=True)),
            luks_uuid=fields.text("luks_uuid", match=names.UUID),
            profile=Profile.read(fields.object("profile")),
            pin=fields.optional("pin", lambda key: Pin.read(fields.object(key), calm=True)),
            sequence=fields.optional("sequence", fields.number),
            current=_version(fields, "current"),
            wanted=_version(fields, "wanted"),
            staged=_version(fields, "staged"),
            retiring=_version(fields, "retiring"),
            role=cast(Role, fields.optional("role", lambda key: fields.choice(key, ROLES)) or "holder"),
            partner=fields.optional("partner", lambda key: VolumeId(fields.text(key, match=names.VOLUME_ID))),
            order=fields.optional("order", lambda key: Order.read(fields.object(key))),
            newest=_version(fields, "newest"),
            recovery=fields.optional("recovery", lambda key: Recovery.read(fields.object(key))),
            complete_from=fields.optional("complete_from", fields.number),
        )
        fields.ignore_rest()
        return record


def _version(fields: Fields, key: str) -> KeyVersion | None:
    return fields.optional(key, lambda key: KeyVersion(fields.number(key, least=1)))


@dataclass(frozen=True, slots=True)
class SeenHeader:
    """What the agent read of a LUKS2 header, before it asks for a key.

    Attributes:
        pin: what the broker would pin of it.
        sequence: ``seqid`` of the binary header; grows with each change cryptsetup makes.
        requirements: mandatory requirements (a re-encryption in progress is one).
        degraded: one of the two copies of the header does not pass its checks.
        others: digests of further volume keys that segments belong to, as ``Pin.digest``: in the middle of a
            re-encryption of the new one, and of the old one once the data begins under the new.
        recovery: digest of the recovery ciphertext in our token; None where it carries none.
    """

    pin: Pin
    sequence: int
    requirements: tuple[str, ...] = ()
    degraded: bool = False
    others: tuple[str, ...] = ()
    recovery: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the wire form; a broker of before there was a recovery key reads it, where there is none."""
        said = {
            "pin": self.pin.as_json(),
            "sequence": self.sequence,
            "requirements": list(self.requirements),
            "degraded": self.degraded,
            "others": list(self.others),
        }
        return said if self.recovery is None else {**said, "recovery": self.recovery}

    @classmethod
    def read(cls, fields: Fields) -> SeenHeader:
        """Read the wire form (MALFORMED otherwise)."""
        seen = cls(
            pin=Pin.read(fields.object("pin")),
            sequence=fields.number("sequence"),
            requirements=fields.texts("requirements", most=16),
            degraded=fields.flag("degraded"),
            others=fields.texts("others", most=8),
            recovery=fields.optional("recovery", lambda key: fields.text(key, match=DIGEST)),
        )
        if not all(DIGEST.fullmatch(each) for each in seen.others):
            raise fields.wrong("others", f"must match {DIGEST.pattern}")
        fields.end()
        return seen


@dataclass(frozen=True, slots=True)
class Observation:
    """What the agent sees at a volume's place.

    Attributes:
        sight: ``absent`` no such disk; ``blank`` all conditions of DESIGN section 4 hold; ``luks2`` a header
            that could be read, in ``header``; ``swap-mark`` our identity block for this volume; ``other``
            anything else, in words in ``detail``.
        device: None only where ``sight`` is absent.
    """

    volume: VolumeId
    sight: Sight
    device: Device | None = None
    header: SeenHeader | None = None
    detail: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "volume": self.volume,
            "sight": self.sight,
            "device": self.device and self.device.as_json(),
            "header": self.header and self.header.as_json(),
            "detail": self.detail,
        }

    @classmethod
    def read(cls, fields: Fields) -> Observation:
        """Read the wire form (MALFORMED otherwise)."""
        seen = cls(
            volume=VolumeId(fields.text("volume", match=names.VOLUME_ID)),
            sight=cast(Sight, fields.choice("sight", SIGHTS)),
            device=fields.optional("device", lambda key: Device.read(fields.object(key))),
            header=fields.optional("header", lambda key: SeenHeader.read(fields.object(key))),
            detail=fields.text("detail", most=1000),
        )
        if (seen.device is None) != (seen.sight == "absent"):
            raise fields.wrong("device", "must be there unless the sight is absent")
        if (seen.header is not None) != (seen.sight == "luks2"):
            raise fields.wrong("header", "must be there exactly where the sight is luks2")
        fields.end()
        return seen


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the keys of a volume were not handed out; other volumes of the same host are not affected."""

    problem: Problem
    detail: str

    def as_error(self) -> KeybrokerError:
        """Return it as an error, to be raised."""
        return KeybrokerError(self.problem, self.detail)


@dataclass(frozen=True, slots=True)
class Grant:
    """A record with the keys that may open it, or with the reason why there are none.

    Attributes:
        keys: by version; empty for swap, for a refusal, and while the broker has not seen the device.
        refused: None unless the broker will not hand out the keys.
    """

    record: Record
    keys: dict[KeyVersion, Secret] = field(default_factory=dict)
    refused: Refusal | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the wire form; this is the one place where a key becomes text."""
        refused = self.refused and {"problem": self.refused.problem.slug, "detail": self.refused.detail}
        return {
            "record": self.record.as_json(),
            "keys": {str(version): key.reveal().decode() for version, key in self.keys.items()},
            "refused": refused,
        }

    @classmethod
    def read(cls, fields: Fields) -> Grant:
        """Read the wire form (MALFORMED otherwise, without repeating a key)."""
        grant = cls(
            record=Record.read(fields.object("record")),
            keys=_keys(fields),
            refused=fields.optional("refused", lambda key: _refusal(fields.object(key))),
        )
        fields.ignore_rest()
        return grant


def _keys(fields: Fields) -> dict[KeyVersion, Secret]:
    keys: dict[KeyVersion, Secret] = {}
    for version, text in fields.pairs("keys", most=32).items():
        if not version.isascii() or not version.isdigit() or version.startswith("0"):
            raise fields.wrong("keys", "must be named by key versions")
        try:
            keys[KeyVersion(int(version))] = passphrase(text.encode())
        except ValueError as error:
            raise fields.wrong(f"keys.{version}", str(error)) from None
    return keys


def _refusal(fields: Fields) -> Refusal:
    refusal = Refusal(Problem.named(fields.text("problem")), fields.text("detail", most=2000))
    fields.ignore_rest()
    return refusal
