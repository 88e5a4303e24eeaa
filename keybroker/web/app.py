"""What the Flask apps share: strict bodies, plain replies, and one handler for whatever goes wrong."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from keybroker.policy import Peer
from keybroker.service.broker import Broker
from keybroker.unforeseen import where
from keybroker.web.gate import BOOT, CERTIFICATE, IDENTITY
from keybroker.web.peer import read_peer
from keybroker.web.problems import JSON_TYPE, headers, reply_for, unexpected
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.fields import LARGEST_INTEGER, Fields
from keybroker.wire.problems import KeybrokerError, Problem

_BROKER: Final = "keybroker.broker"
INCOMING: Final = "keybroker.incoming"
"""In an app's extensions: what a request brings; the OpenAPI document is made with another one there."""

_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")

_log = logging.getLogger("keybroker.web")


def create_app(name: str, broker: Broker) -> Flask:
    """Return an app without routes, which answers every error with a problem document."""
    app = Flask(name, static_folder=None, template_folder=None)
    # A path has one spelling; Werkzeug would redirect a client from others to it.
    app.url_map.merge_slashes = False
    app.extensions[_BROKER] = broker
    app.extensions[INCOMING] = Incoming()
    app.register_error_handler(Exception, _problem)
    return app


def methods_of(app: Flask) -> Callable[[str], list[str]]:
    """Return what says which methods a path of an app takes; none, where there is nothing at it."""
    paths = app.url_map.bind("keybroker")
    return lambda path: sorted({*paths.allowed_methods(unquote(path))} - {"HEAD", "OPTIONS"})


def broker() -> Broker:
    """Return the broker of the app that is answering."""
    found: Broker = current_app.extensions[_BROKER]
    return found


class Incoming:
    """What a request brings: who asks, of which boot, a body, a query."""

    def peer(self) -> Peer:
        """Return who asks (``peer``)."""
        found = read_peer(
            request.environ.get(CERTIFICATE),
            request.environ["REMOTE_ADDR"],
            broker().settings.trust_domain,
            broker().clock(),
            self.boot(),
        )
        request.environ[IDENTITY] = f"{found.identity.kind}/{found.identity.name}"
        return found

    def boot(self) -> AskingBoot | None:
        """Return which boot the request says that it is of (``boot``)."""
        said: str | None = request.environ.get(BOOT)
        return None if said is None else AskingBoot.parse(said)

    def body(self) -> Fields:
        """Return the body (``body``)."""
        charset = request.mimetype_params.get("charset", "utf-8").lower()
        if request.mimetype != JSON_TYPE or charset != "utf-8":
            raise KeybrokerError(Problem.MALFORMED, f"request: Content-Type must be {JSON_TYPE}")
        return Fields.parse(request.get_data())

    def query(self, *names: str) -> dict[str, str]:
        """Return the query (``query``)."""
        given = request.args.to_dict(flat=False)
        for name, values in given.items():
            if name not in names or len(values) != 1:
                raise KeybrokerError(
                    Problem.MALFORMED, f"query: {name[:40]!r} is not a parameter here, or is there twice"
                )
        return {name: values[0] for name, values in given.items()}

    def whole(self, asked: dict[str, str], name: str, otherwise: int, least: int, most: int) -> int:
        """Return a number of a query (``whole``)."""
        text = asked.get(name, str(otherwise))
        if _WHOLE.fullmatch(text) is None:
            raise KeybrokerError(Problem.MALFORMED, f"query: {name} must be a whole number")
        if not least <= int(text) <= most:
            raise KeybrokerError(Problem.MALFORMED, f"query: {name} must be from {least} to {most}")
        return int(text)


def _incoming() -> Incoming:
    found: Incoming = current_app.extensions[INCOMING]
    return found


def peer() -> Peer:
    """Return who asks, from the certificate of the connection.

    Raises:
        KeybrokerError: NO_IDENTITY or CERTIFICATE; MALFORMED as ``boot``.
    """
    return _incoming().peer()


def boot() -> AskingBoot | None:
    """Return which boot of a host the request says that it is of; None where it does not say.

    Raises:
        KeybrokerError: MALFORMED.
    """
    return _incoming().boot()


def body() -> Fields:
    """Return the one JSON object that is the request's body.

    Raises:
        KeybrokerError: MALFORMED.
    """
    return _incoming().body()


def query(*names: str) -> dict[str, str]:
    """Return the parameters of the query, each of which must be one of ``names`` and there once.

    Raises:
        KeybrokerError: MALFORMED.
    """
    return _incoming().query(*names)


def whole(
    asked: dict[str, str],
    name: str,
    otherwise: int,
    *,
    least: int = -LARGEST_INTEGER,
    most: int = LARGEST_INTEGER,
) -> int:
    """Return a parameter of the query ``asked`` that is a whole number; ``otherwise`` where it is not there.

    Raises:
        KeybrokerError: MALFORMED.
    """
    return _incoming().whole(asked, name, otherwise, least, most)


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
