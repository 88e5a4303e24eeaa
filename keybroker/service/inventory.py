"""What operators do: add-ons, volumes, hosts, and the audit trail. Nothing here returns a key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from keybroker.audit import AuditEntry
from keybroker.policy import Peer
from keybroker.service.broker import Broker
from keybroker.wire.names import AddonName, HostId, VolumeName
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret

HostState = Literal["invited", "enrolled", "revoked"]

LONGEST_INVITATION_SECONDS = 7 * 86400
DEFAULT_INVITATION_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class AddonView:
    """An add-on, and how many volumes and hosts (revoked ones apart) it has."""

    name: AddonName
    engine: str
    created: datetime
    volumes: int
    hosts: int

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


def rfc3339(time: datetime) -> str:
    """Return a UTC time as ``2026-01-31T12:00:00.000000Z`` (RFC 3339 section 5.6)."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def put_addon(broker: Broker, peer: Peer, name: str, engine: str) -> tuple[AddonView, bool]:
    """Make an add-on, with its own random key.

    Returns:
        The add-on, and whether it is new; False where it was there already with this engine.

    Raises:
        KeybrokerError: NOT_ALLOWED, NO_IDENTITY, REVOKED or CERTIFICATE for the peer; MALFORMED for a name or engine that is
            none; EXISTS where it is there with another engine; UNAVAILABLE.
    """
    raise NotImplementedError


def addons(broker: Broker, peer: Peer) -> tuple[AddonView, ...]:
    """Return all add-ons by name.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer.
    """
    raise NotImplementedError


def addon(broker: Broker, peer: Peer, name: str) -> AddonView:
    """Return one add-on.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN.
    """
    raise NotImplementedError


def put_volume(
    broker: Broker, peer: Peer, addon: str, name: str, spec: VolumeSpec
) -> tuple[VolumeView, bool]:
    """Make a volume, and for a data volume its first key, which is wrapped at once and not returned.

    Returns:
        The volume, and whether it is new; False where it was there already just like this.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; MALFORMED for a specification that makes no sense; UNKNOWN add-on;
            EXISTS where it is there and differs, or where another volume has its mount point or serial.
    """
    raise NotImplementedError


def volumes(broker: Broker, peer: Peer, addon: str | None = None) -> tuple[VolumeView, ...]:
    """Return all volumes, or one add-on's, by add-on and name.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN add-on.
    """
    raise NotImplementedError


def volume(broker: Broker, peer: Peer, addon: str, name: str) -> VolumeView:
    """Return one volume.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN.
    """
    raise NotImplementedError


def invite(
    broker: Broker, peer: Peer, addon: str, lifetime_seconds: int = DEFAULT_INVITATION_SECONDS
) -> Invitation:
    """Make a host and the one-time token that its VM enrols with.

    Args:
        lifetime_seconds: of the token, from 60 to a week.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN add-on; MALFORMED lifetime.
    """
    raise NotImplementedError


def hosts(broker: Broker, peer: Peer, addon: str | None = None) -> tuple[HostView, ...]:
    """Return all hosts, or one add-on's, oldest first.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN add-on.
    """
    raise NotImplementedError


def host(broker: Broker, peer: Peer, host: str) -> HostView:
    """Return one host.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN.
    """
    raise NotImplementedError


def revoke(broker: Broker, peer: Peer, host: str, reason: str) -> HostView:
    """Turn a host away from now on: no request of it that is decided after this returns gets a key.

    Args:
        reason: 1 to 500 characters, for the record; that of the first revocation stays.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN; MALFORMED reason.
    """
    raise NotImplementedError


def audit_tail(broker: Broker, peer: Peer, after: int = 0, limit: int = 100) -> tuple[AuditEntry, ...]:
    """Return audit records in order, the ones whose sequence number is above ``after``.

    Args:
        after: a sequence number; -1 or lower for the last ``limit`` records.
        limit: from 1 to 1000.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; MALFORMED limit.
    """
    raise NotImplementedError


def audit_verify(broker: Broker) -> tuple[int, str]:
    """Recompute the whole hash chain; for whoever sits at the broker itself, so there is no peer.

    Returns:
        How many records there are, and the last one's hash in hex.

    Raises:
        KeybrokerError: CORRUPT, naming the first record that is wrong.
    """
    raise NotImplementedError
