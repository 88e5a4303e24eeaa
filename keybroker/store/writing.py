"""Writing through SQLAlchemy Core, inside a savepoint that somebody else set."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Column, Connection, Table, bindparam, insert, select, update
from sqlalchemy import delete as sql_delete

from keybroker.audit import Writer
from keybroker.model import Volume
from keybroker.store.boots import BootWriting
from keybroker.store.chains import ChainWriting
from keybroker.store.deletions import DeletionWriting, pending_text
from keybroker.store.reading import SqlReading
from keybroker.store.restores import RestoreWriting
from keybroker.store.rows import (
    AddonKeyRow,
    AddonRow,
    CertificateRow,
    EnrolmentRow,
    HeaderRow,
    HostRow,
    InstallationRow,
    OperatorRow,
    ProofRow,
    ReportRow,
    SignerRow,
    StatementRow,
    VolumeRow,
    to_text,
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
    STATEMENTS,
    VOLUMES,
)
from keybroker.store.wrapping import WrappingWriting
from keybroker.terms import Terms
from keybroker.wire.names import AddonName, HostId, KeyVersion, Role, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem

_KEY_STATE: Final = (
    update(KEYS)
    .where(KEYS.c.volume == bindparam("of_volume"), KEYS.c.version == bindparam("of_version"))
    .values(state=bindparam("state"), destroy_after=bindparam("destroy_after"))
)
_KEY_DESTROYED: Final = _KEY_STATE.values(wrapped=None)

_ORDER: Final = ("destroyed", "retired", "retiring", "current", "staged")
"""In which key states are written, so that none is held twice in between (``uq_keys_live``)."""


class SqlWriting(WrappingWriting, RestoreWriting, DeletionWriting, BootWriting, ChainWriting, SqlReading):
    """``Writing`` on one connection."""

    def __init__(self, connection: Connection, writer: Writer) -> None:
        super().__init__(connection, writer)
        self.head = None

    def put_installation(self, row: InstallationRow) -> None:
        """Say what the database belongs to, once."""
        self._connection.execute(insert(INSTALLATION), {"id": 1, **_columns(row)})

    def add_addon(self, row: AddonRow, key: AddonKeyRow) -> None:
        """Add an add-on with the first generation of its key."""
        columns = _columns(row)
        del columns["terms"]  # has a table of its own
        self._connection.execute(insert(ADDONS), columns)
        self._connection.execute(insert(ADDON_KEYS), _columns(key))

    def put_policy(self, addon: AddonName, terms: Terms, now: datetime) -> None:
        """Keep an add-on's policy, instead of the one before."""
        columns = {"policy": json.dumps(terms.as_json()), "changed": to_text(now)}
        self._replace(POLICIES, POLICIES.c.addon, addon, columns)

    def add_volume(self, row: VolumeRow) -> None:
        """Add a volume with its keys."""
        volume = row.volume
        fixed = {
            "id": volume.id,
            "addon": volume.addon,
            "name": volume.name,
            "size_bytes": volume.size_bytes,
            "filesystem": volume.filesystem,
            "mount": volume.mount,
            "serial": volume.serial,
            "luks_uuid": volume.luks_uuid,
            "created": to_text(row.created),
            "born_encrypted": int(volume.born_encrypted),
        }
        self._connection.execute(insert(VOLUMES), {**fixed, **_changeable(volume)})
        for version, state, destroy_after in _states(volume):
            self._mint(volume, version, state, destroy_after, row.wrapped, row.created)

    def change_volume(
        self, row: VolumeRow, revision: int, minted: dict[KeyVersion, bytes], now: datetime
    ) -> None:
        """Change a volume and the states of its keys."""
        volume = row.volume
        changed = self._connection.execute(
            update(VOLUMES)
            .where(VOLUMES.c.id == volume.id, VOLUMES.c.revision == revision)
            .values(_changeable(volume))
        )
        if changed.rowcount != 1:
            raise KeybrokerError(
                Problem.CONFLICT, f"volume {volume.id}: is not at revision {revision} any more"
            )
        for version, state, destroy_after in _states(volume):
            if version in minted:
                self._mint(volume, version, state, destroy_after, minted, now)
                continue
            if state == "destroyed":
                self.forget_recovery(volume.id, version)
            self._connection.execute(
                _KEY_DESTROYED if state == "destroyed" else _KEY_STATE,
                {
                    "of_volume": volume.id,
                    "of_version": version,
                    "state": state,
                    "destroy_after": destroy_after,
                },
            )

    def _mint(
        self,
        volume: Volume,
        version: KeyVersion,
        state: str,
        destroy_after: str | None,
        wrapped: dict[KeyVersion, bytes],
        now: datetime,
    ) -> None:
        self._connection.execute(
            insert(KEYS),
            {
                "volume": volume.id,
                "version": version,
                "state": state,
                "wrapped": wrapped.get(version),
                "created": to_text(now),
                "destroy_after": destroy_after,
            },
        )

    def add_header(self, row: HeaderRow, keep: int) -> None:
        """Add a header copy, and forget all but the newest ``keep``."""
        self._connection.execute(insert(HEADERS), _columns(row))
        newest = (
            select(HEADERS.c.number)
            .where(HEADERS.c.volume == row.volume)
            .order_by(HEADERS.c.number.desc())
            .limit(keep)
        )
        self._connection.execute(
            sql_delete(HEADERS).where(HEADERS.c.volume == row.volume, HEADERS.c.number.not_in(newest))
        )

    def drop_headers(self, volume: VolumeId, *, below: int) -> None:
        """Forget the header copies of a volume whose number is lower."""
        self._connection.execute(
            sql_delete(HEADERS).where(HEADERS.c.volume == volume, HEADERS.c.number < below)
        )

    def put_report(self, row: ReportRow) -> None:
        """Keep what was heard of a volume, instead of what was heard before."""
        self._replace(
            REPORTS,
            REPORTS.c.volume,
            row.volume,
            {"host": row.host, "at": to_text(row.at), "report": json.dumps(row.report.as_json())},
        )

    def put_proof(self, row: ProofRow) -> None:
        """Keep a proof, instead of the one before."""
        columns = {"version": row.version, "sequence": row.sequence, "at": to_text(row.at)}
        self._replace(PROOFS, PROOFS.c.volume, row.volume, columns)

    def _replace(self, table: Table, key: Column[Any], value: str, columns: dict[str, Any]) -> None:
        """Write the one row that a table has of a volume or an add-on."""
        changed = self._connection.execute(update(table).where(key == value).values(columns))
        if changed.rowcount == 0:
            self._connection.execute(insert(table), {key.name: value, **columns})

    def add_signer(self, row: SignerRow) -> None:
        """Add a key that signs statements."""
        self._connection.execute(insert(SIGNERS), _columns(row))

    def add_statement(self, row: StatementRow) -> None:
        """Add a statement."""
        self._connection.execute(insert(STATEMENTS), _columns(row))

    def add_host(self, row: HostRow, enrolment: EnrolmentRow) -> None:
        """Add a host that is invited, with its token."""
        host = _columns(row)
        del host["expires"]  # its certificates' to say
        self._connection.execute(insert(HOSTS), host)
        self._connection.execute(insert(ENROLMENTS), _columns(enrolment))

    def enrol_host(self, token_hash: str, certificate: CertificateRow, now: datetime) -> bool:
        """Spend a token and add the host's first certificate; False, and nothing done, where it is spent."""
        spent = select(ENROLMENTS.c.used).where(ENROLMENTS.c.token_hash == token_hash)
        if self._connection.execute(spent).scalar_one() is not None:
            return False
        self.add_certificate(certificate)
        # the WHERE decides the race where several brokers share a database
        spending = self._connection.execute(
            update(ENROLMENTS)
            .where(ENROLMENTS.c.token_hash == token_hash, ENROLMENTS.c.used.is_(None))
            .values(used=to_text(now), certificate=certificate.fingerprint)
        )
        if spending.rowcount != 1:
            raise KeybrokerError(Problem.CONFLICT, "token: was spent in the meantime")
        self._connection.execute(
            update(HOSTS).where(HOSTS.c.id == certificate.host).values(enrolled=to_text(now))
        )
        return True

    def add_certificate(self, row: CertificateRow) -> None:
        """Add a host's next certificate, or an operator's."""
        self._connection.execute(insert(CERTIFICATES), _columns(row))

    def add_operator(self, row: OperatorRow) -> None:
        """Add an operator; certificates come by themselves."""
        columns = _columns(replace(row, roles=frozenset()))
        del columns["expires"]  # its certificates' to say
        self._connection.execute(insert(OPERATORS), columns | {"roles": _roles(row.roles)})

    def change_roles(self, operator: str, roles: frozenset[Role]) -> None:
        """Give an operator these roles, and no others."""
        self._connection.execute(
            update(OPERATORS).where(OPERATORS.c.name == operator).values(roles=_roles(roles))
        )

    def replace_certificates(self, operator: str, since: datetime) -> None:
        """Let an operator's certificates that were issued before not count any more."""
        self._connection.execute(
            update(OPERATORS).where(OPERATORS.c.name == operator).values(since=to_text(since))
        )

    def revoke_operator(self, operator: str, reason: str, now: datetime) -> None:
        """Turn an operator away; the first revocation's time and reason stay."""
        self._connection.execute(
            update(OPERATORS)
            .where(OPERATORS.c.name == operator, OPERATORS.c.revoked.is_(None))
            .values(revoked=to_text(now), reason=reason)
        )

    def revoke_host(self, host: HostId, reason: str, now: datetime, *, lock: bool = False) -> None:
        """Turn a host away; the first revocation's time and reason stay."""
        self._connection.execute(
            update(HOSTS)
            .where(HOSTS.c.id == host, HOSTS.c.revoked.is_(None))
            .values(revoked=to_text(now), reason=reason)
        )
        if lock:
            self._connection.execute(update(HOSTS).where(HOSTS.c.id == host).values(lock=1))


def _roles(roles: Iterable[Role]) -> str:
    return " ".join(sorted(roles))


def _columns(row: Any) -> dict[str, Any]:
    """Return a flat row's fields as its columns hold them."""
    return {
        name: to_text(value) if isinstance(value, datetime) else value for name, value in asdict(row).items()
    }


def _changeable(volume: Volume) -> dict[str, Any]:
    """Return the columns of a volume that may change; name, size, serial and UUID never do."""
    return {
        "stage": volume.stage,
        "revision": volume.revision,
        "profile": json.dumps(volume.profile.as_json()),
        "wanted": volume.keyring and volume.keyring.wanted,
        "device_serial": volume.device and volume.device.serial,
        "device_size_bytes": volume.device and volume.device.size_bytes,
        "pin": None if volume.pin is None else json.dumps(volume.pin.as_json()),
        "sequence": volume.sequence,
        "role": volume.role,
        "partner": volume.partner,
        "order": None if volume.order is None else json.dumps(volume.order.as_json()),
        "last_order": volume.last_order,
        "block_older": int(volume.block_older),
        "complete_from": volume.complete_from,
        "deletion": pending_text(volume.deletion),
    }


def _states(volume: Volume) -> list[tuple[KeyVersion, str, str | None]]:
    """Return version, state and time of destruction of every key, in the order to write them in."""
    keys = volume.keyring
    if keys is None:
        return []
    states: list[tuple[KeyVersion, str, str | None]] = []
    if keys.current is not None:
        states.append((keys.current, "current", None))
    if keys.staged is not None:
        states.append((keys.staged, "staged", None))
    if keys.retiring is not None:
        states.append((keys.retiring, "retiring", None))
    states += [
        (old.version, "retired", None if old.destroy_after is None else to_text(old.destroy_after))
        for old in keys.retired
    ]
    states += [(version, "destroyed", None) for version in keys.destroyed]
    return sorted(states, key=lambda state: _ORDER.index(state[1]))
