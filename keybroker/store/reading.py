"""Reading through SQLAlchemy Core: statements that are built once, and rows turned into values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, cast

from sqlalchemy import Connection, Row, Select, bindparam, func, select

from keybroker.audit import START, AuditEntry
from keybroker.model import Keyring, Retired, Volume
from keybroker.store.rows import (
    AddonKeyRow,
    AddonRow,
    AdmissionRow,
    CertificateRow,
    EnrolmentRow,
    HeaderRow,
    HostRow,
    InstallationRow,
    VolumeRow,
    from_text,
)
from keybroker.store.tables import (
    ADDON_KEYS,
    ADDONS,
    AUDIT,
    CERTIFICATES,
    ENROLMENTS,
    HEADERS,
    HOSTS,
    INSTALLATION,
    KEYS,
    OPERATORS,
    VOLUMES,
)
from keybroker.wire.fields import Fields
from keybroker.wire.names import AddonName, HostId, KeyVersion, VolumeId, VolumeName
from keybroker.wire.profile import Pin, Profile
from keybroker.wire.records import Device

_INSTALLATION: Final = select(INSTALLATION)

_ADMISSION: Final = (
    select(
        CERTIFICATES.c.host,
        CERTIFICATES.c.operator,
        HOSTS.c.addon,
        CERTIFICATES.c.not_before,
        CERTIFICATES.c.not_after,
        func.coalesce(HOSTS.c.revoked, OPERATORS.c.revoked).label("revoked"),
    )
    .select_from(
        CERTIFICATES.outerjoin(HOSTS, CERTIFICATES.c.host == HOSTS.c.id).outerjoin(
            OPERATORS, CERTIFICATES.c.operator == OPERATORS.c.name
        )
    )
    .where(CERTIFICATES.c.fingerprint == bindparam("fingerprint"))
)

_ADDONS: Final = select(ADDONS).order_by(ADDONS.c.name)
_ADDON: Final = select(ADDONS).where(ADDONS.c.name == bindparam("name"))
_ADDON_KEYS: Final = (
    select(ADDON_KEYS).where(ADDON_KEYS.c.addon == bindparam("addon")).order_by(ADDON_KEYS.c.generation)
)

_VOLUMES: Final = (
    select(VOLUMES, KEYS.c.version, KEYS.c.state, KEYS.c.wrapped, KEYS.c.destroy_after)
    .select_from(VOLUMES.outerjoin(KEYS, VOLUMES.c.id == KEYS.c.volume))
    .order_by(VOLUMES.c.addon, VOLUMES.c.name, KEYS.c.version)
)
_VOLUMES_OF: Final = _VOLUMES.where(VOLUMES.c.addon == bindparam("addon"))
_VOLUME: Final = _VOLUMES.where(VOLUMES.c.id == bindparam("volume"))

_HEADER: Final = (
    select(HEADERS).where(HEADERS.c.volume == bindparam("volume")).order_by(HEADERS.c.number.desc()).limit(1)
)

_EXPIRES: Final = (
    select(func.max(CERTIFICATES.c.not_after))
    .where(CERTIFICATES.c.host == HOSTS.c.id)
    .scalar_subquery()
    .label("expires")
)
_HOSTS: Final = select(HOSTS, _EXPIRES).order_by(HOSTS.c.invited, HOSTS.c.id)
_HOSTS_OF: Final = _HOSTS.where(HOSTS.c.addon == bindparam("addon"))
_HOST: Final = _HOSTS.where(HOSTS.c.id == bindparam("host"))

_ENROLMENT: Final = select(ENROLMENTS).where(ENROLMENTS.c.token_hash == bindparam("token_hash"))
_CERTIFICATE: Final = select(CERTIFICATES).where(CERTIFICATES.c.fingerprint == bindparam("fingerprint"))
_NEWEST_CERTIFICATE: Final = (
    select(CERTIFICATES)
    .where(CERTIFICATES.c.host == bindparam("host"), CERTIFICATES.c.spki == bindparam("spki"))
    .order_by(CERTIFICATES.c.not_after.desc(), CERTIFICATES.c.issued.desc())
    .limit(1)
)

_AUDIT: Final = (
    select(AUDIT)
    .where(AUDIT.c.sequence > bindparam("after"))
    .order_by(AUDIT.c.sequence)
    .limit(bindparam("limit"))
)
_AUDIT_HEAD: Final = select(AUDIT.c.sequence, AUDIT.c.hash).order_by(AUDIT.c.sequence.desc()).limit(1)


class SqlReading:
    """``Reading`` on one connection, inside a transaction that somebody else began."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _all(self, statement: Select[Any], **values: Any) -> Sequence[Row[Any]]:
        return self._connection.execute(statement, values).all()

    def _one(self, statement: Select[Any], **values: Any) -> Row[Any] | None:
        return self._connection.execute(statement, values).one_or_none()

    def installation(self) -> InstallationRow | None:
        """Return what the database belongs to."""
        row = self._one(_INSTALLATION)
        return row and InstallationRow(
            row.trust_domain, row.ca_fingerprint, row.master, row.key_check, from_text(row.created)
        )

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
        )

    def addons(self) -> list[AddonRow]:
        """Return all add-ons by name."""
        return [_addon(row) for row in self._all(_ADDONS)]

    def addon(self, name: str) -> AddonRow | None:
        """Return one add-on."""
        row = self._one(_ADDON, name=name)
        return row and _addon(row)

    def addon_keys(self, addon: AddonName) -> list[AddonKeyRow]:
        """Return the generations of an add-on's key, the newest last."""
        return [
            AddonKeyRow(addon, row.generation, row.id, row.wrapped, row.master, from_text(row.created))
            for row in self._all(_ADDON_KEYS, addon=addon)
        ]

    def volumes(self, addon: str | None = None) -> list[VolumeRow]:
        """Return all volumes, or one add-on's, by add-on and name."""
        if addon is None:
            return _volumes(self._all(_VOLUMES))
        return _volumes(self._all(_VOLUMES_OF, addon=addon))

    def volume(self, volume: str) -> VolumeRow | None:
        """Return one volume."""
        found = _volumes(self._all(_VOLUME, volume=volume))
        return found[0] if found else None

    def newest_header(self, volume: VolumeId) -> HeaderRow | None:
        """Return the newest header copy of a volume."""
        row = self._one(_HEADER, volume=volume)
        return row and HeaderRow(
            volume,
            row.number,
            row.sequence,
            KeyVersion(row.key_version),
            row.wrapped,
            from_text(row.created),
        )

    def hosts(self, addon: str | None = None) -> list[HostRow]:
        """Return all hosts, or one add-on's, oldest first."""
        rows = self._all(_HOSTS) if addon is None else self._all(_HOSTS_OF, addon=addon)
        return [_host(row) for row in rows]

    def host(self, host: str) -> HostRow | None:
        """Return one host."""
        row = self._one(_HOST, host=host)
        return row and _host(row)

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
        return row and _certificate(row)

    def newest_certificate(self, host: HostId, spki: str) -> CertificateRow | None:
        """Return a host's newest certificate for one public key."""
        row = self._one(_NEWEST_CERTIFICATE, host=host, spki=spki)
        return row and _certificate(row)

    def audit(self, after: int, limit: int) -> list[AuditEntry]:
        """Return at most ``limit`` audit records with sequence numbers above ``after``, in order."""
        return [AuditEntry(**row._mapping) for row in self._all(_AUDIT, after=after, limit=limit)]

    def audit_head(self) -> tuple[int, str]:
        """Return the sequence number and hash of the last audit record."""
        row = self._one(_AUDIT_HEAD)
        return (0, START) if row is None else (row.sequence, row.hash)


def _addon(row: Row[Any]) -> AddonRow:
    return AddonRow(AddonName(row.name), row.engine, from_text(row.created))


def _host(row: Row[Any]) -> HostRow:
    return HostRow(
        id=HostId(row.id),
        addon=AddonName(row.addon),
        invited=from_text(row.invited),
        enrolled=row.enrolled and from_text(row.enrolled),
        expires=row.expires and from_text(row.expires),
        revoked=row.revoked and from_text(row.revoked),
        reason=row.reason,
    )


def _certificate(row: Row[Any]) -> CertificateRow:
    return CertificateRow(
        fingerprint=row.fingerprint,
        serial=row.serial,
        host=row.host,
        operator=row.operator,
        spki=row.spki,
        not_before=from_text(row.not_before),
        not_after=from_text(row.not_after),
        issued=from_text(row.issued),
        pem=row.pem,
    )


@lru_cache(maxsize=256)
def _profile(text: str) -> Profile:
    return Profile.read(Fields.parse(text))


def _volumes(rows: Iterable[Row[Any]]) -> list[VolumeRow]:
    """Put volumes together from one row a key, or a lone row for a volume without keys."""
    together: dict[str, list[Row[Any]]] = {}
    for row in rows:
        together.setdefault(row.id, []).append(row)
    return [_volume(its_rows) for its_rows in together.values()]


def _volume(rows: list[Row[Any]]) -> VolumeRow:
    row = rows[0]
    volume = Volume(
        id=VolumeId(row.id),
        addon=AddonName(row.addon),
        name=VolumeName(row.name),
        stage=row.stage,
        revision=row.revision,
        size_bytes=row.size_bytes,
        filesystem=row.filesystem,
        mount=row.mount,
        serial=row.serial,
        luks_uuid=row.luks_uuid,
        profile=_profile(row.profile),
        keyring=None if row.wanted is None else _keyring(rows),
        device=None if row.device_serial is None else Device(row.device_serial, row.device_size_bytes),
        pin=None if row.pin is None else Pin.read(Fields(json.loads(row.pin))),
        sequence=row.sequence,
    )
    wrapped = {KeyVersion(key.version): key.wrapped for key in rows if key.wrapped is not None}
    return VolumeRow(volume, from_text(row.created), wrapped)


def _keyring(rows: list[Row[Any]]) -> Keyring:
    live = {row.state: KeyVersion(row.version) for row in rows}
    return Keyring(
        current=live["current"],
        wanted=KeyVersion(rows[0].wanted),
        staged=live.get("staged"),
        retiring=live.get("retiring"),
        retired=tuple(
            Retired(KeyVersion(row.version), row.destroy_after and from_text(row.destroy_after))
            for row in rows
            if row.state == "retired"
        ),
        destroyed=tuple(cast(KeyVersion, row.version) for row in rows if row.state == "destroyed"),
    )
