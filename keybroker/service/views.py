"""What operators are shown of add-ons, volumes, hosts and operators; no key is among it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from keybroker.audit import rfc3339
from keybroker.model import Deletion, Volume
from keybroker.store.recoveryrows import AheadRow
from keybroker.store.rows import (
    AddonRow,
    HeaderRow,
    HostRow,
    OperatorRow,
    ProofRow,
    ReportRow,
    VolumeRow,
)
from keybroker.terms import Terms
from keybroker.wire.names import AddonName, HostId, Role
from keybroker.wire.orders import AtBoot, OrderKind
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret

HostState = Literal["invited", "enrolled", "revoked"]


@dataclass(frozen=True, slots=True)
class AddonView:
    """An add-on, its policy at release, and how many volumes and hosts (revoked ones apart) it has.

    Attributes:
        deletion: its destruction, as far as that is pending.
        destroyed: when it was destroyed.
    """

    name: AddonName
    engine: str
    created: datetime
    volumes: int
    hosts: int
    terms: Terms
    deletion: Deletion | None = None
    destroyed: datetime | None = None

    @classmethod
    def of(cls, row: AddonRow, volumes: list[VolumeRow], hosts: list[HostRow]) -> AddonView:
        """Return the view of a row, counting what is its own."""
        return cls(
            name=row.name,
            engine=row.engine,
            created=row.created,
            volumes=sum(each.volume.addon == row.name for each in volumes),
            hosts=sum(each.addon == row.name and each.revoked is None for each in hosts),
            terms=row.terms,
            deletion=row.deletion,
            destroyed=row.destroyed,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the wire form; times are RFC 3339 in UTC."""
        return {
            "name": self.name,
            "engine": self.engine,
            "created": rfc3339(self.created),
            "volumes": self.volumes,
            "hosts": self.hosts,
            "policy": self.terms.as_json(),
            "deletion": self.deletion and self.deletion.as_json(),
            "destroyed": self.destroyed and rfc3339(self.destroyed),
        }


Origin = Literal["blank", "foreign", "plain"]


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """A volume as an operator asks for it.

    Attributes:
        size_bytes: the least size its device must have.
        cipher: one of ``wire.profile.CIPHERS``.
        mount: None where nothing is mounted.
        filesystem: one of ``wire.records.FILESYSTEMS``; ``swap`` makes it a swap volume.
        serial: of the disk; None for a disk whose serial is the volume's id.
        origin: what its disk holds now: nothing, a LUKS2 volume that somebody else made, or a filesystem in
            the clear.
        luks_uuid: of a foreign volume's header.
        argon2_memory_kib: most memory that a foreign volume's keyslots may ask for; 0 for none with argon2.
    """

    size_bytes: int
    cipher: str
    mount: str | None
    filesystem: str
    serial: str | None = None
    origin: Origin = "blank"
    luks_uuid: str | None = None
    argon2_memory_kib: int = 0


@dataclass(frozen=True, slots=True)
class OrderSpec:
    """An order as an operator gives it; attributes as in ``wire.orders.Order``, and

    Attributes:
        size_bytes: of the successor's disk, of a migration; None for as large as the holder's.
        serial: of the successor's disk, None where it is the successor's id.
        disk_gone: erase what the broker has, for nobody will report from that disk any more.
    """

    kind: OrderKind
    rate: int | None = None
    at_boot: AtBoot = "beside"
    offline: bool = False
    drop_foreign: bool = False
    backed_up: bool = False
    size_bytes: int | None = None
    serial: str | None = None
    disk_gone: bool = False


@dataclass(frozen=True, slots=True)
class VolumeView:
    """A volume's record, and what else is known of it.

    Attributes:
        current_since: when its current key was made; None where it has none.
        report: what was last heard of it; None where nothing was.
        proof: when a key was last seen to open it.
        headers: the header copies that are kept, without the copies themselves, the newest last.
        statements: how many statements of destruction there are about it.
        ahead: in what its host knows more of it than the database, which was set back.
        with_addon: the destruction of its whole add-on, as far as that is pending.
    """

    record: Record
    created: datetime
    current_since: datetime | None
    volume: Volume
    report: ReportRow | None = None
    proof: ProofRow | None = None
    headers: tuple[HeaderRow, ...] = ()
    statements: int = 0
    ahead: AheadRow | None = None
    with_addon: Deletion | None = None

    @classmethod
    def of(
        cls,
        row: VolumeRow,
        report: ReportRow | None = None,
        proof: ProofRow | None = None,
        headers: Iterable[HeaderRow] = (),
        statements: int = 0,
        ahead: AheadRow | None = None,
        with_addon: Deletion | None = None,
    ) -> VolumeView:
        """Return the view of a row."""
        keys = row.volume.keyring
        since = row.minted.get(keys.current) if keys is not None and keys.current is not None else None
        kept = tuple(headers)
        facts = (report, proof, kept, statements, ahead, with_addon)
        return cls(row.volume.record, row.created, since, row.volume, *facts)

    def as_json(self) -> dict[str, Any]:
        """Return the wire form: the record's fields, and what else is known."""
        report, proof, keys = self.report, self.proof, self.volume.keyring
        sealed = self.record.recovery
        return {
            **self.record.as_json(),
            "recovery": sealed and {"version": sealed.version, "digest": sealed.digest},
            "created": rfc3339(self.created),
            "current_since": self.current_since and rfc3339(self.current_since),
            "born_encrypted": self.volume.born_encrypted,
            "plaintext": self.record.stage == "plain",
            "block_older": self.volume.block_older,
            "retired": [
                {
                    "version": old.version,
                    "destroy_after": old.destroy_after and rfc3339(old.destroy_after),
                }
                for old in (keys.retired if keys else ())
            ],
            "destroyed": list(keys.destroyed if keys else ()),
            "report": report and {"at": rfc3339(report.at), "host": report.host, **report.report.as_json()},
            "proof": proof
            and {"at": rfc3339(proof.at), "version": proof.version, "sequence": proof.sequence},
            "headers": [
                {
                    "number": copy.number,
                    "sequence": copy.sequence,
                    "key_version": copy.key_version,
                    "created": rfc3339(copy.created),
                }
                for copy in self.headers
            ],
            "statements": self.statements,
            "ahead": _ahead(self.ahead),
            "deletion": self._deletion(),
        }

    def _deletion(self) -> dict[str, Any] | None:
        """Return which pending destruction takes the volume first: its own, or that of its add-on."""
        own, others = self.volume.deletion, self.with_addon
        if self.volume.stage == "erased" or (own is None and others is None):
            return None
        if own is None or (others is not None and others.due < own.due):
            assert others is not None, "one of them is there"  # noqa: S101
            return {**others.as_json(), "addon": True}
        return {**own.as_json(), "addon": False}


def _ahead(row: AheadRow | None) -> dict[str, Any] | None:
    if row is None or row.accepted is not None:
        return None
    return {"why": row.why, "at": rfc3339(row.at), "named": row.named, "ciphertext": row.ciphertext}


@dataclass(frozen=True, slots=True)
class HostView:
    """A host: invited, enrolled or revoked.

    Attributes:
        expires: when its newest certificate is over.
        lock: whether it is told to close what it has open.
    """

    host: HostId
    addon: AddonName
    state: HostState
    invited: datetime
    enrolled: datetime | None
    expires: datetime | None
    revoked: datetime | None
    reason: str | None
    lock: bool

    @classmethod
    def of(cls, row: HostRow) -> HostView:
        """Return the view of a row."""
        state: HostState = "revoked" if row.revoked else "enrolled" if row.enrolled else "invited"
        times = row.invited, row.enrolled, row.expires, row.revoked
        return cls(row.id, row.addon, state, *times, row.reason, row.lock)

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
            "lock": self.lock,
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


OperatorState = Literal["active", "revoked"]


@dataclass(frozen=True, slots=True)
class OperatorView:
    """An operator.

    Attributes:
        roles: sorted.
        added_by: the operator who added it; None for one that was made on the broker's machine.
        expires: when the newest of its certificates that count is over.
    """

    name: str
    state: OperatorState
    roles: tuple[Role, ...]
    created: datetime
    added_by: str | None
    expires: datetime | None
    revoked: datetime | None
    reason: str | None

    @classmethod
    def of(cls, row: OperatorRow) -> OperatorView:
        """Return the view of a row."""
        return cls(
            name=row.name,
            state="revoked" if row.revoked else "active",
            roles=tuple(sorted(row.roles)),
            created=row.created,
            added_by=row.added_by,
            expires=row.expires,
            revoked=row.revoked,
            reason=row.reason,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "name": self.name,
            "state": self.state,
            "roles": list(self.roles),
            "created": rfc3339(self.created),
            "added_by": self.added_by,
            "expires": self.expires and rfc3339(self.expires),
            "revoked": self.revoked and rfc3339(self.revoked),
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Appointment:
    """An operator with a certificate, and all else that its command line needs.

    Attributes:
        certificate, ca: PEM.
        brokers: base URLs of the main listeners.
    """

    operator: OperatorView
    certificate: str
    ca: str
    brokers: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the wire form: the operator's fields, and these."""
        return {
            **self.operator.as_json(),
            "certificate": self.certificate,
            "ca": self.ca,
            "brokers": list(self.brokers),
        }
