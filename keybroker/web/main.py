"""The main listener's app: what hosts call, and what operators call, each with its certificate."""

from __future__ import annotations

import re
from typing import Final

from flask import Blueprint, Flask, Response, current_app

from keybroker.config import LARGEST_BODY, LARGEST_DEPOSIT
from keybroker.service import boot, enrolment, inventory, provisioning
from keybroker.service.broker import Broker
from keybroker.service.inventory import VolumeSpec
from keybroker.web.app import body, broker, create_app, peer, query, say
from keybroker.wire import names
from keybroker.wire.fields import Fields
from keybroker.wire.messages import ClaimRequest, DepositRequest, ReadyRequest, RenewalRequest, UnlockRequest
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem

_DEPOSIT: Final = re.compile(r"/v1/volumes/[^/]+/header")
_ENROLMENT_URL: Final = "keybroker.enrolment-url"

hosts = Blueprint("hosts", __name__)
operators = Blueprint("operators", __name__)


def create_main_app(broker: Broker, enrolment_url: str) -> Flask:
    """Return the app of the main listener.

    Args:
        enrolment_url: base URL of the enrolment listener, told with each token.
    """
    app = create_app(__name__, broker)
    app.extensions[_ENROLMENT_URL] = enrolment_url
    app.register_blueprint(hosts)
    app.register_blueprint(operators)
    return app


def largest(method: str, path: str) -> int:
    """Return the most bytes that a request's body may have."""
    return LARGEST_DEPOSIT if method == "PUT" and _DEPOSIT.fullmatch(path) else LARGEST_BODY


def _volume(text: str) -> VolumeId:
    if names.VOLUME_ID.fullmatch(text) is None:
        raise KeybrokerError(Problem.UNKNOWN, "volume: that is not a volume's id")
    return VolumeId(text)


@hosts.post("/v1/unlock")
def _unlock() -> Response:
    return say(boot.unlock(broker(), peer(), UnlockRequest.read(body())).as_json())


@hosts.post("/v1/renewal")
def _renew() -> Response:
    return say(enrolment.renew(broker(), peer(), RenewalRequest.read(body())).as_json())


@hosts.put("/v1/volumes/<volume>/device")
def _claim(volume: str) -> Response:
    return say(provisioning.claim(broker(), peer(), _volume(volume), ClaimRequest.read(body())).as_json())


@hosts.put("/v1/volumes/<volume>/header")
def _deposit(volume: str) -> Response:
    return say(provisioning.deposit(broker(), peer(), _volume(volume), DepositRequest.read(body())).as_json())


@hosts.get("/v1/volumes/<volume>/header")
def _header_copy(volume: str) -> Response:
    return say(provisioning.header_copy(broker(), peer(), _volume(volume)).as_json())


@hosts.put("/v1/volumes/<volume>/ready")
def _ready(volume: str) -> Response:
    return say(provisioning.ready(broker(), peer(), _volume(volume), ReadyRequest.read(body())).as_json())


@operators.put("/v1/addons/<name>")
def _put_addon(name: str) -> Response:
    who, fields = peer(), body()
    engine = fields.text("engine")
    fields.end()
    view, created = inventory.put_addon(broker(), who, name, engine)
    return say(view.as_json(), 201 if created else 200)


@operators.get("/v1/addons")
def _addons() -> Response:
    return say({"addons": [view.as_json() for view in inventory.addons(broker(), peer())]})


@operators.get("/v1/addons/<name>")
def _addon(name: str) -> Response:
    return say(inventory.addon(broker(), peer(), name).as_json())


@operators.put("/v1/addons/<addon>/volumes/<name>")
def _put_volume(addon: str, name: str) -> Response:
    view, created = inventory.put_volume(broker(), peer(), addon, name, _spec(body()))
    return say(view.as_json(), 201 if created else 200)


def _spec(fields: Fields) -> VolumeSpec:
    spec = VolumeSpec(
        size_bytes=fields.number("size_bytes", least=1),
        cipher=fields.text("cipher"),
        mount=fields.optional("mount", fields.text),
        filesystem=fields.text("filesystem"),
        serial=fields.optional("serial", fields.text),
    )
    fields.end()
    return spec


@operators.get("/v1/volumes")
def _volumes() -> Response:
    who, addon = peer(), query("addon").get("addon")
    return say({"volumes": [view.as_json() for view in inventory.volumes(broker(), who, addon)]})


@operators.get("/v1/addons/<addon>/volumes/<name>")
def _show_volume(addon: str, name: str) -> Response:
    return say(inventory.volume(broker(), peer(), addon, name).as_json())


@operators.post("/v1/addons/<addon>/enrolments")
def _invite(addon: str) -> Response:
    who, fields = peer(), body()
    lifetime = fields.optional("lifetime_seconds", fields.number)
    fields.end()
    seconds = inventory.DEFAULT_INVITATION_SECONDS if lifetime is None else lifetime
    invitation = inventory.invite(broker(), who, addon, seconds)
    return say({**invitation.as_json(), "enrolment": current_app.extensions[_ENROLMENT_URL]}, 201)


@operators.get("/v1/hosts")
def _hosts() -> Response:
    who, addon = peer(), query("addon").get("addon")
    return say({"hosts": [view.as_json() for view in inventory.hosts(broker(), who, addon)]})


@operators.get("/v1/hosts/<host>")
def _host(host: str) -> Response:
    return say(inventory.host(broker(), peer(), host).as_json())


@operators.put("/v1/hosts/<host>/revocation")
def _revoke(host: str) -> Response:
    who, fields = peer(), body()
    reason = fields.text("reason", most=500)
    fields.end()
    return say(inventory.revoke(broker(), who, host, reason).as_json())


@operators.get("/v1/audit")
def _audit() -> Response:
    who, asked = peer(), query("after", "limit")
    after, limit = _whole("after", asked.get("after", "0")), _whole("limit", asked.get("limit", "100"))
    entries = inventory.audit_tail(broker(), who, after, limit)
    return say({"audit": [entry.as_json() for entry in entries]})


def _whole(name: str, text: str) -> int:
    if re.fullmatch(r"-?[0-9]{1,18}", text) is None:
        raise KeybrokerError(Problem.MALFORMED, f"query: {name} must be a whole number")
    return int(text)
