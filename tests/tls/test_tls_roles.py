"""Hosts do what hosts do and operators what operators do; neither gets the other's replies."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.tls.forging import Files, signing_request
from tests.tls.running import Broker, Host, unlock_request

HOST_CALLS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/unlock", unlock_request()),
    ("POST", "/v1/renewal", {"csr": signing_request(ec.generate_private_key(ec.SECP256R1()))}),
    (
        "PUT",
        "/v1/volumes/kbv-aaaaaaaaaaaa/device",
        {"revision": 1, "device": {"serial": "a", "size_bytes": 1}},
    ),
    ("GET", "/v1/volumes/kbv-aaaaaaaaaaaa/header", None),
    ("PUT", "/v1/volumes/kbv-aaaaaaaaaaaa/ready", {"revision": 1}),
]
VOLUME = {"size_bytes": 1, "cipher": "aes-xts-plain64", "mount": None, "filesystem": "none", "serial": None}
OPERATOR_CALLS: list[tuple[str, str, Any]] = [
    ("PUT", "/v1/addons/mine", {"engine": "redis"}),
    ("GET", "/v1/addons", None),
    ("GET", "/v1/addons/shop", None),
    ("PUT", "/v1/addons/shop/volumes/more", VOLUME),
    ("GET", "/v1/addons/shop/volumes/data", None),
    ("GET", "/v1/volumes", None),
    ("POST", "/v1/addons/shop/enrolments", {"lifetime_seconds": 600}),
    ("GET", "/v1/hosts", None),
    ("GET", "/v1/audit", None),
]


@pytest.mark.parametrize(("method", "path", "body"), HOST_CALLS)
def test_an_operator_gets_no_keys(broker: Broker, method: str, path: str, body: object) -> None:
    reply = broker.ask(method, path, body, who=broker.operator)
    assert (reply.status, reply.problem) == (403, "not-allowed")


@pytest.mark.parametrize(("method", "path", "body"), OPERATOR_CALLS)
def test_a_host_changes_and_lists_nothing(
    broker: Broker, host: Host, method: str, path: str, body: object
) -> None:
    reply = broker.ask(method, path, body, who=host.files)
    assert (reply.status, reply.problem) == (403, "not-allowed")


def test_a_host_does_not_revoke_or_see_hosts(broker: Broker, host: Host) -> None:
    other = broker.enrol("shop")
    path = f"/v1/hosts/{other.id}"
    assert broker.ask("GET", path, who=host.files).problem == "not-allowed"
    assert broker.ask("PUT", f"{path}/revocation", {"reason": "x"}, who=host.files).problem == "not-allowed"
    assert broker.ask("POST", "/v1/unlock", unlock_request(), who=other.files).status == 200


def test_a_key_goes_with_its_certificate(broker: Broker, host: Host) -> None:
    import ssl

    other = broker.enrol("shop")
    with pytest.raises(ssl.SSLError):
        broker.ask("GET", "/v1/volumes", who=Files(other.files.certificate, host.files.key))
