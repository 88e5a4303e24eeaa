"""No header field, address or body says who asks: the certificate of the connection does."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.tls.running import Broker, Host, unlock_request

NAMES = [
    "X-SSL-Client-Cert",
    "X-SSL-Cert",
    "SSL_CLIENT_CERT",
    "X-Client-Cert",
    "X-Forwarded-Client-Cert",
    "Client-Cert",
    "X-Forwarded-Tls-Client-Cert",
    "Keybroker.Certificate",
    "keybroker.identity",
    "X-Remote-User",
    "REMOTE_USER",
    "X-Forwarded-For",
    "X-Real-Ip",
    "Forwarded",
]


@pytest.mark.parametrize("field", NAMES)
def test_a_header_field_makes_nobody_an_operator(broker: Broker, host: Host, field: str) -> None:
    certificate = broker.operator.certificate.read_text()
    for value in (quote(certificate), "spiffe://test.internal/operator/alice", "alice", "127.0.0.1"):
        reply = broker.ask("GET", "/v1/hosts", who=host.files, headers={field: value})
        assert (reply.status, reply.problem) == (403, "not-allowed")


@pytest.mark.parametrize("field", NAMES)
def test_a_header_field_makes_no_host_another(broker: Broker, host: Host, field: str) -> None:
    other = broker.enrol("shop")
    certificate = quote(other.files.certificate.read_text())
    reply = broker.ask("POST", "/v1/unlock", unlock_request(), who=host.files, headers={field: certificate})
    assert reply.document["host"] == host.id


def test_a_header_field_lets_no_stranger_in(broker: Broker) -> None:
    certificate = quote(broker.operator.certificate.read_text())
    reply = broker.ask("GET", "/v1/hosts", port=broker.enrolment, headers={"X-SSL-Client-Cert": certificate})
    assert (reply.status, reply.problem) == (404, "unknown")


def test_the_address_on_record_is_that_of_the_connection(broker: Broker, host: Host) -> None:
    broker.ask(
        "POST", "/v1/unlock", unlock_request(), who=host.files, headers={"X-Forwarded-For": "192.0.2.99"}
    )
    trail = broker.ask("GET", "/v1/audit?after=-1&limit=1", who=broker.operator).document["audit"]
    assert (trail[0]["verb"], trail[0]["address"]) == ("unlock", "127.0.0.1")


def test_a_body_that_says_who_asks_is_refused(broker: Broker, host: Host) -> None:
    body = unlock_request() | {"host": "kbh-aaaaaaaaaaaa"}
    reply = broker.ask("POST", "/v1/unlock", body, who=host.files)
    assert (reply.status, reply.problem) == (400, "malformed")
