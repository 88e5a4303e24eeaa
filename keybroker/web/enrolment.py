"""The enrolment listener's app: what is answered without a client certificate that is good."""

from __future__ import annotations

from flask import Blueprint, Flask, Response, request

from keybroker.service import enrolment, grace
from keybroker.service.broker import Broker
from keybroker.web.app import body, boot, broker, create_app, say
from keybroker.web.telling import gives
from keybroker.wire.messages import Certified, EnrolmentOffer, EnrolmentRequest, LateRenewalRequest

LARGEST_ENROLMENT = 65536
"""In bytes: a token or a certificate, and a certificate signing request, generously."""

strangers = Blueprint("strangers", __name__)


def create_enrolment_app(broker: Broker) -> Flask:
    """Return the app of the enrolment listener."""
    app = create_app(__name__, broker)
    app.register_blueprint(strangers)
    return app


def largest(_method: str, _path: str) -> int:
    """Return the most bytes that a request's body may have."""
    return LARGEST_ENROLMENT


@strangers.get("/v1/enrolment")
@gives(EnrolmentOffer)
def _offer() -> Response:
    return say(enrolment.offer(broker()).as_json())


@strangers.post("/v1/enrolment")
@gives(Certified)
def _enrol() -> Response:
    return say(
        enrolment.enrol(broker(), request.environ["REMOTE_ADDR"], EnrolmentRequest.read(body())).as_json()
    )


@strangers.post("/v1/enrolment/renewal")
@gives(Certified)
def _renew_late() -> Response:
    return say(
        grace.renew(
            broker(), request.environ["REMOTE_ADDR"], LateRenewalRequest.read(body()), boot()
        ).as_json()
    )
