"""Rows of boots, as parts of ``SqlReading`` and ``SqlWriting``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, insert, select, update
from sqlalchemy import delete as sql_delete

from keybroker.model.boots import Boot
from keybroker.store.rows import from_text, to_text
from keybroker.store.tables import BOOTS, CERTIFICATES, EXPECTED, HOSTS, POLICIES
from keybroker.store.values import terms_of
from keybroker.terms import Priority
from keybroker.wire.names import AddonName, HostId

_OF_HOST: Final = (
    select(BOOTS).where(BOOTS.c.host == bindparam("of_host")).order_by(BOOTS.c.last.desc(), BOOTS.c.id)
)
_OF_HOSTS: Final = (
    select(BOOTS)
    .join(HOSTS, HOSTS.c.id == BOOTS.c.host)
    .where(HOSTS.c.revoked.is_(None))
    .order_by(BOOTS.c.host, BOOTS.c.last.desc(), BOOTS.c.id)
)
_EXPECTED: Final = select(EXPECTED).where(EXPECTED.c.until > bindparam("now"))
_GOOD: Final = CERTIFICATES.c.not_after > bindparam("now")
_OPERATORS: Final = select(CERTIFICATES.c.fingerprint).where(CERTIFICATES.c.operator > "", _GOOD)
_NOT_NORMAL: Final = (
    select(CERTIFICATES.c.fingerprint, POLICIES.c.policy)
    .select_from(
        POLICIES.join(HOSTS, HOSTS.c.addon == POLICIES.c.addon).join(
            CERTIFICATES, CERTIFICATES.c.host == HOSTS.c.id
        )
    )
    # what is stored is read all the same: this only leaves out the many whose priority nobody has changed
    .where(POLICIES.c.policy.like('%"priority": "%'), POLICIES.c.policy.not_like('%"priority": "normal"%'))
    .where(_GOOD)
)
_ONE: Final = select(BOOTS).where(BOOTS.c.id == bindparam("named"))


class BootReading:
    """The part of ``Reading`` that is about boots."""

    _connection: Connection

    def boots(self, host: HostId) -> list[Boot]:
        """Return the boots of a host, the one that was heard of last first."""
        return [_boot_of(row) for row in self._connection.execute(_OF_HOST, {"of_host": host})]

    def boots_of(self, addon: str | None = None) -> list[Boot]:
        """Return the boots of all hosts that are not revoked, or of one add-on's, by host, the last first."""
        statement = _OF_HOSTS if addon is None else _OF_HOSTS.where(HOSTS.c.addon == addon)
        return [_boot_of(row) for row in self._connection.execute(statement)]

    def boot(self, boot: str) -> Boot | None:
        """Return one boot."""
        row = self._connection.execute(_ONE, {"named": boot}).one_or_none()
        return None if row is None else _boot_of(row)

    def expected(self, now: datetime) -> dict[AddonName, datetime]:
        """Return until when boots of add-ons are expected, where they are."""
        rows = self._connection.execute(_EXPECTED, {"now": to_text(now)})
        return {AddonName(row.addon): from_text(row.until) for row in rows}

    def priorities(self, now: datetime) -> dict[str, Priority]:
        """Return the classes of certificates that have not ended, by fingerprint, but the normal one."""
        good = {"now": to_text(now)}
        found: dict[str, Priority] = {
            row.fingerprint: terms_of(row.policy).priority
            for row in self._connection.execute(_NOT_NORMAL, good)
        }
        return found | {row.fingerprint: "high" for row in self._connection.execute(_OPERATORS, good)}


class BootWriting(BootReading):
    """The part of ``Writing`` that is about boots."""

    def put_boot(self, boot: Boot) -> None:
        """Keep a boot, instead of what was kept of it before."""
        columns = {
            "host": boot.host,
            "boot_id": boot.boot_id,
            "machine_id": boot.machine_id,
            "address": boot.address,
            "state": boot.state,
            "why": boot.why,
            "first": to_text(boot.first),
            "last": to_text(boot.last),
            "vouched": int(boot.vouched),
        }
        changed = self._connection.execute(update(BOOTS).where(BOOTS.c.id == boot.id).values(columns))
        if changed.rowcount == 0:
            self._connection.execute(insert(BOOTS), {"id": boot.id, **columns})

    def forget_boots(self, boots: Sequence[str]) -> None:
        """Let go of boots."""
        if boots:
            self._connection.execute(sql_delete(BOOTS).where(BOOTS.c.id.in_(boots)))

    def expect(self, addon: AddonName, until: datetime, said: str) -> None:
        """Keep until when an add-on's boots are expected, instead of what was kept before."""
        columns = {"until": to_text(until), "said": said}
        changed = self._connection.execute(update(EXPECTED).where(EXPECTED.c.addon == addon).values(columns))
        if changed.rowcount == 0:
            self._connection.execute(insert(EXPECTED), {"addon": addon, **columns})


def _boot_of(row: Row[Any]) -> Boot:
    return Boot(
        host=HostId(row.host),
        boot_id=row.boot_id,
        machine_id=row.machine_id,
        address=row.address,
        state=row.state,
        first=from_text(row.first),
        last=from_text(row.last),
        why=row.why,
        vouched=bool(row.vouched),
    )
