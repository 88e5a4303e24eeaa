"""Volumes to test with."""

from __future__ import annotations

import uuid
from hashlib import sha256

from keybroker.wire.names import AddonName, KeyVersion, VolumeId, VolumeName
from keybroker.wire.profile import MIB, first_profile
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret, passphrase

SIZE = 16 * MIB
"""Of every test disk, in bytes: the least that the agent takes for a volume."""

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def volume_id(name: str) -> VolumeId:
    digest = sha256(name.encode()).digest()
    return VolumeId("kbv-" + "".join(_ALPHABET[byte % 32] for byte in digest[:12]))


def key_of(name: str, version: int = 1) -> Secret:
    """Return a passphrase of the right form: what it is for is all that is random about it."""
    return passphrase(sha256(f"{name} {version}".encode()).hexdigest()[:43].encode())


def record(
    name: str = "data", *, filesystem: str = "ext4", mount: str | None = "/srv/data", size: int = SIZE
) -> Record:
    """Return the record of a volume that was just added."""
    is_swap = filesystem == "swap"
    version = None if is_swap else KeyVersion(1)
    return Record(
        volume=volume_id(name),
        addon=AddonName("shop-db"),
        name=VolumeName(name),
        stage="new",
        revision=1,
        size_bytes=size,
        filesystem=filesystem,
        mount=None if is_swap or filesystem == "none" else mount,
        serial=volume_id(name),
        device=None,
        luks_uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
        profile=first_profile("aes-xts-plain64"),
        pin=None,
        sequence=None,
        current=version,
        wanted=version,
    )
