"""A certificate that is not meant for clients is none, even from our own CA."""

from __future__ import annotations

from pathlib import Path

from tests.tls.forging import SERVER, Files, issue
from tests.tls.running import OPERATOR, Broker, refusal

ALICE = f"spiffe://test.internal/operator/{OPERATOR}"


def test_a_certificate_for_servers_is_refused(broker: Broker, tmp_path: Path) -> None:
    forged = issue(tmp_path, broker.signer, uris=[ALICE], usages=(SERVER,))
    assert "ALERT" in refusal(broker, forged)


def test_the_brokers_own_certificate_is_refused_as_a_clients(broker: Broker) -> None:
    own = broker.directory / "config"
    assert "ALERT" in refusal(broker, Files(own / "server.crt", own / "server.key"))


def test_a_certificate_without_a_use_names_nobody(broker: Broker, tmp_path: Path) -> None:
    forged = issue(tmp_path, broker.signer, uris=[ALICE], usages=())
    reply = broker.ask("GET", "/v1/volumes", who=forged)
    assert (reply.status, reply.problem) == (403, "no-identity")
