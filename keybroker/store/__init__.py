"""What is durable at the broker: a Protocol of transactions, and SQLite behind it through SQLAlchemy Core.

``read`` and ``write`` take a function and run it in a transaction. A write that returned is on the disk; one
that raised has changed nothing. Functions run in any order and thread: they touch only what they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Protocol, TypeVar

from keybroker.audit import AuditEntry
from keybroker.store.booting import BootingReading, BootingWriting
from keybroker.store.chaining import ChainingReading, ChainingWriting
from keybroker.store.counted import CountingReading
from keybroker.store.deleting import DeletingReading, DeletingWriting
from keybroker.store.recovering import RecoveringReading, RecoveringWriting
from keybroker.store.rows import (
    AddonKeyRow,
    AddonRow,
    AdmissionRow,
    CertificateRow,
    CheckpointRow,
    EnrolmentRow,
    HeaderRow,
    HostRow,
    InstallationRow,
    MasterKeyRow,
    OperatorRow,
    ProofRow,
    ReportRow,
    SignerRow,
    StatementRow,
    VolumeRow,
    WrappedRow,
)
from keybroker.store.trusted import TrustedReading, TrustedWriting
from keybroker.terms import Terms
from keybroker.wire.names import AddonName, HostId, KeyVersion, Role, VolumeId

__all__ = ["Reading", "Store", "Writing"]

T = TypeVar("T")


class Reading(
    RecoveringReading,
    CountingReading,
    DeletingReading,
    BootingReading,
    TrustedReading,
    ChainingReading,
    Protocol,
):
    """A consistent view of everything, as of one moment."""

    def installation(self) -> InstallationRow | None:
        """Return what the database belongs to; None before ``create`` has said so."""
        ...

    def master_keys(self) -> list[MasterKeyRow]:
        """Return all master keys there ever were, the newest last."""
        ...

    def wrapped_by_masters(self) -> dict[str, int]:
        """Return how many keys each master key wraps; one that wraps none is not in it."""
        ...

    def wrapped_by_other_masters(
        self, master: str, table: str, after: tuple[Any, ...] | None, limit: int
    ) -> list[WrappedRow]:
        """Return rows of a table that another master key wraps, by primary key, from behind ``after`` on."""
        ...

    def newest_addon_keys(self) -> list[AddonKeyRow]:
        """Return the newest generation of each add-on's key, by add-on."""
        ...

    def stale_addons(self) -> list[AddonName]:
        """Return the add-ons that have an older generation of their key beside the newest, by name."""
        ...

    def wrapped_by_older(
        self, key: AddonKeyRow, table: str, after: tuple[Any, ...] | None, limit: int
    ) -> list[WrappedRow]:
        """Return rows of a table that another key than this one of their add-on wraps, by primary key."""
        ...

    def addon_key_wraps(self, row: AddonKeyRow) -> bool:
        """Say whether anything is wrapped by a generation of an add-on's key."""
        ...

    def wrapped_by_addons(self) -> tuple[int, int]:
        """Return how many records add-ons' keys wrap, and how many of them an older one than the newest."""
        ...

    def admission(self, fingerprint: str) -> AdmissionRow | None:
        """Return whom a certificate was issued to, and how they stand."""
        ...

    def addons(self) -> list[AddonRow]:
        """Return all add-ons by name."""
        ...

    def addon(self, name: str) -> AddonRow | None:
        """Return one add-on."""
        ...

    def addon_keys(self, addon: AddonName) -> list[AddonKeyRow]:
        """Return the generations of an add-on's key, the newest last."""
        ...

    def volumes(self, addon: str | None = None) -> list[VolumeRow]:
        """Return all volumes, or one add-on's, by add-on and name."""
        ...

    def volume(self, volume: str) -> VolumeRow | None:
        """Return one volume."""
        ...

    def newest_header(self, volume: VolumeId) -> HeaderRow | None:
        """Return the newest header copy of a volume."""
        ...

    def headers(self, volume: VolumeId) -> list[HeaderRow]:
        """Return the header copies of a volume, the newest last."""
        ...

    def reports(self, addon: str | None = None) -> dict[VolumeId, ReportRow]:
        """Return what was last heard of each volume, or of each of one add-on."""
        ...

    def proofs(self, addon: str | None = None) -> dict[VolumeId, ProofRow]:
        """Return the last proof of each volume, or of each of one add-on."""
        ...

    def signer(self) -> SignerRow | None:
        """Return the newest key that signs statements."""
        ...

    def statements(self, volume: VolumeId) -> list[StatementRow]:
        """Return the statements about a volume, the newest last."""
        ...

    def hosts(self, addon: str | None = None) -> list[HostRow]:
        """Return all hosts, or one add-on's, oldest first."""
        ...

    def host(self, host: str) -> HostRow | None:
        """Return one host."""
        ...

    def enrolment(self, token_hash: str) -> EnrolmentRow | None:
        """Return what a token was made for."""
        ...

    def certificate(self, fingerprint: str) -> CertificateRow | None:
        """Return one certificate."""
        ...

    def newest_certificate(self, host: HostId, spki: str | None = None) -> CertificateRow | None:
        """Return a host's newest certificate, for one public key or for any."""
        ...

    def operators(self) -> list[OperatorRow]:
        """Return all operators by name."""
        ...

    def operator(self, name: str) -> OperatorRow | None:
        """Return one operator."""
        ...

    def operators_certificate(self, operator: str, spki: str) -> CertificateRow | None:
        """Return an operator's newest certificate for one public key, of those that count."""
        ...


class Writing(
    Reading,
    RecoveringWriting,
    DeletingWriting,
    BootingWriting,
    TrustedWriting,
    ChainingWriting,
    Protocol,
):
    """Changes, all of them or none. What would break the schema's rules raises CONFLICT."""

    def put_installation(self, row: InstallationRow) -> None:
        """Say what the database belongs to, once."""
        ...

    def put_master_key(self, row: MasterKeyRow) -> None:
        """Add a master key, or change what is known of it; where it wraps, the one before only unwraps.

        Raises:
            KeybrokerError: CONFLICT to forget one that still wraps something, or to use a forgotten one.
        """
        ...

    def rewrap(self, row: WrappedRow, wrapped: bytes, master: str | None) -> bool:
        """Wrap a row anew, if it is still wrapped as it was read; say whether it was.

        Args:
            master: the master key that wrapped it; None where an add-on's key did.
        """
        ...

    def add_addon_key(self, row: AddonKeyRow) -> None:
        """Add a generation of an add-on's key."""
        ...

    def drop_addon_key(self, row: AddonKeyRow) -> None:
        """Let go of a generation of an add-on's key; CONFLICT where something is wrapped by it."""
        ...

    def add_addon(self, row: AddonRow, key: AddonKeyRow) -> None:
        """Add an add-on with the first generation of its key."""
        ...

    def put_policy(self, addon: AddonName, terms: Terms, now: datetime) -> None:
        """Keep an add-on's policy at release, instead of the one before."""
        ...

    def add_volume(self, row: VolumeRow) -> None:
        """Add a volume with its keys."""
        ...

    def change_volume(
        self, row: VolumeRow, revision: int, minted: dict[KeyVersion, bytes], now: datetime
    ) -> None:
        """Change a volume and the states of its keys.

        Args:
            row: as it is to be; its ``wrapped`` does not count.
            revision: as it was.
            minted: the wrapped keys of versions that are new in it.

        Raises:
            KeybrokerError: CONFLICT where it is at another revision by now.
        """
        ...

    def add_header(self, row: HeaderRow, keep: int) -> None:
        """Add a header copy, and forget all but the newest ``keep``."""
        ...

    def drop_headers(self, volume: VolumeId, *, below: int) -> None:
        """Forget the header copies of a volume whose number is lower."""
        ...

    def put_report(self, row: ReportRow) -> None:
        """Keep what was heard of a volume, instead of what was heard before."""
        ...

    def put_proof(self, row: ProofRow) -> None:
        """Keep a proof, instead of the one before."""
        ...

    def add_signer(self, row: SignerRow) -> None:
        """Add a key that signs statements."""
        ...

    def add_statement(self, row: StatementRow) -> None:
        """Add a statement."""
        ...

    def add_host(self, row: HostRow, enrolment: EnrolmentRow) -> None:
        """Add a host that is invited, with its token."""
        ...

    def enrol_host(self, token_hash: str, certificate: CertificateRow, now: datetime) -> bool:
        """Spend a token and add the host's first certificate; False, and nothing done, where it is spent."""
        ...

    def add_certificate(self, row: CertificateRow) -> None:
        """Add a host's next certificate, or an operator's."""
        ...

    def add_operator(self, row: OperatorRow) -> None:
        """Add an operator; certificates come by themselves."""
        ...

    def change_roles(self, operator: str, roles: frozenset[Role]) -> None:
        """Give an operator these roles, and no others."""
        ...

    def replace_certificates(self, operator: str, since: datetime) -> None:
        """Let an operator's certificates that were issued before not count any more."""
        ...

    def revoke_operator(self, operator: str, reason: str, now: datetime) -> None:
        """Turn an operator away; the first revocation's time and reason stay."""
        ...

    def revoke_host(self, host: HostId, reason: str, now: datetime, *, lock: bool = False) -> None:
        """Turn a host away; the first revocation's time and reason stay."""
        ...


class Store(Protocol):
    """Reading and writing in transactions."""

    def read(self, work: Callable[[Reading], T]) -> T:
        """Run ``work`` on a consistent view.

        Raises:
            KeybrokerError: UNAVAILABLE where the database does not answer; CORRUPT where it cannot be
                read; and whatever ``work`` raises.
        """
        ...

    def write(self, work: Callable[[Writing], T]) -> T:
        """Run ``work`` in a transaction, and return once that is durable.

        Raises:
            KeybrokerError: UNAVAILABLE where it is not durable, and then nothing of it is done; and whatever
                ``work`` raises, with the same promise.
        """
        ...

    def audit_records(self, writer: str | None = None) -> Iterator[AuditEntry]:
        """Yield every audit record of a chain, in pages; in no transaction, for it only ever grows.

        Args:
            writer: whose chain; None for the one that this store appends to.
        """
        ...

    def audit_checkpoints(self) -> Iterator[CheckpointRow]:
        """Yield every checkpoint, like ``audit_records``."""
        ...

    def scrub(self) -> bool:
        """Let no copy of what was overwritten stay in files beside the database.

        Returns:
            Whether that is done; False where somebody reading was in the way, and then try again later.
        """
        ...

    @property
    def alive(self) -> bool:
        """Say whether writes are still answered."""
        ...

    def close(self) -> None:
        """Finish what is queued, then let go of the database."""
        ...
