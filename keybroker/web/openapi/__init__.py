"""The OpenAPI 3.1 document, made from the routes as they are: nothing in it is written twice.

| part | comes from |
|---|---|
| paths, methods, path parameters | the apps' URL maps |
| verb, who may, summary | the use case that the handler calls (``witness``), ``rights.MAY``, its docstring |
| body and query | what the handler reads of a request that has everything (``sketch``) |
| replies | ``telling.gives`` above the handler: the shape's ``as_json``, on made-up values (``specimen``) |
| problems | ``wire.problems`` |
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from flask import Flask

from keybroker import __version__
from keybroker.rights import MAY, Verb
from keybroker.service.sentry import JUDGED
from keybroker.web.app import INCOMING
from keybroker.web.openapi.choosing import Choices, each_once
from keybroker.web.openapi.links import add_links
from keybroker.web.openapi.schema import Schema, merge, pattern
from keybroker.web.openapi.specimen import schema_of
from keybroker.web.openapi.witness import Asked, Witness
from keybroker.web.problems import JSON_TYPE, PROBLEM_TYPE
from keybroker.web.telling import Told, told_of
from keybroker.wire import names
from keybroker.wire.askingboot import HEADER, WRITTEN
from keybroker.wire.problems import Problem

_PARAMETER: Final = re.compile(r"<(?:[a-z]+:)?([a-z_]+)>")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}")

_ABOUT: Final = """\
TLS 1.3. Who asks is whom the client certificate names, and nothing in a request says more of it; a host's
agent adds which boot it is (`Keybroker-Boot`: boot id, space, machine id).
`x-who-may` has the roles of operators, or `host`, that may do the `x-verbs` of an operation, which are also
those of the audit trail. Errors are problem documents (RFC 9457). A PUT or DELETE again changes nothing.
"""

_PLACES: Final = {
    "addons": ("shop-db", names.ADDON_NAME),
    "volumes": ("data", names.VOLUME_NAME),
    "volumes <volume>": ("kbv-aaaaaaaaaaaa", names.VOLUME_ID),
    "hosts": ("kbh-aaaaaaaaaaaa", names.HOST_ID),
    "operators": ("bob", names.OPERATOR_NAME),
    "keys": ("1", _NUMBER),
    "order": ("1", _NUMBER),
}
"""What a path's parameter looks like, by what stands before it; others are any text."""


class Undescribed(Exception):
    """A route of which something is not known; the message says what to write where."""


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path.

    Attributes:
        path: as OpenAPI writes it.
        example: a path that its handler takes.
        parameters: of the path, with their schemas.
    """

    method: str
    path: str
    example: str
    endpoint: str
    parameters: dict[str, Schema]
    told: Told


@dataclass(frozen=True, slots=True)
class _Look:
    """One run of a handler: what it asked for, and what came of it."""

    status: int
    known: bool
    parameters: dict[str, Schema]
    names_boot: bool
    body: Schema | None
    witness: Witness


def document(main: Flask, enrolment: Flask) -> dict[str, Any]:
    """Return the document of the main and the enrolment listener.

    Args:
        main, enrolment: apps that answer nobody else: their broker is replaced for good.

    Raises:
        Undescribed: a route that does not say what it replies, or whose handler cannot be followed.
    """
    paths: dict[str, dict[str, Any]] = {}
    schemas = {"Problem": _problem()}
    for app, at in ((main, None), (enrolment, "The enrolment listener, port 8444 by default.")):
        for route in routes(app):
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(app, route, schemas)
            if at is not None:
                paths[route.path]["servers"] = [{"url": "https://broker.example:8444", "description": at}]
    add_links(paths)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Keybroker",
            "version": __version__,
            "description": _ABOUT,
        },
        "servers": [{"url": "/", "description": "The main listener, port 8443 by default."}],
        "security": [{"certificate": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {
                "certificate": {"type": "mutualTLS", "description": "From the broker's own CA."}
            },
            "schemas": schemas,
            "responses": {str(status): _problem_response(status) for status in _problem_statuses()},
        },
    }


def routes(app: Flask) -> Iterator[Route]:
    """Yield every route of an app.

    Raises:
        Undescribed: one that does not say what it replies.
    """
    for rule in app.url_map.iter_rules():
        told = told_of(app.view_functions[rule.endpoint])
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            if told is None:
                raise Undescribed(
                    f"{method} {rule.rule}: its function {rule.endpoint} does not say what it replies: put"
                    f" @gives(SomeView, 200) of keybroker/web/telling.py between its route and its def"
                )
            yield _route(method, rule.rule, rule.endpoint, told)


def _route(method: str, rule: str, endpoint: str, told: Told) -> Route:
    parameters: dict[str, Schema] = {}
    example, before = [], ""
    for part in rule.split("/"):
        found = _PARAMETER.fullmatch(part)
        if found is None:
            example.append(part)
        else:
            looks = _PLACES.get(f"{before} {part}") or _PLACES.get(before)
            text = {"type": "string"} if looks is None else {"type": "string", "pattern": pattern(looks[1])}
            parameters[found[1]] = text
            example.append("1" if looks is None else looks[0])
        before = part
    path = _PARAMETER.sub(lambda found: f"{{{found[1]}}}", rule)
    return Route(method, path, "/".join(example), endpoint, parameters, told)


def _operation(app: Flask, route: Route, schemas: dict[str, Schema]) -> dict[str, Any]:
    looks = _looks(app, route)
    last = looks[-1]
    use_case = last.witness.use_case
    verbs = sorted({cast(Verb, look.witness.verb) for look in looks if look.known and look.witness.verb})
    operation: dict[str, Any] = {
        "operationId": route.endpoint.replace("._", "_"),
        "summary": (getattr(use_case, "__doc__", None) or route.endpoint).partition("\n")[0],
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": schema}
                for name, schema in route.parameters.items()
            ),
            *(
                {"name": name, "in": "query", "schema": schema}
                for name, schema in sorted(last.parameters.items())
            ),
            *(
                {"name": HEADER, "in": "header", "schema": {"type": "string", "pattern": pattern(WRITTEN)}}
                for _ in range(last.names_boot or any("host" in MAY[verb] for verb in verbs))
            ),
        ],
        "responses": {
            **{str(status): _reply(route.told, schemas) for status in route.told.statuses},
            **{
                str(status): {"$ref": f"#/components/responses/{status}"}
                for status in _may_fail_with(route, last)
            },
        },
    }
    bodies = [look.body for look in looks if look.body is not None]
    if bodies:
        operation["requestBody"] = {"required": True, "content": {JSON_TYPE: {"schema": merge(bodies)}}}
    if not last.known:
        operation["security"] = []
    if verbs:
        operation |= {"x-verbs": verbs, "x-who-may": sorted({who for verb in verbs for who in MAY[verb]})}
    return operation


def _looks(app: Flask, route: Route) -> list[_Look]:
    """Run a route's handler every way that it can be led, and return the runs that came to a use case."""
    all_looks = list(each_once(lambda choices: _look(app, route, choices)))
    good = [look for look in all_looks if look.status in (200, 403)]
    if not good:
        raise Undescribed(
            f"{route.method} {route.path}: its function {route.endpoint} came to no use case but to"
            f" {all_looks[0].status}: keybroker/web/openapi/__init__.py (_PLACES) and sketch.py (_NAMED,"
            " _EXAMPLES) are where to say what a parameter or a field looks like"
        )
    return good


def _look(app: Flask, route: Route, choices: Choices) -> _Look:
    witness, asked = Witness(), Asked(choices)
    app.extensions["keybroker.broker"] = witness.broker()
    app.extensions[INCOMING] = asked
    reply = app.test_client().open(route.example, method=route.method)
    body = None if asked.sketch is None else asked.sketch.schema
    return _Look(reply.status_code, asked.known, asked.parameters, asked.names_boot, body, witness)


def _reply(told: Told, schemas: dict[str, Schema]) -> dict[str, Any]:
    if told.shape is not None:
        schema = _schema(told.shape, schemas)
    else:
        schema = {"type": "object" if told.media == JSON_TYPE else "string"}
    return {"description": _about(told.shape), "content": {told.media: {"schema": schema}}}


def _about(shape: Any) -> str:
    """Return the first line that a class says of itself."""
    if not hasattr(shape, "as_json"):
        return "As asked."
    return (shape.__doc__ or "").partition("\n")[0]


def _schema(shape: Any, schemas: dict[str, Schema]) -> Schema:
    """Return the schema of a shape; that of a class stands among the components."""
    if isinstance(shape, list):
        return {"type": "array", "items": _schema(shape[0], schemas)}
    if isinstance(shape, dict):
        properties = {name: _schema(each, schemas) for name, each in shape.items()}
        return {
            "type": "object",
            "properties": properties,
            "required": sorted(properties),
            "additionalProperties": False,
        }
    if not hasattr(shape, "as_json"):
        return schema_of(shape)
    if shape.__name__ not in schemas:
        schemas[shape.__name__] = {"description": _about(shape), **schema_of(shape)}
    return {"$ref": f"#/components/schemas/{shape.__name__}"}


def _problem_statuses() -> list[int]:
    return sorted({problem.http_status for problem in Problem} - {502})


def _may_fail_with(route: Route, look: _Look) -> list[int]:
    """Return the statuses that a route may fail with."""
    return [
        status
        for status in _problem_statuses()
        if status != 405
        and (status != 403 or look.known or look.body is not None)
        and (status != 404 or route.parameters or look.parameters or look.body is not None)
        and (status != 409 or route.method != "GET" or route.parameters)
        and (status != 413 or look.body is not None)
        and (status != 423 or look.witness.verb in JUDGED or _asks_to_sign(look))
    ]


def _asks_to_sign(look: _Look) -> bool:
    """Say whether a request is for a certificate, which may wait for an outside CA."""
    return look.body is not None and "csr" in look.body.get("properties", {})


def _problem() -> Schema:
    return {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": sorted(problem.slug for problem in Problem)},
            "title": {"type": "string"},
            "status": {"type": "integer", "enum": _problem_statuses()},
            "detail": {"type": "string"},
            "hint": {"type": "string"},
            "identity": {"type": "string"},
        },
        "required": ["detail", "status", "title", "type"],
        "additionalProperties": False,
    }


def _problem_response(status: int) -> dict[str, Any]:
    rows = [problem for problem in Problem if problem.http_status == status]
    told = "; ".join(f"`{problem.slug}`: {problem.title}" for problem in rows)
    response: dict[str, Any] = {
        "description": told,
        "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in (423, 429, 503):
        wait = {"description": "In seconds.", "schema": {"type": "integer", "minimum": 1}, "required": True}
        response["headers"] = {"Retry-After": wait}
    return response
