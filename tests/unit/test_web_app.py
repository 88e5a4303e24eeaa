"""Errors on their way out of an app: each becomes a problem document, and says no more than it should."""

from __future__ import annotations

import logging
from typing import cast

import pytest
from werkzeug.exceptions import InternalServerError, RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.test import TestResponse

from keybroker.service.broker import Broker
from keybroker.web.app import create_app
from keybroker.wire.problems import KeybrokerError, Problem

NO_BROKER = cast(Broker, None)


def answer(error: Exception) -> TestResponse:
    """Return the reply of an app that raises ``error``."""
    app = create_app(__name__, NO_BROKER)

    def fail() -> str:
        raise error

    app.add_url_rule("/", view_func=fail)
    return app.test_client().get("/")


@pytest.mark.parametrize("problem", list(Problem))
def test_every_problem_has_its_document(problem: Problem) -> None:
    reply = answer(KeybrokerError(problem, "thing: what is wrong", hint="do this"))
    assert reply.status_code == problem.http_status
    assert reply.content_type == "application/problem+json"
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.get_json(force=True) == {
        "type": problem.slug,
        "title": problem.title,
        "status": int(problem.http_status),
        "detail": "thing: what is wrong",
        "hint": "do this",
    }
    assert ("Retry-After" in reply.headers) == (problem.http_status in (423, 429, 503))


def test_a_client_is_told_when_to_come_back() -> None:
    reply = answer(KeybrokerError(Problem.BUSY, "broker: busy", retry_after=7.4))
    assert reply.headers["Retry-After"] == "8"


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (RequestEntityTooLarge(), 413, "too-large"),
        (UnsupportedMediaType(), 400, "malformed"),
        (InternalServerError(), 500, "internal"),
    ],
)
def test_an_error_of_the_framework_has_one_too(error: Exception, status: int, slug: str) -> None:
    reply = answer(error)
    assert (reply.status_code, reply.get_json(force=True)["type"]) == (status, slug)


def test_what_nobody_foresaw_is_neither_told_nor_quoted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        reply = answer(ValueError("correct horse battery staple"))
    assert (reply.status_code, reply.get_json(force=True)["type"]) == (500, "internal")
    assert "horse" not in reply.get_data(as_text=True)
    assert "unexpected ValueError at test_web_app.py" in caplog.text
    assert "horse" not in caplog.text


def test_a_path_has_one_spelling() -> None:
    app = create_app(__name__, NO_BROKER)
    app.add_url_rule("/a/b", view_func=lambda: "found")
    client = app.test_client()
    assert client.get("/a/b").status_code == 200
    for path in ("/a//b", "/a/b/", "/a/./b", "/A/b"):
        assert client.get(path).status_code == 404
