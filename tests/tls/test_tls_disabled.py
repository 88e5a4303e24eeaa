"""A disabled add-on hands out nothing, to nobody; enabled again, it goes on."""

from __future__ import annotations

from tests.tls.running import Broker, Host, unlock_request
from tests.tls.test_tls_roles import REPORT


def enable(broker: Broker, enabled: bool) -> None:
    reply = broker.ask("PUT", "/v1/addons/shop/policy", {"enabled": enabled}, who=broker.operator)
    assert reply.status == 200
    assert reply.document["policy"]["enabled"] is enabled


def test_a_disabled_add_on_hands_out_nothing(broker: Broker, host: Host) -> None:
    volume = broker.add_volume("shop", "data")
    passphrase = broker.claim(host, volume)
    enable(broker, False)
    at = f"/v1/volumes/{volume['volume']}"
    calls = (
        ("POST", "/v1/unlock", unlock_request(volume)),
        ("PUT", f"{at}/device", {"revision": 2, "device": {"serial": "x", "size_bytes": 1}}),
        ("GET", f"{at}/header", None),
    )
    for method, path, body in calls:
        reply = broker.ask(method, path, body, who=host.files)
        assert (reply.status, reply.problem) == (403, "disabled")
        assert passphrase not in reply.body.decode()
    assert broker.ask("POST", "/v1/report", REPORT, who=host.files).status == 200
    enable(broker, True)
    again = broker.ask("POST", "/v1/unlock", unlock_request(volume), who=host.files)
    assert again.document["grants"][0]["keys"] == {"1": passphrase}
