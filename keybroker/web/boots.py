"""What operators call about boots."""

from __future__ import annotations

from flask import Blueprint, Response

from keybroker.service import boots
from keybroker.service.boots import LONGEST_EXPECTED_SECONDS, BootView, ExpectedView
from keybroker.web.app import body, broker, peer, query, say
from keybroker.web.telling import gives

gatekeeping = Blueprint("gatekeeping", __name__)


@gatekeeping.get("/v1/boots")
@gives({"boots": [BootView], "expected": [ExpectedView]})
def _boots() -> Response:
    who, addon = peer(), query("addon").get("addon")
    found = [view.as_json() for view in boots.listing(broker(), who, addon)]
    expected = [view.as_json() for view in boots.expected(broker(), who, addon)]
    return say({"boots": found, "expected": expected})


@gatekeeping.put("/v1/boots/<boot>/approval")
@gives(BootView)
def _approve(boot: str) -> Response:
    who = peer()
    body().end()
    return say(boots.approve(broker(), who, boot).as_json())


@gatekeeping.put("/v1/addons/<name>/expected")
@gives(ExpectedView)
def _expect(name: str) -> Response:
    who, fields = peer(), body()
    seconds = fields.number("seconds", most=LONGEST_EXPECTED_SECONDS)
    fields.end()
    return say(boots.expect(broker(), who, name, seconds).as_json())


@gatekeeping.put("/v1/boots/<boot>/denial")
@gives(BootView)
def _deny(boot: str) -> Response:
    who = peer()
    body().end()
    return say(boots.deny(broker(), who, boot).as_json())


@gatekeeping.put("/v1/hosts/<host>/clearance")
@gives({"boots": [BootView]})
def _clear(host: str) -> Response:
    who, fields = peer(), body()
    reason = fields.text("reason", most=500)
    fields.end()
    return say({"boots": [view.as_json() for view in boots.clear(broker(), who, host, reason)]})
