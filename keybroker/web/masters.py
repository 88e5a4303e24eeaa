"""What operators call about master keys, and about the add-ons' keys that these wrap."""

from __future__ import annotations

from flask import Blueprint, Response

from keybroker.service import masters
from keybroker.service.masters import MastersView
from keybroker.web.app import body, broker, peer, say
from keybroker.web.telling import gives

ring = Blueprint("ring", __name__)


@ring.get("/v1/master")
@gives(MastersView)
def _show() -> Response:
    return say(masters.show(broker(), peer()).as_json())


@ring.put("/v1/master/wrapping")
@gives(MastersView)
def _rotate() -> Response:
    who, fields = peer(), body()
    uri = fields.text("uri", most=4096)
    compromised = fields.optional("compromised", fields.flag) or False
    fields.end()
    return say(masters.rotate(broker(), who, uri, compromised=compromised).as_json())


@ring.put("/v1/master/keys/<identity>/forgotten")
@gives(MastersView)
def _forget(identity: str) -> Response:
    who, fields = peer(), body()
    backups_gone = fields.optional("backups_gone", fields.flag) or False
    fields.end()
    return say(masters.forget(broker(), who, identity, backups_gone=backups_gone).as_json())


@ring.get("/v1/addons/<name>/key")
@gives({"addon": str, "generation": int})
def _addon_key(name: str) -> Response:
    return say({"addon": name, "generation": masters.addon_generation(broker(), peer(), name)})


@ring.put("/v1/addons/<name>/key")
@gives({"addon": str, "generation": int}, 200, 201)
def _renew_addon_key(name: str) -> Response:
    who, fields = peer(), body()
    wanted = fields.number("generation", least=1)
    fields.end()
    generation, made = masters.renew_addon(broker(), who, name, wanted)
    return say({"addon": name, "generation": generation}, 201 if made else 200)
