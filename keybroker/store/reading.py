"""Reading through SQLAlchemy Core: statements that are built once, and rows turned into values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, bindparam, case, func, select

from keybroker.audit import Writer
from keybroker.store.boots import BootReading
from keybroker.store.chains import ChainReading
from keybroker.store.deletions import DeletionReading
from keybroker.store.measures import MeasuringReading
from keybroker.store.recoveries import WITH_KEYS
from keybroker.store.recoverytables import RECOVERIES
from keybroker.store.restores import RestoreReading
from keybroker.store.rows import (
    AddonKeyRow,
    AddonRow,
    AdmissionRow,
    CertificateRow,
    EnrolmentRow,
    HeaderRow,
    HostRow,
    InstallationRow,
    OperatorRow,
    ProofRow,
    ReportRow,
    SignerRow,
    VolumeRow,
    from_text,
)
from keybroker.store.tables import (
    ADDON_KEYS,
    ADDONS,
    CERTIFICATES,
    ENROLMENTS,
    HEADERS,
    HOSTS,
    INSTALLATION,
    KEYS,
    OPERATORS,
    POLICIES,
    PROOFS,
    REPORTS,
    SIGNERS,
    VOLUMES,
)
from keybroker.store.values import (
    addon_of,
    certificate_of,
    deletion_of,
    header_of,
    host_of,
    operator_of,
    report_of,
    roles_of,
    terms_of,
    volumes_of,
)
from keybroker.store.wrapping import WrappingReading, addon_key_of
from keybroker.wire.names import AddonName, HostId, KeyVersion, VolumeId

_INSTALLATION: Final = select(INSTALLATION)

_ADMISSION: Final = (
    select(
        CERTIFICATES.c.host,
        CERTIFICATES.c.operator,
        HOSTS.c.addon,
        HOSTS.c.lock,
        POLICIES.c.policy,
        ADDONS.c.deletion,
        CERTIFICATES.c.not_before,
        CERTIFICATES.c.not_after,
        func.coalesce(
            HOSTS.c.revoked,
            OPERATORS.c.revoked,
            case((CERTIFICATES.c.issued < OPERATORS.c.since, OPERATORS.c.since)),
        ).label("revoked"),
        OPERATORS.c.roles,
    )
    .select_from(
        CERTIFICATES.outerjoin(HOSTS, CERTIFICATES.c.host == HOSTS.c.id)
        .outerjoin(POLICIES, HOSTS.c.addon == POLICIES.c.addon)
        .outerjoin(ADDONS, HOSTS.c.addon == ADDONS.c.name)
        .outerjoin(OPERATORS, CERTIFICATES.c.operator == OPERATORS.c.name)
    )
    .where(CERTIFICATES.c.fingerprint == bindparam("fingerprint"))
)

_ADDONS: Final = (
    select(ADDONS, POLICIES.c.policy)
    .select_from(ADDONS.outerjoin(POLICIES, ADDONS.c.name == POLICIES.c.addon))
    .order_by(ADDONS.c.name)
)
_ADDON: Final = _ADDONS.where(ADDONS.c.name == bindparam("name"))
_ADDON_KEYS: Final = (
    select(ADDON_KEYS).where(ADDON_KEYS.c.addon == bindparam("addon")).order_by(ADDON_KEYS.c.generation)
)

_VOLUMES: Final = (
    select(
        VOLUMES,
        KEYS.c.version,
        KEYS.c.state,
        KEYS.c.wrapped,
        KEYS.c.destroy_after,
        KEYS.c.created.label("minted"),
        RECOVERIES.c.ciphertext,
    )
    .select_from(WITH_KEYS)
    .order_by(VOLUMES.c.addon, VOLUMES.c.name, VOLUMES.c.created, VOLUMES.c.id, KEYS.c.version)
)
_VOLUMES_OF: Final = _VOLUMES.where(VOLUMES.c.addon == bindparam("addon"))
_VOLUME: Final = _VOLUMES.where(VOLUMES.c.id == bindparam("volume"))

_HEADERS: Final = select(HEADERS).where(HEADERS.c.volume == bindparam("volume")).order_by(HEADERS.c.number)
_HEADER: Final = (
    select(HEADERS).where(HEADERS.c.volume == bindparam("volume")).order_by(HEADERS.c.number.desc()).limit(1)
)

_REPORTS: Final = select(REPORTS)
_REPORTS_OF: Final = _REPORTS.join(VOLUMES, VOLUMES.c.id == REPORTS.c.volume).where(
    VOLUMES.c.addon == bindparam("addon")
)
_PROOFS: Final = select(PROOFS)
_PROOFS_OF: Final = _PROOFS.join(VOLUMES, VOLUMES.c.id == PROOFS.c.volume).where(
    VOLUMES.c.addon == bindparam("addon")
)
_SIGNER: Final = select(SIGNERS).order_by(SIGNERS.c.created.desc()).limit(1)

_EXPIRES: Final = (
    select(func.max(CERTIFICATES.c.not_after))
    .where(CERTIFICATES.c.host == HOSTS.c.id)
    .scalar_subquery()
    .label("expires")
)
_HOSTS: Final = select(HOSTS, _EXPIRES).order_by(HOSTS.c.invited, HOSTS.c.id)
_HOSTS_OF: Final = _HOSTS.where(HOSTS.c.addon == bindparam("addon"))
_HOST: Final = _HOSTS.where(HOSTS.c.id == bindparam("host"))

_OPERATORS: Final = select(
    OPERATORS,
    select(func.max(CERTIFICATES.c.not_after))
    .where(CERTIFICATES.c.operator == OPERATORS.c.name, CERTIFICATES.c.issued >= OPERATORS.c.since)
    .scalar_subquery()
    .label("expires"),
).order_by(OPERATORS.c.name)
_OPERATOR: Final = _OPERATORS.where(OPERATORS.c.name == bindparam("name"))

_ENROLMENT: Final = select(ENROLMENTS).where(ENROLMENTS.c.token_hash == bindparam("token_hash"))
_CERTIFICATE: Final = select(CERTIFICATES).where(CERTIFICATES.c.fingerprint == bindparam("fingerprint"))
_NEWEST_CERTIFICATE: Final = (
    select(CERTIFICATES)
    .where(CERTIFICATES.c.host == bindparam("host"))
    .order_by(CERTIFICATES.c.issued.desc(), CERTIFICATES.c.not_after.desc())
    .limit(1)
)

_OF_KEY: Final = CERTIFICATES.c.spki == bindparam("spki")

_OPERATORS_CERTIFICATE: Final = (
    select(CERTIFICATES)
    .join(OPERATORS, OPERATORS.c.name == CERTIFICATES.c.operator)
    .where(
        CERTIFICATES.c.operator == bindparam("operator"),
        CERTIFICATES.c.spki == bindparam("spki"),
        CERTIFICATES.c.issued >= OPERATORS.c.since,
    )
    .order_by(CERTIFICATES.c.not_after.desc(), CERTIFICATES.c.issued.desc())
    .limit(1)
)


class SqlReading(
    WrappingReading, MeasuringReading, RestoreReading, DeletionReading, BootReading, ChainReading
):
    """``Reading`` on one connection, inside a transaction that somebody else began."""

    def __init__(self, connection: Connection, writer: Writer) -> None:
        self._connection = connection
        self._writer = writer

    def _all(self, statement: Select[Any], **values: Any) -> Sequence[Row[Any]]:
        return self._connection.execute(statement, values).all()

    def _one(self, statement: Select[Any], **values: Any) -> Row[Any] | None:
        return self._connection.execute(statement, values).one_or_none()

    def installation(self) -> InstallationRow | None:
        """Return what the database belongs to."""
        row = self._one(_INSTALLATION)
        return row and InstallationRow(row.trust_domain, row.ca_fingerprint, from_text(row.created))

    def admission(self, fingerprint: str) -> AdmissionRow | None:
        """Return whom a certificate was issued to, and how they stand."""
        row = self._one(_ADMISSION, fingerprint=fingerprint)
        return row and AdmissionRow(
            host=row.host,
            operator=row.operator,
            addon=row.addon,
            not_before=from_text(row.not_before),
            not_after=from_text(row.not_after),
            revoked=row.revoked and from_text(row.revoked),
            roles=roles_of(row.roles),
            terms=terms_of(row.policy),
            deletion=deletion_of(row.deletion),
            lock=bool(row.lock),
        )

    def addons(self) -> list[AddonRow]:
        """Return all add-ons by name."""
        return [addon_of(row) for row in self._all(_ADDONS)]

    def addon(self, name: str) -> AddonRow | None:
        """Return one add-on."""
        row = self._one(_ADDON, name=name)
        return row and addon_of(row)

    def addon_keys(self, addon: AddonName) -> list[AddonKeyRow]:
        """Return the generations of an add-on's key, the newest last."""
        return [addon_key_of(row) for row in self._all(_ADDON_KEYS, addon=addon)]

    def volumes(self, addon: str | None = None) -> list[VolumeRow]:
        """Return all volumes, or one add-on's, by add-on and name."""
        return volumes_of(self._all(_VOLUMES) if addon is None else self._all(_VOLUMES_OF, addon=addon))

    def volume(self, volume: str) -> VolumeRow | None:
        """Return one volume."""
        return next(iter(volumes_of(self._all(_VOLUME, volume=volume))), None)

    def newest_header(self, volume: VolumeId) -> HeaderRow | None:
        """Return the newest header copy of a volume."""
        row = self._one(_HEADER, volume=volume)
        return row and header_of(row)

    def headers(self, volume: VolumeId) -> list[HeaderRow]:
        """Return the header copies of a volume, the newest last."""
        return [header_of(row) for row in self._all(_HEADERS, volume=volume)]

    def reports(self, addon: str | None = None) -> dict[VolumeId, ReportRow]:
        """Return what was last heard of each volume, or of each of one add-on."""
        rows = self._all(_REPORTS) if addon is None else self._all(_REPORTS_OF, addon=addon)
        return {VolumeId(row.volume): report_of(row) for row in rows}

    def proofs(self, addon: str | None = None) -> dict[VolumeId, ProofRow]:
        """Return the last proof of each volume, or of each of one add-on."""
        rows = self._all(_PROOFS) if addon is None else self._all(_PROOFS_OF, addon=addon)
        return {
            VolumeId(row.volume): ProofRow(
                VolumeId(row.volume), KeyVersion(row.version), row.sequence, from_text(row.at)
            )
            for row in rows
        }

    def signer(self) -> SignerRow | None:
        """Return the newest key that signs statements."""
        row = self._one(_SIGNER)
        return row and SignerRow(row.public, row.wrapped, row.master, from_text(row.created), row.made_under)

    def hosts(self, addon: str | None = None) -> list[HostRow]:
        """Return all hosts, or one add-on's, oldest first."""
        return [host_of(row) for row in (self._all(_HOSTS_OF, addon=addon) if addon else self._all(_HOSTS))]

    def host(self, host: str) -> HostRow | None:
        """Return one host."""
        row = self._one(_HOST, host=host)
        return row and host_of(row)

    def enrolment(self, token_hash: str) -> EnrolmentRow | None:
        """Return what a token was made for."""
        row = self._one(_ENROLMENT, token_hash=token_hash)
        return row and EnrolmentRow(
            token_hash=row.token_hash,
            host=HostId(row.host),
            created=from_text(row.created),
            expires=from_text(row.expires),
            used=row.used and from_text(row.used),
            certificate=row.certificate,
        )

    def certificate(self, fingerprint: str) -> CertificateRow | None:
        """Return one certificate."""
        row = self._one(_CERTIFICATE, fingerprint=fingerprint)
        return row and certificate_of(row)

    def newest_certificate(self, host: HostId, spki: str | None = None) -> CertificateRow | None:
        """Return a host's newest certificate, for one public key or for any."""
        statement = _NEWEST_CERTIFICATE if spki is None else _NEWEST_CERTIFICATE.where(_OF_KEY)
        row = self._one(statement, host=host, **({} if spki is None else {"spki": spki}))
        return row and certificate_of(row)

    def operators(self) -> list[OperatorRow]:
        """Return all operators by name."""
        return [operator_of(row) for row in self._all(_OPERATORS)]

    def operator(self, name: str) -> OperatorRow | None:
        """Return one operator."""
        row = self._one(_OPERATOR, name=name)
        return row and operator_of(row)

    def operators_certificate(self, operator: str, spki: str) -> CertificateRow | None:
        """Return an operator's newest certificate for one public key, of those that count."""
        row = self._one(_OPERATORS_CERTIFICATE, operator=operator, spki=spki)
        return row and certificate_of(row)
