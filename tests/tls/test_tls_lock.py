"""A host that was revoked may be told to close what it has open, and gets no more than that."""

from __future__ import annotations

from tests.tls.running import Broker, Host, unlock_request
from tests.tls.test_tls_roles import REPORT


def revoke(broker: Broker, host: Host, **more: object) -> dict[str, object]:
    body = {"reason": "stolen", **more}
    reply = broker.ask("PUT", f"/v1/hosts/{host.id}/revocation", body, who=broker.operator)
    assert reply.status == 200, reply.body
    found: dict[str, object] = reply.document
    return found


def test_a_revoked_host_is_told_to_lock_at_its_report_where_that_is_wanted(broker: Broker) -> None:
    broker.add_addon("stolen")
    host = broker.enrol("stolen")
    assert revoke(broker, host)["lock"] is False
    assert broker.ask("POST", "/v1/report", REPORT, who=host.files).problem == "revoked"
    assert revoke(broker, host, lock=True)["lock"] is True
    reply = broker.ask("POST", "/v1/report", REPORT, who=host.files)
    assert (reply.status, reply.problem) == (403, "lock")
    assert broker.ask("POST", "/v1/unlock", unlock_request(), who=host.files).problem == "revoked"
    assert revoke(broker, host)["lock"] is True
    entries = broker.ask("GET", "/v1/audit?after=-1&limit=20", who=broker.operator).document["audit"]
    own = [(entry["verb"], entry["detail"].get("problem")) for entry in entries if entry["host"] == host.id]
    assert ("report", "lock") in own
    assert [entry for entry in entries if entry["verb"] == "host.revoke" and entry["detail"].get("lock")]


def test_a_host_that_is_not_revoked_is_told_nothing(broker: Broker) -> None:
    broker.add_addon("stolen")
    assert broker.ask("POST", "/v1/report", REPORT, who=broker.enrol("stolen").files).status == 200
