"""A certificate of our CA that the broker did not record names nobody: a stolen CA key is not enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tls.forging import issue
from tests.tls.running import OPERATOR, Broker, Host, unlock_request


def test_a_second_certificate_for_a_host_gets_no_key(broker: Broker, host: Host, tmp_path: Path) -> None:
    forged = issue(tmp_path, broker.signer, uris=[f"spiffe://test.internal/host/{host.id}"])
    reply = broker.ask("POST", "/v1/unlock", unlock_request(), who=forged)
    assert (reply.status, reply.problem) == (403, "no-identity")


@pytest.mark.parametrize(
    "uri",
    [
        f"spiffe://test.internal/operator/{OPERATOR}",
        "spiffe://test.internal/operator/mallory",
        "spiffe://other.internal/operator/alice",
        "https://test.internal/operator/alice",
    ],
)
def test_a_second_certificate_for_an_operator_may_do_nothing(
    broker: Broker, tmp_path: Path, uri: str
) -> None:
    forged = issue(tmp_path, broker.signer, uris=[uri])
    for path in ("/v1/volumes", "/v1/hosts", "/v1/audit"):
        assert broker.ask("GET", path, who=forged).problem == "no-identity"
