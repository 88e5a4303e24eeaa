"""A new volume: what an operator may ask for, and making it, with its first key wrapped at once."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Final

from keybroker.model import Keyring, Volume
from keybroker.service.broker import Broker
from keybroker.service.keys import AddonKeys, new_passphrase, passphrase_context
from keybroker.service.views import VolumeSpec
from keybroker.store.rows import AddonKeyRow, VolumeRow
from keybroker.wire import names
from keybroker.wire.fields import LARGEST_INTEGER
from keybroker.wire.names import AddonName, KeyVersion, VolumeId, VolumeName
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import CIPHERS, MIB, Profile, adopted_profile, first_profile
from keybroker.wire.records import FILESYSTEMS, Stage

SMALLEST_DATA: Final = 16 * MIB
"""Of a data volume, in bytes: the header takes 4 MiB of it, a filesystem some more."""

SMALLEST_SWAP: Final = 16 * MIB
"""Of a swap volume, in bytes: a smaller disk is none that an agent marks (agent/blank.py)."""

NEEDED: Final = frozenset({
    "/boot", "/etc", "/opt", "/opt/keybroker", "/usr", "/var", "/var/lib", "/var/lib/keybroker-agent",
    "/var/log", "/var/log/journal",
    "/tmp", "/var/tmp",  # noqa: S108  # named, not used
})  # fmt: skip
"""Directories that a machine needs before it opens volumes: a mount unit there is an ordering cycle, which
systemd breaks by dropping some job of the boot."""

NEEDED_BELOW: Final = ("/boot/", "/dev/", "/etc/", "/proc/", "/run/", "/sys/")

MOST_VOLUMES: Final = 64
"""Of one add-on, the erased ones apart; what the messages of a boot hold."""

FIRST: Final = KeyVersion(1)

MOST_ARGON2_KIB: Final = 4 << 20
"""What cryptsetup ever asks for itself is 1 GiB; a keyslot that asks for more than 4 only wastes a boot."""

SWAP_CIPHER: Final = "aes-xts-plain64"


def random_suffix(entropy: Callable[[int], bytes]) -> str:
    """Return the 12 characters of a new id: 60 random bits in base32 (RFC 4648 section 6), lower case."""
    return base64.b32encode(entropy(8)).decode().lower()[:12]


def read_spec(name: str, spec: VolumeSpec) -> None:
    """Check that a volume as asked for makes sense.

    Raises:
        KeybrokerError: MALFORMED, naming the field.
    """
    is_swap = spec.filesystem == "swap"
    least = SMALLEST_SWAP if is_swap else SMALLEST_DATA
    if names.VOLUME_NAME.fullmatch(name) is None:
        raise _malformed("name", f"must match {names.VOLUME_NAME.pattern}")
    if spec.filesystem not in FILESYSTEMS:
        raise _malformed("filesystem", f"must be one of {', '.join(sorted(FILESYSTEMS))}")
    if not least <= spec.size_bytes <= LARGEST_INTEGER:
        raise _malformed("size_bytes", f"must be {least} at least")
    if spec.cipher not in CIPHERS:
        raise _malformed("cipher", f"must be one of {', '.join(sorted(CIPHERS))}")
    if is_swap and spec.cipher != SWAP_CIPHER:
        raise _malformed("cipher", f"of swap is always {SWAP_CIPHER}")
    if spec.mount is not None:
        if spec.filesystem in ("swap", "none"):
            raise _malformed("mount", f"cannot be given with filesystem {spec.filesystem}")
        if len(spec.mount) > 200 or names.MOUNT_POINT.fullmatch(spec.mount) is None:
            raise _malformed("mount", f"must match {names.MOUNT_POINT.pattern}")
        if spec.mount in NEEDED or f"{spec.mount}/".startswith(NEEDED_BELOW):
            raise _malformed("mount", f"{spec.mount} is needed before volumes are opened")
    if (spec.origin == "foreign") != (spec.luks_uuid is not None):
        raise _malformed("luks_uuid", "must be given exactly for a volume that somebody else formatted")
    if spec.luks_uuid is not None and names.UUID.fullmatch(spec.luks_uuid) is None:
        raise _malformed("luks_uuid", f"must match {names.UUID.pattern}")
    if spec.origin != "blank" and (is_swap or spec.serial is None):
        raise _malformed("serial", "of a disk that holds data must be given, and swap has none")
    if not 0 <= spec.argon2_memory_kib <= MOST_ARGON2_KIB or (
        spec.argon2_memory_kib and spec.origin != "foreign"
    ):
        raise _malformed("argon2_memory_kib", f"must be from 0 to {MOST_ARGON2_KIB}, and 0 unless foreign")
    if spec.serial is not None and names.SERIAL.fullmatch(spec.serial) is None:
        raise _malformed("serial", f"must match {names.SERIAL.pattern}")


def check_room(others: Iterable[VolumeRow], addon: str, serial: str | None) -> None:
    """Check that an add-on may have one more volume, on a disk of that serial.

    Raises:
        KeybrokerError: CONFLICT where it has as many as it may; EXISTS for a serial that is another's.
    """
    there = [row.volume for row in others if row.volume.stage != "erased"]
    if len(there) >= MOST_VOLUMES:
        raise KeybrokerError(Problem.CONFLICT, f"add-on {addon}: has {MOST_VOLUMES} volumes already")
    for volume in there:
        if serial is not None and volume.serial == serial:
            raise KeybrokerError(Problem.EXISTS, f"serial {serial}: is that of volume {volume.name}")


def declared_alike(volume: Volume, spec: VolumeSpec) -> bool:
    """Say whether a volume is just what is asked for; its stage does not count."""
    return (
        (volume.size_bytes, volume.profile.cipher, volume.mount, volume.filesystem)
        == (spec.size_bytes, spec.cipher, spec.mount, spec.filesystem)
    ) and volume.serial == (spec.serial or volume.id)


def _profile(spec: VolumeSpec) -> Profile:
    """Return the profile of a new volume; one that others formatted may have what they are known to write."""
    if spec.origin != "foreign":
        return first_profile(spec.cipher)
    return replace(adopted_profile(spec.cipher), argon2_memory_kib=spec.argon2_memory_kib)


_STAGES: Final[dict[str, Stage]] = {"blank": "new", "foreign": "foreign", "plain": "plain"}


def new_volume(
    broker: Broker,
    keys: list[AddonKeyRow],
    addon: AddonName,
    name: str,
    spec: VolumeSpec,
    now: datetime,
) -> VolumeRow:
    """Make a volume, not yet stored."""
    volume_id = VolumeId("kbv-" + random_suffix(broker.entropy))
    keyless = spec.filesystem == "swap" or spec.origin == "plain"
    keyring = None if keyless else Keyring.first()
    volume = Volume(
        id=volume_id,
        addon=addon,
        name=VolumeName(name),
        stage=_STAGES[spec.origin],
        revision=1,
        size_bytes=spec.size_bytes,
        filesystem=spec.filesystem,
        mount=spec.mount,
        serial=spec.serial or volume_id,
        luks_uuid=spec.luks_uuid or str(uuid.UUID(bytes=broker.entropy(16), version=4)),
        profile=_profile(spec),
        keyring=keyring,
        born_encrypted=spec.origin == "blank",
    )
    if keyring is None:
        return VolumeRow(volume, now, {})
    wrapped = AddonKeys(broker.masterkey, keys).wrap(
        new_passphrase(broker.entropy), passphrase_context(volume, FIRST), broker.entropy
    )
    return VolumeRow(volume, now, {FIRST: wrapped}, {FIRST: now})


def _malformed(field: str, what: str) -> KeybrokerError:
    return KeybrokerError(Problem.MALFORMED, f"{field}: {what}")
