"""What operators call about operators, themselves among them."""

from __future__ import annotations

from flask import Blueprint, Response

from keybroker.service import roster
from keybroker.service.views import Appointment, OperatorView
from keybroker.web.app import body, broker, peer, say
from keybroker.web.telling import gives
from keybroker.wire.fields import Fields
from keybroker.wire.messages import LARGEST_PEM
from keybroker.wire.names import ROLES

people = Blueprint("people", __name__)


@people.put("/v1/operators/<name>")
@gives(Appointment, 200, 201)
def _add(name: str) -> Response:
    who, fields = peer(), body()
    roles, csr = fields.words("roles", ROLES), fields.text("csr", most=LARGEST_PEM)
    fields.end()
    appointment, created = roster.add(broker(), who, name, roles, csr)
    return say(appointment.as_json(), 201 if created else 200)


@people.get("/v1/operators")
@gives({"operators": [OperatorView]})
def _operators() -> Response:
    return say({"operators": [view.as_json() for view in roster.operators(broker(), peer())]})


@people.get("/v1/operators/<name>")
@gives(OperatorView)
def _operator(name: str) -> Response:
    return say(roster.operator(broker(), peer(), name).as_json())


@people.put("/v1/operators/<name>/roles")
@gives(OperatorView)
def _roles(name: str) -> Response:
    who, fields = peer(), body()
    roles = fields.words("roles", ROLES)
    fields.end()
    return say(roster.change_roles(broker(), who, name, roles).as_json())


@people.put("/v1/operators/<name>/revocation")
@gives(OperatorView)
def _revoke(name: str) -> Response:
    who, fields = peer(), body()
    reason = fields.text("reason", most=500)
    fields.end()
    return say(roster.revoke(broker(), who, name, reason).as_json())


@people.put("/v1/operators/<name>/certificate")
@gives(Appointment)
def _certify(name: str) -> Response:
    who, csr = peer(), _csr(body())
    return say(roster.certify(broker(), who, name, csr).as_json())


@people.get("/v1/self")
@gives(OperatorView)
def _myself() -> Response:
    return say(roster.myself(broker(), peer()).as_json())


@people.put("/v1/self/certificate")
@gives(Appointment)
def _renew() -> Response:
    who, csr = peer(), _csr(body())
    return say(roster.renew(broker(), who, csr).as_json())


def _csr(fields: Fields) -> str:
    csr = fields.text("csr", most=LARGEST_PEM)
    fields.end()
    return csr
