"""Only TLS 1.3 is spoken, on both listeners, whoever asks for less."""

from __future__ import annotations

import socket
import ssl

import pytest

from tests.tls.running import LOOPBACK, Broker, client_context, curl, openssl


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_1", "-tls1"])
@pytest.mark.parametrize("listener", ["main", "enrolment"])
def test_older_versions_are_refused(broker: Broker, version: str, listener: str) -> None:
    done = openssl(
        "s_client", "-connect", f"{LOOPBACK}:{getattr(broker, listener)}", version,
        "-CAfile", str(broker.ca),
        "-cert", str(broker.operator.certificate), "-key", str(broker.operator.key),
        "-cipher", "ALL:@SECLEVEL=0",
    )  # fmt: skip
    assert done.returncode != 0
    assert b"Cipher is (NONE)" in done.stdout
    assert b"alert protocol version" in done.stderr


@pytest.mark.parametrize("listener", ["main", "enrolment"])
def test_tls_13_is_spoken(broker: Broker, listener: str) -> None:
    context = client_context(broker.ca, broker.operator)
    address = (LOOPBACK, getattr(broker, listener))
    with (
        socket.create_connection(address, timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=LOOPBACK) as secure,
    ):
        assert secure.version() == "TLSv1.3"


def test_curl_with_a_good_certificate_is_answered(broker: Broker) -> None:
    """So that the refusals above are not those of a server that refuses everybody."""
    done = curl(
        "--cacert", str(broker.ca),
        "--cert", str(broker.operator.certificate), "--key", str(broker.operator.key),
        f"https://{LOOPBACK}:{broker.main}/v1/addons",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b'"shop"' in done.stdout


def test_a_client_that_offers_tls_12_only_sees_an_alert(broker: Broker) -> None:
    context = client_context(broker.ca, broker.operator)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((LOOPBACK, broker.main), timeout=10) as plain,
        pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|protocol version"),
    ):
        context.wrap_socket(plain, server_hostname=LOOPBACK)
