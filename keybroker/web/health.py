"""The health listener's app: alive, ready, metrics; on a unix socket or loopback only, naming nothing."""

from __future__ import annotations

from flask import Blueprint, Flask, Response

from keybroker.service import health
from keybroker.service.broker import Broker
from keybroker.web.app import broker, create_app, say
from keybroker.web.metrics import local

probes = Blueprint("probes", __name__)


def create_health_app(broker: Broker) -> Flask:
    """Return the app of the health listener."""
    app = create_app(__name__, broker)
    app.register_blueprint(probes)
    app.register_blueprint(local)
    return app


def largest(_method: str, _path: str) -> int:
    """Return the most bytes that a request's body may have: a question about health has none."""
    return 0


@probes.get("/healthz")
def _alive() -> Response:
    return say({"status": "alive"})


@probes.get("/readyz")
def _ready() -> Response:
    health.ready(broker())
    return say({"status": "ready"})
