"""What operators are shown of add-ons, volumes and hosts; no key is among it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from keybroker.audit import rfc3339
from keybroker.store.rows import AddonRow, HostRow, VolumeRow
from keybroker.wire.names import AddonName, HostId
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret

HostState = Literal["invited", "enrolled", "revoked"]


@dataclass(frozen=True, slots=True)
class AddonView:
    """An add-on, and how many volumes and hosts (revoked ones apart) it has."""

    name: AddonName
    engine: str
    created: datetime
    volumes: int
    hosts: int

    @classmethod
    def of(cls, row: AddonRow, volumes: list[VolumeRow], hosts: list[HostRow]) -> AddonView:
        """Return the view of a row, counting what is its own."""
        return cls(
            name=row.name,
            engine=row.engine,
            created=row.created,
            volumes=sum(each.volume.addon == row.name for each in volumes),
            hosts=sum(each.addon == row.name and each.revoked is None for each in hosts),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the wire form; times are RFC 3339 in UTC."""
        return {
            "name": self.name,
            "engine": self.engine,
            "created": rfc3339(self.created),
            "volumes": self.volumes,
            "hosts": self.hosts,
        }


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """A volume as an operator asks for it.

    Attributes:
        size_bytes: the least size its device must have.
        cipher: one of ``wire.profile.CIPHERS``.
        mount: None where nothing is mounted.
        filesystem: one of ``wire.records.FILESYSTEMS``; ``swap`` makes it a swap volume.
        serial: of the disk; None for a disk whose serial is the volume's id.
    """

    size_bytes: int
    cipher: str
    mount: str | None
    filesystem: str
    serial: str | None = None


@dataclass(frozen=True, slots=True)
class VolumeView:
    """A volume's record, and when it was made."""

    record: Record
    created: datetime

    @classmethod
    def of(cls, row: VolumeRow) -> VolumeView:
        """Return the view of a row."""
        return cls(row.volume.record, row.created)

    def as_json(self) -> dict[str, Any]:
        """Return the wire form: the record's fields and ``created``."""
        return {**self.record.as_json(), "created": rfc3339(self.created)}


@dataclass(frozen=True, slots=True)
class HostView:
    """A host: invited, enrolled or revoked.

    Attributes:
        expires: when its newest certificate is over.
    """

    host: HostId
    addon: AddonName
    state: HostState
    invited: datetime
    enrolled: datetime | None
    expires: datetime | None
    revoked: datetime | None
    reason: str | None

    @classmethod
    def of(cls, row: HostRow) -> HostView:
        """Return the view of a row."""
        state: HostState = "enrolled" if row.enrolled else "invited"
        return cls(
            host=row.id,
            addon=row.addon,
            state="revoked" if row.revoked else state,
            invited=row.invited,
            enrolled=row.enrolled,
            expires=row.expires,
            revoked=row.revoked,
            reason=row.reason,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "host": self.host,
            "addon": self.addon,
            "state": self.state,
            "invited": rfc3339(self.invited),
            "enrolled": self.enrolled and rfc3339(self.enrolled),
            "expires": self.expires and rfc3339(self.expires),
            "revoked": self.revoked and rfc3339(self.revoked),
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Invitation:
    """A one-time token for one host of one add-on; the broker itself keeps only its hash."""

    token: Secret
    host: HostId
    expires: datetime

    def as_json(self) -> dict[str, Any]:
        """Return the wire form; this is the one time that the token is text."""
        return {
            "token": self.token.reveal().decode(),
            "host": self.host,
            "expires": rfc3339(self.expires),
        }
