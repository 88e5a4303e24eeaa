"""The names of things, each with its form, and the names that certificates carry.

| name | form | example |
|---|---|---|
| AddonName | letter, then letters, digits, hyphens; 40 at most | ``shop-db`` |
| VolumeName | the same, 24 at most; unique within its add-on | ``data`` |
| VolumeId | ``kbv-`` and 12 of a-z2-7; made by the broker, never used again | ``kbv-q3m5x7abcdef`` |
| HostId | ``kbh-`` and 12 of a-z2-7 | ``kbh-q3m5x7abcdef`` |
| KeyVersion | 1, 2, 3 … of one volume, never used again | ``7`` |

A volume id is short enough to be a virtio disk's serial (20 bytes, Linux virtio_blk), and that is what
the platform sets it to: a disk says itself which volume it is, and ``/dev/vdb`` means nothing.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NewType

from keybroker.wire.values import dataclass

AddonName = NewType("AddonName", str)
VolumeName = NewType("VolumeName", str)
VolumeId = NewType("VolumeId", str)
HostId = NewType("HostId", str)
KeyVersion = NewType("KeyVersion", int)

ADDON_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")
VOLUME_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,23}")
VOLUME_ID: Final = re.compile(r"kbv-[a-z2-7]{12}")
HOST_ID: Final = re.compile(r"kbh-[a-z2-7]{12}")
OPERATOR_NAME: Final = re.compile(r"[a-z][a-z0-9._-]{0,63}")
SERIAL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
MACHINE_ID: Final = re.compile(r"[0-9a-f]{32}")
"""/etc/machine-id (machine-id(5))."""

AGENT_VERSION: Final = re.compile(r"[0-9A-Za-z.+-]{1,32}")
TRUST_DOMAIN: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")
MOUNT_POINT: Final = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+")
"""Absolute, without ``.``-components, spaces or what systemd would have to escape oddly."""

ENGINES: Final = frozenset({"postgresql", "mysql", "mongodb", "redis", "elastic", "jenkins", "other"})

Kind = Literal["host", "operator"]

Role = Literal["operator", "approver", "auditor", "metrics"]
"""What an operator may be; ``keybroker.rights`` has what each of them may do."""

ROLES: Final = frozenset({"operator", "approver", "auditor", "metrics"})


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a certificate is for: its one URI SAN, ``spiffe://<trust domain>/<kind>/<name>``.

    Source: SPIFFE-ID specification, sections 2.1 and 2.2; RFC 5280 section 4.2.1.6 for the SAN.
    """

    trust_domain: str
    kind: Kind
    name: str

    @property
    def uri(self) -> str:
        """The SAN's text."""
        return f"spiffe://{self.trust_domain}/{self.kind}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> Identity | None:
        """Read a SAN's text; None for any other URI, however close."""
        match = re.fullmatch(r"spiffe://([^/?#]+)/(host|operator)/([^/?#]+)", uri)
        if match is None or TRUST_DOMAIN.fullmatch(match[1]) is None:
            return None
        if match[2] == "host":
            return cls(match[1], "host", match[3]) if HOST_ID.fullmatch(match[3]) else None
        return cls(match[1], "operator", match[3]) if OPERATOR_NAME.fullmatch(match[3]) else None


def mapper_name(volume: VolumeName) -> str:
    """Return the stable name under /dev/mapper: the dm-linear device that is mounted."""
    return f"kb-{volume}"


def luks_label(volume: VolumeId) -> str:
    """Return the LUKS2 label of a volume."""
    return f"kb-{volume.removeprefix('kbv-')}"


def crypt_name(volume: VolumeName, luks_uuid: str) -> str:
    """Return the name of the dm-crypt device below it; a migration has two of them at once."""
    return f"kb-{volume}-{luks_uuid[:8]}"


def swap_crypt_name(volume: VolumeName) -> str:
    """Return the name of a swap volume's dm-crypt device, which has no linear device above it."""
    return f"kb-{volume}"
