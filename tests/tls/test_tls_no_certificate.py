"""Without a client certificate nobody gets as far as HTTP."""

from __future__ import annotations

import pytest

from tests.tls.running import LOOPBACK, Broker, curl, openssl, refusal


def test_the_handshake_is_refused(broker: Broker) -> None:
    assert refusal(broker, None) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"


def test_the_reason_arrives_every_time(broker: Broker) -> None:
    """A reset that overtook the alert would look like a bad line, which is worth another try; this is not."""
    for _ in range(50):
        assert refusal(broker, None) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"


@pytest.mark.parametrize("path", ["/", "/v1/unlock", "/v1/volumes", "/v1/enrolment", "/healthz", "/readyz"])
def test_no_path_is_answered(broker: Broker, path: str) -> None:
    done = curl("--cacert", str(broker.ca), f"https://{LOOPBACK}:{broker.main}{path}")
    assert done.returncode == 56
    assert done.stdout == b""
    assert b"certificate required" in done.stderr


def test_openssl_is_told_the_same(broker: Broker) -> None:
    request = b"GET /v1/volumes HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n"
    done = openssl(
        "s_client", "-connect", f"{LOOPBACK}:{broker.main}", "-CAfile", str(broker.ca), "-ign_eof", "-quiet",
        stdin=request,
    )  # fmt: skip
    assert b"HTTP/1.1" not in done.stdout
    assert b"alert certificate required" in done.stderr


def test_plain_http_gets_no_answer(broker: Broker) -> None:
    for port in (broker.main, broker.enrolment):
        done = curl(f"http://{LOOPBACK}:{port}/v1/enrolment")
        assert done.returncode != 0
        assert b"HTTP" not in done.stdout
