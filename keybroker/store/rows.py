"""What the store holds, row by row, for whoever uses it; no SQL here."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from keybroker.audit import rfc3339
from keybroker.model import Deletion, Volume
from keybroker.terms import UNCHANGED, Terms
from keybroker.wire.names import AddonName, HostId, KeyVersion, Role, VolumeId
from keybroker.wire.reports import VolumeReport


@dataclass(frozen=True, slots=True)
class InstallationRow:
    """What the database says of the installation it belongs to; there is one.

    Attributes:
        ca_fingerprint: SHA-256 of the CA certificate's DER, hex.
    """

    trust_domain: str
    ca_fingerprint: str
    created: datetime


MasterState = Literal["wraps", "unwraps", "forgotten"]
"""One master key wraps; those before it only unwrap, until nothing needs them and they are forgotten."""


@dataclass(frozen=True, slots=True)
class MasterKeyRow:
    """A master key that this broker uses or has used; never the key itself.

    Attributes:
        identity: its name, 32 hex digits.
        uri: of its provider when it was taken; empty where that is not known.
        key_check: 32 known bytes, wrapped by it: another key does not open them.
        emptied: since when it wraps nothing any more; None while it does, or while it may.
        renews: whether add-ons and the signing of statements get new keys, for those that the one before
            wrapped are known to somebody.
    """

    identity: str
    uri: str
    state: MasterState
    key_check: bytes
    created: datetime
    emptied: datetime | None = None
    renews: bool = False


@dataclass(frozen=True, slots=True)
class WrappedRow:
    """Something that a master key or an add-on's key wraps, wherever it is.

    Attributes:
        table: its name.
        key: the values of its primary key.
        addon, luks_uuid: of the volume that it belongs to; empty where there is none.
    """

    table: str
    key: tuple[Any, ...]
    wrapped: bytes
    addon: str = ""
    luks_uuid: str = ""


@dataclass(frozen=True, slots=True)
class AddonRow:
    """An add-on: one database machine and what belongs to it.

    Attributes:
        terms: its policy at release.
        deletion: its destruction, as far as that is pending.
        destroyed: when it was destroyed; its name is not used again.
    """

    name: AddonName
    engine: str
    created: datetime
    terms: Terms = UNCHANGED
    deletion: Deletion | None = None
    destroyed: datetime | None = None


@dataclass(frozen=True, slots=True)
class AddonKeyRow:
    """A generation of an add-on's key.

    Attributes:
        id: 16 random bytes, by which envelopes call it.
        wrapped: by the master key called ``master``.
        made_under: the master key that wrapped it first; None where that is not known.
    """

    addon: AddonName
    generation: int
    id: bytes
    wrapped: bytes
    master: str
    created: datetime
    made_under: str | None = None


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """A volume with its wrapped keys.

    Attributes:
        wrapped: of every version that the broker still has.
        minted: when each version was made.
    """

    volume: Volume
    created: datetime
    wrapped: dict[KeyVersion, bytes]
    minted: dict[KeyVersion, datetime] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class HeaderRow:
    """A header copy.

    Attributes:
        number: 1, 2, 3 … of one volume.
        sequence: of the header.
        key_version: the version that was current when it was deposited.
    """

    volume: VolumeId
    number: int
    sequence: int
    key_version: KeyVersion
    wrapped: bytes
    created: datetime


@dataclass(frozen=True, slots=True)
class ReportRow:
    """What was last heard of a volume.

    Attributes:
        host: that said it.
    """

    volume: VolumeId
    host: HostId
    at: datetime
    report: VolumeReport


@dataclass(frozen=True, slots=True)
class ProofRow:
    """When a key was last seen to open a volume, and which header it opened, by sequence."""

    volume: VolumeId
    version: KeyVersion
    sequence: int
    at: datetime


@dataclass(frozen=True, slots=True)
class SignerRow:
    """A key that signs statements of destruction and checkpoints (Ed25519, RFC 8032).

    Attributes:
        public: 32 bytes.
        wrapped: the private key, by the master key called ``master``.
        made_under: the master key that wrapped it first; None where that is not known.
    """

    public: bytes
    wrapped: bytes
    master: str
    created: datetime
    made_under: str | None = None


@dataclass(frozen=True, slots=True)
class StatementRow:
    """A signed statement of what was destroyed.

    Attributes:
        number: 1, 2, 3 … of one volume.
        document: the very text that was signed.
        public: of the key that signed it.
    """

    volume: VolumeId
    number: int
    at: datetime
    document: str
    signature: bytes
    public: bytes


@dataclass(frozen=True, slots=True)
class AddonStatementRow:
    """A signed statement of what was destroyed of a whole add-on; there is one at most.

    Attributes:
        document: the very text that was signed.
        public: of the key that signed it.
    """

    addon: AddonName
    at: datetime
    document: str
    signature: bytes
    public: bytes


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A signed checkpoint of the audit trail.

    Attributes:
        number: 1, 2, 3 … without a gap.
        document: the very text that was signed (``keybroker.checkpoint``).
        public: of the key that signed it.
    """

    number: int
    document: str
    signature: bytes
    public: bytes


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host; enrolled once it has its first certificate.

    Attributes:
        expires: when its newest certificate is over.
        lock: whether it is to close what it has open, once it is revoked.
    """

    id: HostId
    addon: AddonName
    invited: datetime
    enrolled: datetime | None = None
    expires: datetime | None = None
    revoked: datetime | None = None
    reason: str | None = None
    lock: bool = False


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """An operator; revoked for good, for its name stands in the record.

    Attributes:
        added_by: the operator who added it; None for one that was made on the broker's machine.
        since: certificates that were issued before do not count.
        expires: when the newest of those that count is over.
    """

    name: str
    created: datetime
    roles: frozenset[Role]
    added_by: str | None
    since: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """A certificate that was issued, to a host or to an operator.

    Attributes:
        fingerprint: SHA-256 of its DER, hex.
        spki: SHA-256 of its public key, hex.
    """

    fingerprint: str
    serial: str
    host: HostId | None
    operator: str | None
    spki: str
    not_before: datetime
    not_after: datetime
    issued: datetime
    pem: str


@dataclass(frozen=True, slots=True)
class EnrolmentRow:
    """A one-time token, by its hash.

    Attributes:
        used: when; None while it is good.
        certificate: fingerprint of the certificate that it was spent on.
    """

    token_hash: str
    host: HostId
    created: datetime
    expires: datetime
    used: datetime | None = None
    certificate: str | None = None


@dataclass(frozen=True, slots=True)
class AdmissionRow:
    """A certificate as a request comes with it: whom it was issued to, and how they stand.

    Attributes:
        addon: the host's; None for an operator.
        revoked: when the host or operator was turned away, or this certificate of an operator replaced.
        roles: the operator's; empty for a host.
        terms: the policy of the host's add-on.
        deletion: of the host's add-on, as far as that is pending.
        lock: whether a host that was turned away is to close what it has open.
    """

    host: HostId | None
    operator: str | None
    addon: AddonName | None
    not_before: datetime
    not_after: datetime
    revoked: datetime | None
    roles: frozenset[Role] = frozenset()
    terms: Terms = UNCHANGED
    deletion: Deletion | None = None
    lock: bool = False


def to_text(time: datetime) -> str:
    """Return a time as a column holds it: fixed width, so that text order is time order."""
    return rfc3339(time)


def from_text(text: str) -> datetime:
    """Return a column's time, aware, in UTC."""
    return datetime.fromisoformat(text[:26]).replace(tzinfo=UTC)
