"""A new volume: what an operator may ask for, and making it, with its first key wrapped at once."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Final

from keybroker.model import Keyring, Volume
from keybroker.service.broker import Broker
from keybroker.service.keys import AddonKeys, new_passphrase, passphrase_context
from keybroker.service.views import VolumeSpec
from keybroker.store.rows import AddonKeyRow, VolumeRow
from keybroker.wire import names
from keybroker.wire.fields import LARGEST_INTEGER
from keybroker.wire.names import AddonName, VolumeId, VolumeName
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import CIPHERS, MIB, first_profile
from keybroker.wire.records import FILESYSTEMS

SMALLEST_DATA: Final = 16 * MIB
"""Of a data volume, in bytes: the header takes 4 MiB of it, a filesystem some more."""

SMALLEST_SWAP: Final = 2 * MIB
"""Of a swap volume, in bytes: its mark takes 1 MiB."""

NEEDED: Final = frozenset({
    "/boot", "/etc", "/opt", "/opt/keybroker", "/usr", "/var", "/var/lib", "/var/lib/keybroker-agent",
    "/var/log", "/var/log/journal",
    "/tmp", "/var/tmp",  # noqa: S108  # named, not used
})  # fmt: skip
"""Directories that a machine needs before it opens volumes: a mount unit there is an ordering cycle, which
systemd breaks by dropping some job of the boot."""

NEEDED_BELOW: Final = ("/boot/", "/dev/", "/etc/", "/proc/", "/run/", "/sys/")

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
    if spec.serial is not None and names.SERIAL.fullmatch(spec.serial) is None:
        raise _malformed("serial", f"must match {names.SERIAL.pattern}")


def declared_alike(volume: Volume, spec: VolumeSpec) -> bool:
    """Say whether a volume is just what is asked for; its stage does not count."""
    return (
        (volume.size_bytes, volume.profile.cipher, volume.mount, volume.filesystem)
        == (spec.size_bytes, spec.cipher, spec.mount, spec.filesystem)
    ) and volume.serial == (spec.serial or volume.id)


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
    volume = Volume(
        id=volume_id,
        addon=addon,
        name=VolumeName(name),
        stage="new",
        revision=1,
        size_bytes=spec.size_bytes,
        filesystem=spec.filesystem,
        mount=spec.mount,
        serial=spec.serial or volume_id,
        luks_uuid=str(uuid.UUID(bytes=broker.entropy(16), version=4)),
        profile=first_profile(spec.cipher),
        keyring=None if spec.filesystem == "swap" else Keyring.first(),
    )
    if volume.keyring is None:
        return VolumeRow(volume, now, {})
    version = volume.keyring.current
    wrapped = AddonKeys(broker.masterkey, keys).wrap(
        new_passphrase(broker.entropy), passphrase_context(volume, version), broker.entropy
    )
    return VolumeRow(volume, now, {version: wrapped})


def _malformed(field: str, what: str) -> KeybrokerError:
    return KeybrokerError(Problem.MALFORMED, f"{field}: {what}")
