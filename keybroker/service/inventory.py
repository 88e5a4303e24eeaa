"""What operators do: add-ons, volumes, hosts, and the audit trail. Nothing here returns a key."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.hashes import SHA256

from keybroker.policy import Peer
from keybroker.service.admission import Caller, consult, perform
from keybroker.service.broker import Broker
from keybroker.service.directory import addon_named, addon_view, lasting_addon, view, volume_named
from keybroker.service.enrolment import token_hash
from keybroker.service.keys import new_addon_key
from keybroker.service.offline import entrust
from keybroker.service.reasons import check_reason
from keybroker.service.statements import AddonStatementView, StatementView
from keybroker.service.views import (
    AddonView,
    HostView,
    Invitation,
    VolumeSpec,
    VolumeView,
)
from keybroker.service.volumes import check_room, declared_alike, new_volume, random_suffix, read_spec
from keybroker.store import Reading, Writing
from keybroker.store.rows import AddonRow, EnrolmentRow, HostRow, VolumeRow
from keybroker.wire import names
from keybroker.wire.names import AddonName, HostId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

__all__ = [
    "AddonView",
    "HostView",
    "Invitation",
    "VolumeSpec",
    "VolumeView",
    "addon",
    "addons",
    "host",
    "hosts",
    "invite",
    "put_addon",
    "put_volume",
    "revoke",
    "volume",
    "volumes",
]

DEFAULT_INVITATION_SECONDS: Final = 3600
SHORTEST_INVITATION_SECONDS: Final = 60
LONGEST_INVITATION_SECONDS: Final = 7 * 86400

_TOKEN_BYTES: Final = 24


def put_addon(broker: Broker, peer: Peer, name: str, engine: str) -> tuple[AddonView, bool]:
    """Make an add-on, with its own random key.

    Returns:
        The add-on, and whether it is new; False where it was there already with this engine.

    Raises:
        KeybrokerError: NOT_ALLOWED, NO_IDENTITY, REVOKED or CERTIFICATE for the peer; MALFORMED for a name or
            engine that is none; EXISTS where it is there with another engine; UNAVAILABLE.
    """

    def work(writing: Writing, caller: Caller) -> tuple[AddonView, bool]:
        if names.ADDON_NAME.fullmatch(name) is None:
            raise _malformed("name", f"must match {names.ADDON_NAME.pattern}")
        if engine not in names.ENGINES:
            raise _malformed("engine", f"must be one of {', '.join(sorted(names.ENGINES))}")
        row = writing.addon(name)
        if row is None:
            row = AddonRow(AddonName(name), engine, caller.now)
            key = new_addon_key(broker.masterkey, row.name, 1, broker.entropy, caller.now)
            writing.add_addon(row, key)
            writing.append(caller.about("done", addon=name, engine=engine))
            return AddonView.of(row, [], []), True
        if row.destroyed is not None:
            lasting_addon(writing, name)
        if row.engine != engine:
            raise KeybrokerError(Problem.EXISTS, f"add-on {name}: its engine is {row.engine}")
        return addon_view(writing, row), False

    return perform(broker, peer, "addon.add", work)


def addons(broker: Broker, peer: Peer) -> tuple[AddonView, ...]:
    """Return all add-ons by name.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer.
    """

    def work(reading: Reading) -> tuple[AddonView, ...]:
        all_volumes, all_hosts = reading.volumes(), reading.hosts()
        return tuple(AddonView.of(row, all_volumes, all_hosts) for row in reading.addons())

    return consult(broker, peer, "addon.read", work)


def addon(broker: Broker, peer: Peer, name: str) -> AddonView:
    """Return one add-on.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN.
    """
    return consult(
        broker, peer, "addon.read", lambda reading: addon_view(reading, addon_named(reading, name))
    )


def put_volume(
    broker: Broker, peer: Peer, addon: str, name: str, spec: VolumeSpec
) -> tuple[VolumeView, bool]:
    """Make a volume, and for a data volume its first key, which is wrapped at once and not returned.

    Returns:
        The volume, and whether it is new; False where it was there already just like this.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; MALFORMED for a specification that makes no sense;
            UNKNOWN add-on; EXISTS where it is there and differs, or where another volume of the add-on has
            its mount point or serial; CONFLICT where the add-on has 64 volumes already.
    """

    def work(writing: Writing, caller: Caller) -> tuple[VolumeView, bool]:
        read_spec(name, spec)
        owner = lasting_addon(writing, addon)
        others = [row for row in writing.volumes(owner.name) if row.volume.stage != "erased"]
        for row in others:
            if row.volume.name == name and row.volume.role == "holder":
                if declared_alike(row.volume, spec):
                    return view(writing, row), False
                raise KeybrokerError(Problem.EXISTS, f"volume {addon}/{name}: is there and differs")
            if row.volume.name == name and row.volume.deletion is not None:
                raise KeybrokerError(
                    Problem.CONFLICT,
                    f"volume {addon}/{name}: a disk that it left is to be destroyed under that name",
                    hint=f"keybroker volume undelete {addon} {name}; or take another name",
                )
        _free(others, addon, spec)
        keys = writing.addon_keys(owner.name)
        row = new_volume(broker, keys, owner.name, name, spec, caller.now)
        writing.add_volume(row)
        row = entrust(broker, writing, row, row.wrapped, caller.now)
        writing.append(
            caller.about(
                "done",
                addon=addon,
                volume=row.volume.id,
                name=name,
                size_bytes=spec.size_bytes,
                filesystem=spec.filesystem,
            )
        )
        return VolumeView.of(row), True

    return perform(broker, peer, "volume.add", work)


def _free(others: list[VolumeRow], addon: str, spec: VolumeSpec) -> None:
    """Check that nothing of a new volume is another one's."""
    check_room(others, addon, spec.serial)
    for row in others:
        holds = row.volume.role == "holder"
        if holds and spec.mount is not None and row.volume.mount == spec.mount:
            raise KeybrokerError(
                Problem.EXISTS, f"mount point {spec.mount}: is that of volume {row.volume.name}"
            )


def volumes(broker: Broker, peer: Peer, addon: str | None = None) -> tuple[VolumeView, ...]:
    """Return all volumes, or one add-on's, by add-on and name; successors and former ones among them.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN add-on.
    """

    def work(reading: Reading) -> tuple[VolumeView, ...]:
        owner = None if addon is None else addon_named(reading, addon).name
        reports, proofs, ahead = reading.reports(owner), reading.proofs(owner), reading.ahead()
        deletions = {row.name: row.deletion for row in reading.addons() if row.deletion is not None}
        return tuple(
            VolumeView.of(
                row,
                reports.get(row.volume.id),
                proofs.get(row.volume.id),
                ahead=ahead.get(row.volume.id),
                with_addon=deletions.get(row.volume.addon),
            )
            for row in reading.volumes(owner)
        )

    return consult(broker, peer, "volume.read", work)


def volume(broker: Broker, peer: Peer, addon: str, name: str) -> VolumeView:
    """Return one volume.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN.
    """

    return consult(
        broker, peer, "volume.read", lambda reading: view(reading, volume_named(reading, addon, name))
    )


def statements(broker: Broker, peer: Peer, addon: str, name: str) -> tuple[StatementView, ...]:
    """Return the signed statements of destruction about all volumes of that name, the oldest first.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN.
    """

    def work(reading: Reading) -> tuple[StatementView, ...]:
        volume_named(reading, addon, name)
        rows = [
            statement
            for row in reading.volumes(addon)
            if row.volume.name == name
            for statement in reading.statements(row.volume.id)
        ]
        return tuple(StatementView(row) for row in sorted(rows, key=lambda row: row.at))

    return consult(broker, peer, "volume.read", work)


def addon_statements(broker: Broker, peer: Peer, name: str) -> tuple[AddonStatementView, ...]:
    """Return the signed statement about an add-on that was destroyed; none while it was not.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN.
    """

    def work(reading: Reading) -> tuple[AddonStatementView, ...]:
        row = reading.addon_statement(addon_named(reading, name).name)
        return () if row is None else (AddonStatementView(row),)

    return consult(broker, peer, "addon.read", work)


def invite(
    broker: Broker, peer: Peer, addon: str, lifetime_seconds: int = DEFAULT_INVITATION_SECONDS
) -> Invitation:
    """Make a host and the one-time token that its VM enrols with.

    Args:
        lifetime_seconds: of the token, from 60 to a week.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN add-on; MALFORMED lifetime.
    """

    def work(writing: Writing, caller: Caller) -> Invitation:
        if not SHORTEST_INVITATION_SECONDS <= lifetime_seconds <= LONGEST_INVITATION_SECONDS:
            raise _malformed(
                "lifetime_seconds",
                f"must be from {SHORTEST_INVITATION_SECONDS} to {LONGEST_INVITATION_SECONDS}",
            )
        owner = lasting_addon(writing, addon)
        host_id = HostId("kbh-" + random_suffix(broker.entropy))
        token = _new_token(broker)
        expires = caller.now + timedelta(seconds=lifetime_seconds)
        writing.add_host(
            HostRow(host_id, owner.name, caller.now),
            EnrolmentRow(token_hash(token), host_id, caller.now, expires),
        )
        writing.append(caller.about("done", addon=addon, host=host_id, lifetime_seconds=lifetime_seconds))
        return Invitation(token, host_id, expires)

    return perform(broker, peer, "host.invite", work)


def _new_token(broker: Broker) -> Secret:
    fingerprint = broker.authority.anchor.fingerprint(SHA256())
    parts = (base64.urlsafe_b64encode(part) for part in (broker.entropy(_TOKEN_BYTES), fingerprint))
    return Secret(b".".join((b"kbe1", *(part.rstrip(b"=") for part in parts))))


def hosts(broker: Broker, peer: Peer, addon: str | None = None) -> tuple[HostView, ...]:
    """Return all hosts, or one add-on's, oldest first.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN add-on.
    """

    def work(reading: Reading) -> tuple[HostView, ...]:
        owner = None if addon is None else addon_named(reading, addon).name
        return tuple(HostView.of(row) for row in reading.hosts(owner))

    return consult(broker, peer, "host.read", work)


def host(broker: Broker, peer: Peer, host: str) -> HostView:
    """Return one host.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN.
    """
    return consult(broker, peer, "host.read", lambda reading: HostView.of(_host(reading, host)))


def _host(reading: Reading, host: str) -> HostRow:
    row = reading.host(host)
    if row is None:
        raise KeybrokerError(Problem.UNKNOWN, f"host {host[:40]}: there is none", hint="keybroker host list")
    return row


def revoke(broker: Broker, peer: Peer, host: str, reason: str, *, lock: bool = False) -> HostView:
    """Turn a host away from now on: no request of it that is decided after this returns gets a key.

    Args:
        reason: 1 to 500 characters, for the record; that of the first revocation stays.
        lock: have it close, at its next report, what it has open; not taken back by a later revocation.

    Raises:
        KeybrokerError: as ``put_addon`` for the peer; UNKNOWN; MALFORMED reason.
    """

    def work(writing: Writing, caller: Caller) -> HostView:
        check_reason(reason)
        row = _host(writing, host)
        writing.revoke_host(row.id, reason, caller.now, lock=lock)
        facts: dict[str, Any] = {"reason": reason, **({"lock": True} if lock else {})}
        writing.append(caller.about("done", addon=row.addon, host=row.id, **facts))
        return HostView.of(_host(writing, host))

    return perform(broker, peer, "host.revoke", work)


def _malformed(field: str, what: str) -> KeybrokerError:
    return KeybrokerError(Problem.MALFORMED, f"{field}: {what}")
