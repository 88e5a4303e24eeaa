"""What operators call to have volumes and add-ons destroyed, later or sooner, or not after all."""

from __future__ import annotations

from datetime import datetime

from flask import Blueprint, Response

from keybroker.model.deletion import read_time
from keybroker.service import deletions, inventory
from keybroker.service.statements import AddonStatementView
from keybroker.service.views import AddonView, VolumeView
from keybroker.terms import MOST_DAYS
from keybroker.web.app import body, broker, peer, say
from keybroker.web.telling import gives

endings = Blueprint("endings", __name__)


@endings.put("/v1/addons/<addon>/volumes/<name>/deletion")
@gives(VolumeView, 200, 201)
def _delete_volume(addon: str, name: str) -> Response:
    who, (reason, days) = peer(), _wish()
    view, changed = deletions.delete_volume(broker(), who, addon, name, reason, days)
    return say(view.as_json(), 201 if changed else 200)


@endings.delete("/v1/addons/<addon>/volumes/<name>/deletion")
@gives(VolumeView)
def _undelete_volume(addon: str, name: str) -> Response:
    view, _changed = deletions.undelete_volume(broker(), peer(), addon, name)
    return say(view.as_json())


@endings.put("/v1/addons/<addon>/volumes/<name>/deletion/approval")
@gives(VolumeView)
def _approve_volume(addon: str, name: str) -> Response:
    who, due = peer(), _due()
    return say(deletions.approve_volume(broker(), who, addon, name, due).as_json())


@endings.put("/v1/addons/<addon>/deletion")
@gives(AddonView, 200, 201)
def _delete_addon(addon: str) -> Response:
    who, (reason, days) = peer(), _wish()
    view, changed = deletions.delete_addon(broker(), who, addon, reason, days)
    return say(view.as_json(), 201 if changed else 200)


@endings.delete("/v1/addons/<addon>/deletion")
@gives(AddonView)
def _undelete_addon(addon: str) -> Response:
    view, _changed = deletions.undelete_addon(broker(), peer(), addon)
    return say(view.as_json())


@endings.put("/v1/addons/<addon>/deletion/approval")
@gives(AddonView)
def _approve_addon(addon: str) -> Response:
    who, due = peer(), _due()
    return say(deletions.approve_addon(broker(), who, addon, due).as_json())


@endings.get("/v1/addons/<addon>/statements")
@gives({"statements": [AddonStatementView]})
def _addon_statements(addon: str) -> Response:
    found = inventory.addon_statements(broker(), peer(), addon)
    return say({"statements": [view.as_json() for view in found]})


def _wish() -> tuple[str, int | None]:
    """Read why something is to be destroyed, and after how many days."""
    fields = body()
    reason = fields.text("reason", most=500)
    days = fields.optional("days", lambda key: fields.number(key, most=MOST_DAYS))
    fields.end()
    return reason, days


def _due() -> datetime:
    """Read the very time that is approved."""
    fields = body()
    due = read_time(fields, "due")
    fields.end()
    return due
