"""Each exchange of this tier is held to the OpenAPI document: what the broker takes and says is in there."""

from __future__ import annotations

import json
import re
from functools import cache, lru_cache
from typing import Any

import jsonschema

from keybroker.web.described import document

_PARAMETER = re.compile(r"\{[a-z_]+\}")


@cache
def _made() -> dict[str, Any]:
    return document()


@lru_cache(maxsize=512)
def _operation(method: str, path: str, enrolment: bool) -> tuple[str, dict[str, Any]] | None:
    """Find the operation that a request is of; the path with fewest parameters first, as Werkzeug does."""
    for template in sorted(_made()["paths"], key=lambda one: one.count("{")):
        item = _made()["paths"][template]
        if ("servers" in item) == enrolment and re.fullmatch(_PARAMETER.sub("[^/]+", template), path):
            operation = item.get(method.lower())
            return None if operation is None else (template, operation)
    return None


@cache
def _validator(template: str, method: str, status: str, media: str) -> jsonschema.Draft202012Validator:
    operation = _made()["paths"][template][method.lower()]
    told = operation["requestBody"] if status == "request" else operation["responses"][status]
    if "$ref" in told:
        told = _made()["components"]["responses"][told["$ref"].rpartition("/")[2]]
    assert media in told["content"], f"{method} {template}: {status} as {media} is not described"
    schema = told["content"][media]["schema"]
    return jsonschema.Draft202012Validator({**schema, "components": _made()["components"]})


def check(
    method: str,
    target: str,
    body: object,
    status: int,
    headers: dict[str, str],
    reply: bytes,
    *,
    enrolment: bool,
) -> None:
    """Check one exchange; an assertion fails where the document does not say that it may go like this.

    Args:
        enrolment: whether it was the enrolment listener that was asked.
    """
    path, _, query = target.partition("?")
    found = _operation(method, path, enrolment)
    if found is None:
        assert status in (400, 404, 405, 413), f"{method} {path}: is not described, and answered {status}"
        return
    template, operation = found
    where = f"{method} {template}"
    assert str(status) in operation["responses"], f"{where}: the document has no {status}: {reply[:300]!r}"
    media = headers["content-type"]
    if "json" in media:
        _hold(where, _validator(template, method, str(status), media), json.loads(reply))
    else:
        assert media in operation["responses"][str(status)]["content"], f"{where}: {media} is not described"
    if status < 300:
        named = {one["name"] for one in operation["parameters"] if one["in"] == "query"}
        assert {part.partition("=")[0] for part in query.split("&") if part} <= named, f"{where}: its query"
        if body is not None:
            given = json.loads(body) if isinstance(body, bytes) else body
            assert "requestBody" in operation, f"{where}: takes a body, which the document does not say"
            _hold(f"{where}: request", _validator(template, method, "request", "application/json"), given)


def _hold(where: str, validator: jsonschema.Draft202012Validator, document: object) -> None:
    for error in validator.iter_errors(document):
        raise AssertionError(f"{where}: {error.json_path}: {error.message[:300]}")
