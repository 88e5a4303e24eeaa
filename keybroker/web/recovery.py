"""What operators call for the day when something is lost: the offline recovery key, and break-glass."""

from __future__ import annotations

from flask import Blueprint, Response

from keybroker.service import recovery, revealing
from keybroker.service.recovery import RecoveryKeyView, RecoveryView
from keybroker.service.revealing import Revealed
from keybroker.web.app import body, broker, peer, say
from keybroker.web.telling import gives
from keybroker.wire.names import KeyVersion
from keybroker.wire.proof import PROOF
from keybroker.wire.recovery import DIGEST, MOST_RECIPIENTS
from keybroker.wire.secret import passphrase

recoveries = Blueprint("recoveries", __name__)


@recoveries.post("/v1/addons/<addon>/volumes/<name>/reveal")
@gives(Revealed)
def _reveal(addon: str, name: str) -> Response:
    who, fields = peer(), body()
    reason = fields.text("reason", most=500)
    hours = fields.optional("hours", lambda key: fields.number(key, most=revealing.MOST_HOURS))
    version = fields.optional("version", lambda key: KeyVersion(fields.number(key, least=1)))
    fields.end()
    after = revealing.DEFAULT_HOURS if hours is None else hours
    shown = revealing.reveal(broker(), who, addon, name, reason, hours=after, version=version)
    return say(shown.as_json())


@recoveries.get("/v1/recovery")
@gives(RecoveryKeyView)
def _show() -> Response:
    return say(recovery.show(broker(), peer()).as_json())


@recoveries.put("/v1/recovery")
@gives(RecoveryKeyView, 200, 201)
def _set_key() -> Response:
    who, fields = peer(), body()
    recipients = list(fields.texts("recipients", most=MOST_RECIPIENTS))
    fields.end()
    view, created = recovery.set_key(broker(), who, recipients)
    return say(view.as_json(), 201 if created else 200)


@recoveries.post("/v1/recovery/renewal")
@gives({"renewed": int, "left": int})
def _renew() -> Response:
    who = peer()
    body().end()
    renewed, left = recovery.renew(broker(), who)
    return say({"renewed": renewed, "left": left})


@recoveries.get("/v1/recovery/volumes")
@gives({"volumes": [RecoveryView]})
def _volumes() -> Response:
    return say({"volumes": [view.as_json() for view in recovery.volumes(broker(), peer())]})


@recoveries.put("/v1/addons/<addon>/volumes/<name>/recovery/key")
@gives({"version": int}, 200, 201)
def _import(addon: str, name: str) -> Response:
    who, fields = peer(), body()
    version = KeyVersion(fields.number("version", least=1))
    try:
        found = passphrase(fields.text("passphrase").encode())
    except ValueError as error:
        raise fields.wrong("passphrase", str(error)) from None
    fields.end()
    created = recovery.import_key(broker(), who, addon, name, version, found)
    return say({"version": version}, 201 if created else 200)


@recoveries.put("/v1/addons/<addon>/volumes/<name>/recovery/check")
@gives({"opens": bool})
def _check(addon: str, name: str) -> Response:
    who, fields = peer(), body()
    version = KeyVersion(fields.number("version", least=1))
    called, proof = fields.text("digest", match=DIGEST), fields.text("proof", match=PROOF)
    fields.end()
    return say({"opens": recovery.check(broker(), who, addon, name, version, called, proof)})
