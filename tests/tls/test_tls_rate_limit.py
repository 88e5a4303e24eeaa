"""Who asks too often is told when to come back, and the others are served meanwhile."""

from __future__ import annotations

import time

from agent.broker import BrokerClient, Clockwork, Limits
from agent.broker.connection import Credentials
from agent.change.broker import ChangeClient
from keybroker.wire.fields import Fields
from keybroker.wire.messages import UnlockRequest
from keybroker.wire.reports import ReportRequest
from tests.tls.running import Broker, Host, ask, unlock_request
from tests.tls.test_tls_roles import REPORT


def limit(broker: Broker, **rates: int) -> None:
    assert broker.ask("PUT", "/v1/addons/shop/policy", rates, who=broker.operator).status == 200


def busy_hosts(broker: Broker) -> list[str]:
    """Return the host of each record of a refusal for a rate."""
    entries = broker.ask("GET", "/v1/audit?after=-1&limit=100", who=broker.operator).document["audit"]
    return [entry["host"] for entry in entries if entry["detail"].get("problem") == "busy"]


def client(broker: Broker, host: Host, waits: list[float]) -> BrokerClient:
    """Return the agent's own client, whose sleeps are noted."""

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        time.sleep(seconds)

    return BrokerClient(
        (f"https://127.0.0.1:{broker.main}",),
        Credentials(broker.ca.read_text(), host.files.key, host.files.certificate),
        deadline=time.monotonic() + 30,
        limits=Limits(connect=5.0, whole=10.0),
        clockwork=Clockwork(sleep=sleep),
    )


def test_a_host_beyond_its_rate_is_told_when_to_come_back(broker: Broker) -> None:
    eager, other = broker.enrol("shop"), broker.enrol("shop")
    limit(broker, rate=30)
    replies = [broker.ask("POST", "/v1/unlock", unlock_request(), who=eager.files) for _ in range(40)]
    refused = [reply for reply in replies if reply.status != 200]
    assert refused
    for reply in refused:
        assert (reply.status, reply.problem) == (429, "busy")
        assert 1 <= int(reply.headers["retry-after"]) <= 2
    assert broker.ask("POST", "/v1/unlock", unlock_request(), who=other.files).status == 200
    assert busy_hosts(broker).count(eager.id) == 1
    assert other.id not in busy_hosts(broker)


def test_a_host_that_reports_too_often_is_told_when_to_come_back_and_still_boots(broker: Broker) -> None:
    eager = broker.enrol("shop")
    limit(broker, rate=30)
    with broker.connect(eager.files) as connection:
        replies = [ask(connection, "POST", "/v1/report", REPORT) for _ in range(100)]
    refused = [reply for reply in replies if reply.status != 200]
    assert 20 < len(refused) < 60
    for reply in refused:
        assert (reply.status, reply.problem) == (429, "busy")
        assert int(reply.headers["retry-after"]) == 1
    assert broker.ask("POST", "/v1/unlock", unlock_request(), who=eager.files).status == 200
    assert busy_hosts(broker).count(eager.id) == 1


def test_the_agent_s_report_waits_as_it_is_told_and_is_heard(broker: Broker) -> None:
    host, waits = broker.enrol("shop"), list[float]()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        time.sleep(seconds)

    agent = ChangeClient(
        (f"https://127.0.0.1:{broker.main}",),
        Credentials(broker.ca.read_text(), host.files.key, host.files.certificate),
        clockwork=Clockwork(sleep=sleep),
    )
    limit(broker, rate=30)
    try:
        sent = 0
        while not waits:
            assert agent.report(ReportRequest.read(Fields(REPORT))).records == ()
            sent += 1
    finally:
        agent.close()
    assert sent > 59, "the one that waited was answered too"
    assert max(waits) >= 1


def test_the_agent_waits_as_it_is_told_and_then_gets_its_answer(broker: Broker) -> None:
    host, waits = broker.enrol("shop"), list[float]()
    limit(broker, rate=30)
    asked = UnlockRequest.read(Fields(unlock_request()))
    agent = client(broker, host, waits)
    try:
        while not waits:
            assert agent.unlock(asked).host == host.id
    finally:
        agent.close()
    assert max(waits) >= 1
