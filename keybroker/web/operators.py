"""What operators call: add-ons, volumes and what is to be done to them, hosts, and the audit trail."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NoReturn, cast

from flask import Blueprint, Response, current_app

from keybroker import cursor
from keybroker.audit import FILTERED, AuditFilter
from keybroker.proofreading import Note
from keybroker.service import inventory, orders, policies, trail
from keybroker.service.statements import StatementView
from keybroker.service.views import (
    AddonView,
    HostView,
    Invitation,
    OrderSpec,
    Origin,
    VolumeSpec,
    VolumeView,
)
from keybroker.service.volumes import MOST_ARGON2_KIB, SMALLEST_DATA, SMALLEST_SWAP
from keybroker.terms import Change
from keybroker.web.app import body, broker, peer, query, say, whole
from keybroker.web.telling import gives
from keybroker.wire import names
from keybroker.wire.fields import Fields
from keybroker.wire.names import ENGINES
from keybroker.wire.orders import AT_BOOT, ORDER_KINDS, SLOWEST, AtBoot, OrderKind
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import CIPHERS
from keybroker.wire.records import FILESYSTEMS

ENROLMENT_URL: Final = "keybroker.enrolment-url"

_ORIGINS: Final = frozenset({"blank", "foreign", "plain"})

operators = Blueprint("operators", __name__)


@operators.put("/v1/addons/<name>")
@gives(AddonView, 200, 201)
def _put_addon(name: str) -> Response:
    who, fields = peer(), body()
    engine = fields.choice("engine", ENGINES)
    fields.end()
    view, created = inventory.put_addon(broker(), who, name, engine)
    return say(view.as_json(), 201 if created else 200)


@operators.get("/v1/addons")
@gives({"addons": [AddonView]})
def _addons() -> Response:
    return say({"addons": [view.as_json() for view in inventory.addons(broker(), peer())]})


@operators.get("/v1/addons/<name>")
@gives(AddonView)
def _addon(name: str) -> Response:
    return say(inventory.addon(broker(), peer(), name).as_json())


@operators.put("/v1/addons/<name>/policy")
@gives(AddonView)
def _change_policy(name: str) -> Response:
    return say(policies.change(broker(), peer(), name, Change.read(body())).as_json())


@operators.put("/v1/addons/<addon>/volumes/<name>")
@gives(VolumeView, 200, 201)
def _put_volume(addon: str, name: str) -> Response:
    view, created = inventory.put_volume(broker(), peer(), addon, name, _spec(body()))
    return say(view.as_json(), 201 if created else 200)


def _spec(fields: Fields) -> VolumeSpec:
    spec = VolumeSpec(
        size_bytes=fields.number("size_bytes", least=min(SMALLEST_DATA, SMALLEST_SWAP)),
        cipher=fields.choice("cipher", set(CIPHERS)),
        mount=fields.optional("mount", lambda key: fields.text(key, match=names.MOUNT_POINT, most=200)),
        filesystem=fields.choice("filesystem", FILESYSTEMS),
        serial=fields.optional("serial", lambda key: fields.text(key, match=names.SERIAL)),
        origin=cast(Origin, fields.optional("origin", lambda key: fields.choice(key, _ORIGINS)) or "blank"),
        luks_uuid=fields.optional("luks_uuid", lambda key: fields.text(key, match=names.UUID)),
        argon2_memory_kib=fields.optional(
            "argon2_memory_kib", lambda key: fields.number(key, most=MOST_ARGON2_KIB)
        )
        or 0,
    )
    fields.end()
    return spec


@operators.get("/v1/volumes")
@gives({"volumes": [VolumeView]})
def _volumes() -> Response:
    who, addon = peer(), query("addon").get("addon")
    return say({"volumes": [view.as_json() for view in inventory.volumes(broker(), who, addon)]})


@operators.get("/v1/addons/<addon>/volumes/<name>")
@gives(VolumeView)
def _show_volume(addon: str, name: str) -> Response:
    return say(inventory.volume(broker(), peer(), addon, name).as_json())


@operators.put("/v1/addons/<addon>/volumes/<name>/wanted")
@gives(VolumeView)
def _rotate(addon: str, name: str) -> Response:
    who, fields = peer(), body()
    compromised = fields.optional("compromised", fields.flag) or False
    fields.end()
    view, _changed = orders.rotate(broker(), who, addon, name, compromised=compromised)
    return say(view.as_json())


@operators.put("/v1/addons/<addon>/volumes/<name>/order")
@gives(VolumeView, 200, 201)
def _order(addon: str, name: str) -> Response:
    view, created = orders.order(broker(), peer(), addon, name, _order_spec(body()))
    return say(view.as_json(), 201 if created else 200)


@operators.delete("/v1/addons/<addon>/volumes/<name>/order")
@gives(VolumeView)
def _cancel(addon: str, name: str) -> Response:
    view, _changed = orders.cancel(broker(), peer(), addon, name)
    return say(view.as_json())


def _order_spec(fields: Fields) -> OrderSpec:
    spec = OrderSpec(
        kind=cast(OrderKind, fields.choice("kind", ORDER_KINDS)),
        rate=fields.optional("rate", lambda key: fields.number(key, least=SLOWEST)),
        at_boot=cast(AtBoot, fields.optional("at_boot", lambda key: fields.choice(key, AT_BOOT)) or "beside"),
        offline=fields.optional("offline", fields.flag) or False,
        drop_foreign=fields.optional("drop_foreign", fields.flag) or False,
        backed_up=fields.optional("backed_up", fields.flag) or False,
        size_bytes=fields.optional("size_bytes", lambda key: fields.number(key, least=1)),
        serial=fields.optional("serial", lambda key: fields.text(key, match=names.SERIAL)),
        disk_gone=fields.optional("disk_gone", fields.flag) or False,
    )
    fields.end()
    return spec


@operators.get("/v1/addons/<addon>/volumes/<name>/statements")
@gives({"statements": [StatementView]})
def _statements(addon: str, name: str) -> Response:
    found = inventory.statements(broker(), peer(), addon, name)
    return say({"statements": [view.as_json() for view in found]})


@operators.post("/v1/addons/<addon>/enrolments")
@gives(Invitation, 201, enrolment=str)
def _invite(addon: str) -> Response:
    who, fields = peer(), body()
    lifetime = fields.optional("lifetime_seconds", fields.number)
    fields.end()
    seconds = inventory.DEFAULT_INVITATION_SECONDS if lifetime is None else lifetime
    invitation = inventory.invite(broker(), who, addon, seconds)
    return say({**invitation.as_json(), "enrolment": current_app.extensions[ENROLMENT_URL]}, 201)


@operators.get("/v1/hosts")
@gives({"hosts": [HostView]})
def _hosts() -> Response:
    who, addon = peer(), query("addon").get("addon")
    return say({"hosts": [view.as_json() for view in inventory.hosts(broker(), who, addon)]})


@operators.get("/v1/hosts/<host>")
@gives(HostView)
def _host(host: str) -> Response:
    return say(inventory.host(broker(), peer(), host).as_json())


@operators.put("/v1/hosts/<host>/revocation")
@gives(HostView)
def _revoke(host: str) -> Response:
    who, fields = peer(), body()
    reason = fields.text("reason", most=500)
    lock = fields.optional("lock", fields.flag) or False
    fields.end()
    return say(inventory.revoke(broker(), who, host, reason, lock=lock).as_json())


@operators.get("/v1/audit")
@gives(trail.Page)
def _audit() -> Response:
    who, asked = peer(), query("after", "limit", "since", "until", *FILTERED)
    limit = whole(asked, "limit", 100, least=1, most=trail.MOST_RECORDS)
    after = None if asked.get("after") == "-1" else cursor.parse(asked.get("after", "0"), "query: after")
    wanted = AuditFilter(
        **{name: asked[name] for name in FILTERED if name in asked},
        since=_time("since", asked),
        until=_time("until", asked),
    )
    return say(trail.records(broker(), who, after, limit, wanted).as_json())


@operators.get("/v1/audit/checkpoints")
@gives({"checkpoints": [Note]})
def _checkpoints() -> Response:
    who, asked = peer(), query("after", "limit")
    limit = whole(asked, "limit", 100, least=1, most=trail.MOST_RECORDS)
    after = whole(asked, "after", 0)
    return say({"checkpoints": [note.as_json() for note in trail.checkpoints(broker(), who, after, limit)]})


def _time(name: str, asked: dict[str, str]) -> datetime | None:
    """Read a time with its offset (RFC 3339), if it is there."""
    if name not in asked:
        return None
    try:
        # in a query, a plus sign that was not escaped is a space
        found = datetime.fromisoformat(asked[name].replace(" ", "+"))
        return found.astimezone(UTC) if found.tzinfo else _no_time(name)
    except (ValueError, OverflowError):
        return _no_time(name)


def _no_time(name: str) -> NoReturn:
    raise KeybrokerError(Problem.MALFORMED, f"query: {name} must be a time like 2026-01-31T12:00:00Z")
