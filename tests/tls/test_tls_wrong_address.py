"""An add-on's hosts are served from its own addresses alone, whatever certificate they show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tls.running import LOOPBACK, Broker, Host, ask, install, unlock_request
from tests.tls.test_review_greedy_clients import from_elsewhere
from tests.tls.test_tls_roles import REPORT


def allow(broker: Broker, *networks: str) -> None:
    body = {"allow": list(networks)}
    reply = broker.ask("PUT", "/v1/addons/shop/policy", body, who=broker.operator)
    assert reply.status == 200, reply.body


def last(broker: Broker) -> dict[str, Any]:
    """Return the last audit record."""
    reply = broker.ask("GET", "/v1/audit?after=-1&limit=1", who=broker.operator)
    found: dict[str, Any] = reply.document["audit"][0]
    return found


def test_a_stolen_identity_gets_nothing_from_elsewhere(broker: Broker, host: Host) -> None:
    volume = broker.add_volume("shop", "data")
    broker.claim(host, volume)
    allow(broker, f"{LOOPBACK}/32")
    assert broker.ask("POST", "/v1/unlock", unlock_request(volume), who=host.files).document["grants"]
    for path, body in (("/v1/unlock", unlock_request(volume)), ("/v1/report", REPORT)):
        thief = from_elsewhere(broker, broker.main, host.files)
        try:
            reply = ask(thief, "POST", path, body)
        finally:
            thief.close()
        assert (reply.status, reply.problem) == (403, "wrong-address")
        assert b"keys" not in reply.body
        record = last(broker)
        assert (record["outcome"], record["address"], record["host"]) == ("denied", "127.0.0.2", host.id)
    allow(broker)


def test_with_default_deny_an_add_on_is_served_once_addresses_are_listed(tmp_path: Path) -> None:
    broker = install(tmp_path, options=("--default-deny",))
    broker.start()
    try:
        broker.add_addon("shop")
        allow(broker, "127.0.0.0/8")
        host = broker.enrol("shop")
        assert broker.ask("POST", "/v1/unlock", unlock_request(), who=host.files).status == 200
        allow(broker)
        reply = broker.ask("POST", "/v1/unlock", unlock_request(), who=host.files)
        assert (reply.status, reply.problem) == (403, "wrong-address")
        token = broker.invite("shop")
        stranger = broker.ask("POST", "/v1/enrolment", {"token": token, "csr": "x"}, port=broker.enrolment)
        assert stranger.status in (400, 403)
    finally:
        assert broker.stop() == 0


def test_networks_that_are_none_are_malformed(broker: Broker) -> None:
    for network in ("192.0.2.1/24", "any", ""):
        body = {"allow": [network]}
        reply = broker.ask("PUT", "/v1/addons/shop/policy", body, who=broker.operator)
        assert (reply.status, reply.problem) == (400, "malformed")
