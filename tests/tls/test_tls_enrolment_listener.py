"""The enrolment listener serves one path and no other, and the main listener does not serve that one."""

from __future__ import annotations

import pytest

from tests.tls.running import Broker, Host, unlock_request


def test_it_shows_the_ca_and_nothing_else(broker: Broker) -> None:
    reply = broker.ask("GET", "/v1/enrolment", port=broker.enrolment)
    assert reply.status == 200
    assert set(reply.document) == {"ca"}
    assert reply.document["ca"].strip() == broker.ca.read_text().strip()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/unlock"),
        ("POST", "/v1/renewal"),
        ("GET", "/v1/volumes"),
        ("GET", "/v1/addons"),
        ("PUT", "/v1/addons/evil"),
        ("POST", "/v1/addons/shop/enrolments"),
        ("GET", "/v1/hosts"),
        ("GET", "/v1/audit"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v1/enrolment/"),
        ("GET", "//v1/enrolment"),
        ("GET", "/v1/../v1/unlock"),
        ("GET", "/static/x"),
    ],
)
def test_it_serves_nothing_else_even_to_those_who_may(
    broker: Broker, host: Host, method: str, path: str
) -> None:
    body = unlock_request() if method != "GET" else None
    for who in (None, host.files, broker.operator):
        reply = broker.ask(method, path, body, who=who, port=broker.enrolment)
        assert (reply.status, reply.problem) == (404, "unknown")


def test_it_takes_no_other_method(broker: Broker) -> None:
    reply = broker.ask("PUT", "/v1/enrolment", {}, port=broker.enrolment)
    assert (reply.status, reply.problem) == (405, "method")
    assert reply.headers["allow"] == "GET, POST"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_main_listener_does_not_enrol(broker: Broker, host: Host, method: str) -> None:
    body = {"token": broker.invite("shop"), "csr": "x"} if method == "POST" else None
    for who in (host.files, broker.operator):
        reply = broker.ask(method, "/v1/enrolment", body, who=who)
        assert (reply.status, reply.problem) == (404, "unknown")
