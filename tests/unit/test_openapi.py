"""The OpenAPI document says what the routes do; one that it cannot be read off fails here."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import pytest
from flask import Blueprint, Flask, Response
from openapi_spec_validator import OpenAPIV31SpecValidator

from keybroker.policy import Peer
from keybroker.rights import MAY
from keybroker.service import inventory
from keybroker.web import openapi
from keybroker.web.app import body, broker, create_app, peer, query, say, whole
from keybroker.web.described import document
from keybroker.web.enrolment import create_enrolment_app
from keybroker.web.main import create_main_app
from keybroker.web.openapi.schema import merge, of
from keybroker.web.openapi.sketch import Sketch
from keybroker.web.openapi.specimen import schema_of
from keybroker.web.telling import gives, told_of
from keybroker.wire.fields import Fields
from keybroker.wire.problems import Problem
from keybroker.wire.records import Record


def apps() -> tuple[Flask, Flask]:
    nobody = cast(Any, None)
    return create_main_app(nobody, ""), create_enrolment_app(nobody)


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """The document; where it cannot be made, the error says which route lacks what."""
    return document()


def operations(made: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            if method != "servers":
                yield method.upper(), path, operation


def test_it_is_an_openapi_document(made: dict[str, Any]) -> None:
    errors = [error.message for error in OpenAPIV31SpecValidator(made).iter_errors()]
    assert errors == []


def test_it_has_every_method_of_every_route_and_no_other(made: dict[str, Any]) -> None:
    served = {
        (method, rule.rule.replace("<", "{").replace(">", "}"))
        for app in apps()
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {(method, path) for method, path, _operation in operations(made)} == served


def test_every_verb_has_a_route_and_every_route_of_the_main_listener_a_verb(made: dict[str, Any]) -> None:
    asked = {
        (method, path): operation.get("x-verbs", [])
        for method, path, operation in operations(made)
        if not path.startswith("/v1/enrolment")
    }
    assert {verb for verbs in asked.values() for verb in verbs} == set(MAY)
    assert [call for call, verbs in asked.items() if not verbs] == []


def test_it_says_who_may_do_what(made: dict[str, Any]) -> None:
    for _method, _path, operation in operations(made):
        if "x-verbs" in operation:
            assert operation["x-who-may"] == sorted(
                {who for verb in operation["x-verbs"] for who in MAY[verb]}
            )
            assert "security" not in operation
        else:
            assert operation["security"] == []


def test_the_parameters_of_a_path_are_those_in_it(made: dict[str, Any]) -> None:
    for _method, path, operation in operations(made):
        named = [one["name"] for one in operation["parameters"] if one["in"] == "path"]
        assert named == [part[1:-1] for part in path.split("/") if part.startswith("{")]


def test_every_problem_of_the_table_is_told_under_its_status(made: dict[str, Any]) -> None:
    responses = made["components"]["responses"]
    for problem in Problem:
        if problem.http_status != 502:  # an agent's own word for a broker that it does not trust
            assert f"`{problem.slug}`" in responses[str(problem.http_status)]["description"]
    used = {status for _m, _p, operation in operations(made) for status in operation["responses"]}
    assert set(responses) - used == {"405"}, "no method that is described is refused as none"


def test_statuses_are_those_that_the_handler_writes() -> None:
    """A handler that can say 201 has that number in it, and says so above itself."""
    for app in apps():
        for endpoint, view in app.view_functions.items():
            told, source = told_of(view), ast.parse(textwrap.dedent(inspect.getsource(view)))
            function = cast(ast.FunctionDef, source.body[0])
            numbers = {
                node.value
                for line in function.body
                for node in ast.walk(line)
                if isinstance(node, ast.Constant) and node.value in (200, 201, 202, 204)
            }
            assert told is not None, endpoint
            assert {status for status in told.statuses if status != 200} == numbers - {200}, endpoint


def test_every_summary_is_a_sentence_of_the_use_case(made: dict[str, Any]) -> None:
    for method, path, operation in operations(made):
        if (method, path) != ("GET", "/v1/enrolment"):  # which asks the store nothing
            assert operation["summary"].endswith("."), (method, path, operation["summary"])


def test_a_sketch_notes_every_way_to_read_a_field() -> None:
    readers = {name for name, value in vars(Fields).items() if inspect.isfunction(value) and name[0] != "_"}
    assert readers - {"wrong"} - set(vars(Sketch)) == set(), "keybroker/web/openapi/sketch.py lacks these"


# a new route, as somebody may write it


@dataclass(frozen=True, slots=True)
class View:
    name: str
    kind: Literal["big", "small"]
    size: int | None
    parts: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "kind": self.kind, "size": self.size, "parts": list(self.parts)}


def described(routes: Blueprint) -> dict[str, Any]:
    app = create_app("test", cast(Any, None))
    app.register_blueprint(routes)
    return openapi.document(app, create_app("none", cast(Any, None)))


def ask(who: Peer) -> None:
    inventory.addon(broker(), who, "x")


def test_a_route_that_does_not_say_what_it_replies_is_named_with_what_to_write() -> None:
    routes = Blueprint("routes", __name__)

    @routes.get("/v1/things")
    def things() -> Response:
        ask(peer())
        return say({})

    with pytest.raises(openapi.Undescribed, match=r"GET /v1/things: .*@gives"):
        described(routes)


def test_a_route_that_cannot_be_followed_is_named_with_where_to_help() -> None:
    routes = Blueprint("routes", __name__)

    @routes.get("/v1/things/<thing>")
    @gives(View)
    def thing(thing: str) -> Response:
        peer()
        if not thing.startswith("thing-"):
            raise LookupError
        ask(peer())
        return say({})

    with pytest.raises(openapi.Undescribed, match=r"GET /v1/things/\{thing\}: .*_PLACES"):
        described(routes)


def test_what_a_handler_reads_and_replies_is_what_the_document_says() -> None:
    routes = Blueprint("routes", __name__)

    @routes.put("/v1/addons/<addon>/things/<thing>")
    @gives(View, 200, 201, extra=int)
    def put(addon: str, thing: str) -> Response:
        who, fields, asked = peer(), body(), query("after", "about")
        whole(asked, "after", 7, least=1, most=9)
        fields.choice("kind", {"big", "small"})
        fields.optional("size", lambda key: fields.number(key, least=3))
        if fields.flag("deep"):
            fields.text("why", most=10)
        fields.end()
        ask(who)
        return say({})

    made = described(routes)
    operation = made["paths"]["/v1/addons/{addon}/things/{thing}"]["put"]
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": ["big", "small"]},
            "size": {"anyOf": [{"type": "integer", "minimum": 3, "maximum": 2**63 - 1}, {"type": "null"}]},
            "deep": {"type": "boolean"},
            "why": {"type": "string", "maxLength": 10},
        },
        "required": ["deep", "kind"],
        "additionalProperties": False,
    }
    assert [(one["name"], one["in"], one["schema"]["type"]) for one in operation["parameters"]] == [
        ("addon", "path", "string"),
        ("thing", "path", "string"),
        ("about", "query", "string"),
        ("after", "query", "integer"),
    ]
    assert set(operation["responses"]) == {
        "200",
        "201",
        "400",
        "403",
        "404",
        "409",
        "410",
        "413",
        "429",
        "500",
        "503",
    }
    replied = operation["responses"]["201"]["content"]["application/json"]["schema"]
    assert replied["properties"] == {
        "name": {"type": "string"},
        "kind": {"type": "string", "enum": ["big", "small"]},
        "size": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "parts": {"type": "array", "items": {"type": "string"}},
        "extra": {"type": "integer"},
    }
    assert replied["required"] == ["extra", "kind", "name", "parts", "size"]
    assert (operation["x-verbs"], operation["summary"]) == (["addon.read"], "Return one add-on.")


def test_a_record_is_described_with_all_that_it_writes() -> None:
    schema = schema_of(Record)
    assert schema["required"] == sorted(schema["properties"])
    assert schema["properties"]["stage"]["enum"] == sorted(
        ["new", "claimed", "deposited", "ready", "foreign", "plain", "erased"]
    )
    assert {one["type"] for one in schema["properties"]["order"]["anyOf"]} == {"object", "null"}


@pytest.mark.parametrize(
    ("values", "schema"),
    [
        ([1, None], {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ([[], [1]], {"type": "array", "items": {"type": "integer"}}),
        ([{"1": "a"}, {}], {"type": "object", "additionalProperties": {"type": "string"}}),
        ([{}], {"type": "object"}),
        (["2026-01-31T12:00:00.000000Z"], {"type": "string", "format": "date-time"}),
        (
            [{"a": 1}, {"a": 1, "b": True}],
            {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}},
                "required": ["a"],
                "additionalProperties": False,
            },
        ),
    ],
)
def test_several_values_have_one_schema(values: list[Any], schema: dict[str, Any]) -> None:
    assert merge(map(of, values)) == schema
