"""Rows of the database turned into the values of ``rows``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import Row

from keybroker.model import Deletion, Keyring, Retired, Volume
from keybroker.store.rows import (
    AddonRow,
    CertificateRow,
    HeaderRow,
    HostRow,
    OperatorRow,
    ReportRow,
    VolumeRow,
    from_text,
)
from keybroker.terms import UNCHANGED, Terms, stored
from keybroker.wire.fields import Fields
from keybroker.wire.names import ROLES, AddonName, HostId, KeyVersion, Role, VolumeId, VolumeName
from keybroker.wire.orders import Order
from keybroker.wire.profile import Pin, Profile
from keybroker.wire.records import Device
from keybroker.wire.recovery import Recovery
from keybroker.wire.reports import VolumeReport


def addon_of(row: Row[Any]) -> AddonRow:
    """Return an add-on from its row."""
    return AddonRow(
        AddonName(row.name),
        row.engine,
        from_text(row.created),
        terms_of(row.policy),
        deletion_of(row.deletion),
        row.destroyed and from_text(row.destroyed),
    )


def terms_of(policy: str | None) -> Terms:
    """Return an add-on's policy from its column; None where nobody has changed it."""
    return UNCHANGED if policy is None else stored(policy)


def deletion_of(text: str | None) -> Deletion | None:
    """Return a pending destruction from its column; None where there is none."""
    return None if text is None else Deletion.read(Fields.parse(text))


def header_of(row: Row[Any]) -> HeaderRow:
    """Return a header copy from its row."""
    return HeaderRow(
        VolumeId(row.volume),
        row.number,
        row.sequence,
        KeyVersion(row.key_version),
        row.wrapped,
        from_text(row.created),
    )


def report_of(row: Row[Any]) -> ReportRow:
    """Return a report from its row."""
    report = VolumeReport.read(Fields.parse(row.report))
    return ReportRow(VolumeId(row.volume), HostId(row.host), from_text(row.at), report)


def host_of(row: Row[Any]) -> HostRow:
    """Return a host from its row."""
    return HostRow(
        id=HostId(row.id),
        addon=AddonName(row.addon),
        invited=from_text(row.invited),
        enrolled=row.enrolled and from_text(row.enrolled),
        expires=row.expires and from_text(row.expires),
        revoked=row.revoked and from_text(row.revoked),
        reason=row.reason,
        lock=bool(row.lock),
    )


def operator_of(row: Row[Any]) -> OperatorRow:
    """Return an operator from its row."""
    return OperatorRow(
        name=row.name,
        created=from_text(row.created),
        roles=roles_of(row.roles),
        added_by=row.added_by,
        since=from_text(row.since),
        expires=row.expires and from_text(row.expires),
        revoked=row.revoked and from_text(row.revoked),
        reason=row.reason,
    )


def roles_of(text: str | None) -> frozenset[Role]:
    """Return the roles that a column holds; a word that is none gives nobody anything."""
    return frozenset(cast(Role, word) for word in (text or "").split() if word in ROLES)


def certificate_of(row: Row[Any]) -> CertificateRow:
    """Return a certificate from its row."""
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


def volumes_of(rows: Iterable[Row[Any]]) -> list[VolumeRow]:
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
        keyring=None if row.version is None else _keyring(rows),
        device=None if row.device_serial is None else Device(row.device_serial, row.device_size_bytes),
        pin=None if row.pin is None else Pin.read(Fields(json.loads(row.pin))),
        sequence=row.sequence,
        role=row.role,
        partner=row.partner,
        order=None if row.order is None else Order.read(Fields(json.loads(row.order))),
        last_order=row.last_order,
        born_encrypted=bool(row.born_encrypted),
        block_older=bool(row.block_older),
        recoveries=tuple(
            Recovery(KeyVersion(key.version), key.ciphertext) for key in rows if key.ciphertext is not None
        ),
        complete_from=row.complete_from,
        deletion=deletion_of(row.deletion),
    )
    wrapped = {KeyVersion(key.version): key.wrapped for key in rows if key.wrapped is not None}
    minted = {KeyVersion(key.version): from_text(key.minted) for key in rows if key.version is not None}
    return VolumeRow(volume, from_text(row.created), wrapped, minted)


def _keyring(rows: list[Row[Any]]) -> Keyring:
    live = {row.state: KeyVersion(row.version) for row in rows}
    return Keyring(
        current=live.get("current"),
        wanted=None if rows[0].wanted is None else KeyVersion(rows[0].wanted),
        staged=live.get("staged"),
        retiring=live.get("retiring"),
        retired=tuple(
            Retired(KeyVersion(row.version), row.destroy_after and from_text(row.destroy_after))
            for row in rows
            if row.state == "retired"
        ),
        destroyed=tuple(cast(KeyVersion, row.version) for row in rows if row.state == "destroyed"),
    )
