"""Every reply says what it is, is not kept anywhere, and tells nothing about what made it."""

from __future__ import annotations

import pytest

from tests.tls.running import Broker, Host, Reply, unlock_request


def replies(broker: Broker, host: Host) -> list[Reply]:
    return [
        broker.ask("POST", "/v1/unlock", unlock_request(), who=host.files),
        broker.ask("GET", "/v1/addons", who=broker.operator),
        broker.ask("GET", "/v1/addons/nosuch", who=broker.operator),
        broker.ask("GET", "/nosuch", who=broker.operator),
        broker.ask("POST", "/v1/addons", {}, who=broker.operator),
        broker.ask("DELETE", "/v1/addons", who=broker.operator),
        broker.ask("POST", "/v1/unlock", b"{", who=host.files),
        broker.ask("POST", "/v1/unlock", unlock_request(), who=broker.operator),
        broker.ask("POST", "/v1/unlock", b" " * 2_000_000, who=host.files),
        broker.ask("GET", "/v1/enrolment", port=broker.enrolment),
        broker.ask("POST", "/v1/enrolment", {}, port=broker.enrolment),
        broker.probe("/healthz"),
        broker.probe("/nosuch"),
    ]


def test_every_reply_has_them(broker: Broker, host: Host) -> None:
    for reply in replies(broker, host):
        fields = reply.headers
        assert fields["cache-control"] == "no-store"
        assert fields["x-content-type-options"] == "nosniff"
        assert fields["content-type"] == (
            "application/json" if reply.status in (200, 201) else "application/problem+json"
        )
        assert int(fields["content-length"]) == len(reply.body)
        assert fields["server"] == "keybroker"
        assert not {"set-cookie", "location", "etag", "x-powered-by", "www-authenticate"} & set(fields)


def test_every_error_is_a_problem_document(broker: Broker, host: Host) -> None:
    for reply in replies(broker, host):
        if reply.status >= 400:
            assert set(reply.document) - {"hint"} == {"type", "title", "status", "detail"}
            assert reply.document["status"] == reply.status


def test_a_method_that_is_not_taken_names_those_that_are(broker: Broker) -> None:
    reply = broker.ask("POST", "/v1/addons/shop", {}, who=broker.operator)
    assert (reply.status, reply.problem, reply.headers["allow"]) == (405, "method", "GET, PUT")


@pytest.mark.parametrize(
    ("path", "takes"), [("/v1/addons/shop", "GET, PUT"), ("/v1/%61ddons", "GET"), ("/v1/nothing", "")]
)
def test_a_method_that_nothing_takes_is_told_what_the_path_does_take(
    broker: Broker, path: str, takes: str
) -> None:
    reply = broker.ask("TRACE", path, who=broker.operator)
    assert (reply.status, reply.problem, reply.headers["allow"]) == (405, "method", takes)


def test_something_new_is_201_and_something_found_is_200(broker: Broker) -> None:
    for expected in (201, 200):
        reply = broker.ask("PUT", "/v1/addons/fresh", {"engine": "redis"}, who=broker.operator)
        assert reply.status == expected
    reply = broker.ask("PUT", "/v1/addons/fresh", {"engine": "mysql"}, who=broker.operator)
    assert (reply.status, reply.problem) == (409, "exists")
