"""The main listener's app, and what hosts call there; what operators call is in ``operators``."""

from __future__ import annotations

import re
from typing import Final

from flask import Blueprint, Flask, Response

from keybroker.config import LARGEST_BODY, LARGEST_DEPOSIT
from keybroker.service import boot, enrolment, moving, orders, provisioning, reports, rotation
from keybroker.service.broker import Broker
from keybroker.web.app import body, broker, create_app, peer, say
from keybroker.web.boots import gatekeeping
from keybroker.web.deletions import endings
from keybroker.web.described import described
from keybroker.web.masters import ring
from keybroker.web.metrics import measured
from keybroker.web.operators import ENROLMENT_URL, operators
from keybroker.web.recovery import recoveries
from keybroker.web.roster import people
from keybroker.web.telling import gives
from keybroker.wire import names
from keybroker.wire.changes import (
    AdoptionRequest,
    ErasedRequest,
    PhaseRequest,
    PromoteRequest,
    StageRequest,
    SwitchReply,
    SwitchRequest,
)
from keybroker.wire.messages import (
    Certified,
    ClaimRequest,
    DepositRequest,
    HeaderCopy,
    ReadyRequest,
    RenewalRequest,
    UnlockReply,
    UnlockRequest,
)
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Grant, Record
from keybroker.wire.reports import ReportReply, ReportRequest

_DEPOSIT: Final = re.compile(r"/v1/volumes/[^/]+/(header|adoption)")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}")

hosts = Blueprint("hosts", __name__)


def create_main_app(broker: Broker, enrolment_url: str) -> Flask:
    """Return the app of the main listener.

    Args:
        enrolment_url: base URL of the enrolment listener, told with each token.
    """
    app = create_app(__name__, broker)
    app.extensions[ENROLMENT_URL] = enrolment_url
    app.register_blueprint(hosts)
    app.register_blueprint(operators)
    app.register_blueprint(people)
    app.register_blueprint(ring)
    app.register_blueprint(gatekeeping)
    app.register_blueprint(recoveries)
    app.register_blueprint(endings)
    app.register_blueprint(described)
    app.register_blueprint(measured)
    return app


def largest(method: str, path: str) -> int:
    """Return the most bytes that a request's body may have."""
    return LARGEST_DEPOSIT if method == "PUT" and _DEPOSIT.fullmatch(path) else LARGEST_BODY


def _volume(text: str) -> VolumeId:
    if names.VOLUME_ID.fullmatch(text) is None:
        raise KeybrokerError(Problem.UNKNOWN, "volume: that is not a volume's id")
    return VolumeId(text)


@hosts.post("/v1/unlock")
@gives(UnlockReply)
def _unlock() -> Response:
    return say(boot.unlock(broker(), peer(), UnlockRequest.read(body())).as_json())


@hosts.post("/v1/renewal")
@gives(Certified)
def _renew() -> Response:
    return say(enrolment.renew(broker(), peer(), RenewalRequest.read(body())).as_json())


@hosts.put("/v1/volumes/<volume>/device")
@gives(Grant)
def _claim(volume: str) -> Response:
    return say(provisioning.claim(broker(), peer(), _volume(volume), ClaimRequest.read(body())).as_json())


@hosts.put("/v1/volumes/<volume>/header")
@gives(Record)
def _deposit(volume: str) -> Response:
    return say(provisioning.deposit(broker(), peer(), _volume(volume), DepositRequest.read(body())).as_json())


@hosts.get("/v1/volumes/<volume>/header")
@gives(HeaderCopy)
def _header_copy(volume: str) -> Response:
    return say(provisioning.header_copy(broker(), peer(), _volume(volume)).as_json())


@hosts.put("/v1/volumes/<volume>/ready")
@gives(Record)
def _ready(volume: str) -> Response:
    return say(provisioning.ready(broker(), peer(), _volume(volume), ReadyRequest.read(body())).as_json())


@hosts.post("/v1/report")
@gives(ReportReply)
def _report() -> Response:
    return say(reports.report(broker(), peer(), ReportRequest.read(body())).as_json())


@hosts.put("/v1/volumes/<volume>/staged")
@gives(Grant)
def _stage(volume: str) -> Response:
    return say(rotation.stage(broker(), peer(), _volume(volume), StageRequest.read(body())).as_json())


@hosts.put("/v1/volumes/<volume>/current")
@gives(Record)
def _promote(volume: str) -> Response:
    return say(rotation.promote(broker(), peer(), _volume(volume), PromoteRequest.read(body())).as_json())


@hosts.delete("/v1/volumes/<volume>/keys/<version>")
@gives(Record)
def _retire(volume: str, version: str) -> Response:
    number = KeyVersion(_number("key version", version))
    return say(rotation.retire(broker(), peer(), _volume(volume), number).as_json())


@hosts.put("/v1/volumes/<volume>/adoption")
@gives(Record)
def _adopt(volume: str) -> Response:
    return say(rotation.adopt(broker(), peer(), _volume(volume), AdoptionRequest.read(body())).as_json())


@hosts.put("/v1/volumes/<volume>/order")
@gives(Record)
def _announce(volume: str) -> Response:
    return say(orders.announce(broker(), peer(), _volume(volume), PhaseRequest.read(body())).as_json())


@hosts.delete("/v1/volumes/<volume>/order/<number>")
@gives(Record)
def _finish(volume: str, number: str) -> Response:
    return say(orders.finish(broker(), peer(), _volume(volume), _number("order", number)).as_json())


@hosts.put("/v1/volumes/<volume>/holder")
@gives(SwitchReply)
def _switch(volume: str) -> Response:
    return say(moving.switch(broker(), peer(), _volume(volume), SwitchRequest.read(body())).as_json())


@hosts.put("/v1/volumes/<volume>/erased")
@gives(Record)
def _erased(volume: str) -> Response:
    return say(moving.erased(broker(), peer(), _volume(volume), ErasedRequest.read(body())).as_json())


def _number(what: str, text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise KeybrokerError(Problem.UNKNOWN, f"{what}: that is not a number")
    return int(text)
