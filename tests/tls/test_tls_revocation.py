"""A revoked host is turned away from its next request on, also in the middle of a connection."""

from __future__ import annotations

from tests.tls.running import Broker, ask, unlock_request


def test_revocation_reaches_a_connection_that_is_open(broker: Broker) -> None:
    volume = broker.add_volume("shop", "data")
    host = broker.enrol("shop")
    broker.claim(host, volume)
    with broker.connect(host.files) as connection:
        before = ask(connection, "POST", "/v1/unlock", unlock_request(volume))
        assert before.status == 200
        assert before.document["grants"][0]["keys"]
        gone = broker.ask(
            "PUT", f"/v1/hosts/{host.id}/revocation", {"reason": "its VM was cloned"}, who=broker.operator
        )
        assert gone.status == 200
        held = connection.sock
        after = ask(connection, "POST", "/v1/unlock", unlock_request(volume))
        assert connection.sock is held, "this must be the same connection"
        assert (after.status, after.problem) == (403, "revoked")
        assert b'"keys"' not in after.body
    assert broker.ask("POST", "/v1/unlock", unlock_request(volume), who=host.files).problem == "revoked"


def test_another_host_of_the_add_on_is_not_affected(broker: Broker) -> None:
    one, other = broker.enrol("shop"), broker.enrol("shop")
    broker.ask("PUT", f"/v1/hosts/{one.id}/revocation", {"reason": "gone"}, who=broker.operator)
    assert broker.ask("POST", "/v1/unlock", unlock_request(), who=other.files).status == 200
