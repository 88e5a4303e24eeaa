"""Where the OpenAPI document is told: to whoever is known here, host or operator."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, cast

from flask import Blueprint, Response

from keybroker.service.admission import known
from keybroker.web.app import broker, peer
from keybroker.web.problems import JSON_TYPE, headers
from keybroker.web.telling import gives

described = Blueprint("described", __name__)


@described.get("/openapi.json")
@gives(None)
def _document() -> Response:
    known(broker(), peer())
    return Response(_text(), 200, list(headers(JSON_TYPE)))


@lru_cache(maxsize=1)
def _text() -> str:
    return json.dumps(document())


def document() -> dict[str, Any]:
    """Return the document of this version, from apps that are made for it and answer nobody."""
    from keybroker.web import openapi
    from keybroker.web.enrolment import create_enrolment_app
    from keybroker.web.main import create_main_app

    nobody = cast(Any, None)
    return openapi.document(create_main_app(nobody, ""), create_enrolment_app(nobody))
