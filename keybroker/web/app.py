"""What the Flask apps share: strict bodies, plain replies, and one handler for whatever goes wrong."""

from __future__ import annotations

import json
import logging
from typing import Any, Final

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from keybroker.policy import Peer
from keybroker.service.broker import Broker
from keybroker.web.gate import CERTIFICATE, IDENTITY
from keybroker.web.peer import read_peer
from keybroker.web.problems import JSON_TYPE, headers, reply_for, unexpected, where
from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem

_BROKER: Final = "keybroker.broker"

_log = logging.getLogger("keybroker.web")


def create_app(name: str, broker: Broker) -> Flask:
    """Return an app without routes, which answers every error with a problem document."""
    app = Flask(name, static_folder=None, template_folder=None)
    # A path has one spelling; Werkzeug would redirect a client from others to it.
    app.url_map.merge_slashes = False
    app.extensions[_BROKER] = broker
    app.register_error_handler(Exception, _problem)
    return app


def broker() -> Broker:
    """Return the broker of the app that is answering."""
    found: Broker = current_app.extensions[_BROKER]
    return found


def peer() -> Peer:
    """Return who asks, from the certificate of the connection.

    Raises:
        KeybrokerError: NO_IDENTITY or CERTIFICATE.
    """
    found = read_peer(
        request.environ.get(CERTIFICATE),
        request.environ["REMOTE_ADDR"],
        broker().settings.trust_domain,
        broker().clock(),
    )
    request.environ[IDENTITY] = f"{found.identity.kind}/{found.identity.name}"
    return found


def body() -> Fields:
    """Return the one JSON object that is the request's body.

    Raises:
        KeybrokerError: MALFORMED.
    """
    if request.mimetype != JSON_TYPE or request.mimetype_params.get("charset", "utf-8").lower() != "utf-8":
        raise KeybrokerError(Problem.MALFORMED, f"request: Content-Type must be {JSON_TYPE}")
    return Fields.parse(request.get_data())


def query(*names: str) -> dict[str, str]:
    """Return the parameters of the query, each of which must be one of ``names`` and there once.

    Raises:
        KeybrokerError: MALFORMED.
    """
    given = request.args.to_dict(flat=False)
    for name, values in given.items():
        if name not in names or len(values) != 1:
            raise KeybrokerError(
                Problem.MALFORMED, f"query: {name[:40]!r} is not a parameter here, or is there twice"
            )
    return {name: values[0] for name, values in given.items()}


def say(document: dict[str, Any], status: int = 200) -> Response:
    """Return a JSON reply."""
    return Response(json.dumps(document), status, list(headers(JSON_TYPE)))


def _problem(error: Exception) -> Response:
    """Turn any error into its problem document; what nobody foresaw is logged, and says nothing."""
    fields: list[tuple[str, str]] = []
    if isinstance(error, KeybrokerError):
        found = error
    elif isinstance(error, MethodNotAllowed):
        found = KeybrokerError(Problem.METHOD, "request: this path does not take that method")
        fields.append(("Allow", ", ".join(sorted(set(error.valid_methods or ()) - {"HEAD", "OPTIONS"}))))
    elif isinstance(error, HTTPException) and error.code == 404:
        found = KeybrokerError(Problem.UNKNOWN, "request: there is nothing at this path")
    elif isinstance(error, HTTPException) and error.code == 413:
        found = KeybrokerError(Problem.TOO_LARGE, "request: the body is too large")
    elif isinstance(error, HTTPException) and error.code is not None and error.code < 500:
        found = KeybrokerError(Problem.MALFORMED, "request: cannot be read")
    else:
        _log.error("%s %s: %s", request.method, request.path[:200].encode(), where(error))
        found = unexpected()
    if found.problem.http_status >= 500 and not found.problem.temporary:
        _log.error("%s %s: %s", request.method, request.path[:200].encode(), found.detail)
    reply = reply_for(found)
    return Response(reply.body, reply.status, [*reply.headers, *fields])
