"""Metrics are for the role of that name and for the broker's own machine, and they say what happened."""

from __future__ import annotations

import datetime as dt
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keybroker.wire.names import ROLES
from tests.tls.forging import Files, issue, new_ca
from tests.tls.running import LOOPBACK, Broker, Host, Reply, curl, openssl, refusal, running, unlock_request


@pytest.fixture(scope="module")
def prometheus(broker: Broker) -> Files:
    return broker.appoint("prometheus", "metrics")


def value(reply: Reply, name: str, **labels: str) -> float:
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = [
        sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
        if (sample.name, sample.labels) == (name, labels)
    ]
    assert len(found) == 1, f"{name} {labels}: {found}"
    return found[0]


def test_the_role_metrics_gets_them(broker: Broker, prometheus: Files) -> None:
    reply = broker.ask("GET", "/metrics", who=prometheus)
    assert value(reply, "keybroker_recovery_mode") == 0
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("role", sorted(ROLES - {"metrics"}))
def test_no_other_role_gets_them(broker: Broker, role: str) -> None:
    reply = broker.ask("GET", "/metrics", who=broker.appoint(f"no-{role}", role))
    assert (reply.status, reply.problem) == (403, "not-allowed")


def test_a_host_does_not_get_them(broker: Broker, host: Host) -> None:
    reply = broker.ask("GET", "/metrics", who=host.files)
    assert (reply.status, reply.problem) == (403, "not-allowed")


def test_nobody_gets_them_without_a_certificate(broker: Broker) -> None:
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        broker.ask("GET", "/metrics")
    assert broker.ask("GET", "/metrics", port=broker.enrolment).problem == "unknown"


def test_the_health_listener_tells_the_same_to_its_machine(broker: Broker, prometheus: Files) -> None:
    near, far = broker.probe("/metrics"), broker.ask("GET", "/metrics", who=prometheus)
    assert value(near, "keybroker_audit_records") == value(far, "keybroker_audit_records")
    names = [
        {family.name for family in text_string_to_metric_families(reply.body.decode())}
        for reply in (near, far)
    ]
    assert names[0] == names[1]


def test_a_revoked_scraper_gets_nothing_more(broker: Broker) -> None:
    files = broker.appoint("former", "metrics")
    assert broker.ask("GET", "/metrics", who=files).status == 200
    broker.ask("PUT", "/v1/operators/former/revocation", {"reason": "moved"}, who=broker.operator)
    assert broker.ask("GET", "/metrics", who=files).problem == "revoked"


def test_counters_move_when_a_key_is_delivered_and_when_one_is_refused(
    broker: Broker, prometheus: Files
) -> None:
    def counted(name: str, **labels: str) -> float:
        return value(broker.ask("GET", "/metrics", who=prometheus), name, **labels)

    host, volume = broker.enrol("shop"), broker.add_volume("shop", "counted")
    claims = counted("keybroker_deliveries_total", door="claim")
    refused = counted("keybroker_refusals_total", asker="host", reason="not-blank")
    denied = counted("keybroker_refusals_total", asker="host", reason="revoked")
    boots = counted("keybroker_request_seconds_count", operation="unlock")
    good = counted("keybroker_requests_total", listener="main", status="4xx")

    broker.claim(host, volume)
    assert counted("keybroker_deliveries_total", door="claim") == claims + 1

    request = unlock_request(volume)
    request["observations"][0] |= {"sight": "other", "detail": "ext4"}
    document = broker.ask("POST", "/v1/unlock", request, who=host.files).document
    assert document["grants"][0]["refused"] is not None, document
    reason = document["grants"][0]["refused"]["problem"]
    more = counted("keybroker_refusals_total", asker="host", reason=reason)
    assert more == (refused if reason == "not-blank" else 0) + 1

    broker.ask("PUT", f"/v1/hosts/{host.id}/revocation", {"reason": "x"}, who=broker.operator)
    assert broker.ask("POST", "/v1/unlock", request, who=host.files).problem == "revoked"
    assert counted("keybroker_refusals_total", asker="host", reason="revoked") == denied + 1
    assert counted("keybroker_deliveries_total", door="claim") == claims + 1
    assert counted("keybroker_request_seconds_count", operation="unlock") == boots + 2
    assert counted("keybroker_requests_total", listener="main", status="4xx") == good + 1


def test_when_certificates_end_is_what_openssl_says(broker: Broker, prometheus: Files) -> None:
    reply = broker.ask("GET", "/metrics", who=prometheus)
    for of in ("server", "ca"):
        path = broker.directory / f"config/{of}.crt"
        said = openssl("x509", "-in", str(path), "-noout", "-enddate").stdout.decode().strip()
        ends = ssl.cert_time_to_seconds(said.removeprefix("notAfter="))
        assert value(reply, "keybroker_certificate_expiry_timestamp_seconds", of=of) == ends


HOURS = dt.timedelta(hours=1)


def distrusts(broker: Broker, directory: Path) -> None:
    """Come as a client that has another CA to trust, and so turns this broker away."""
    other = issue(directory, None, common="other-ca").certificate
    assert curl("--cacert", str(other), f"https://{LOOPBACK}:{broker.main}/").returncode == 60


@pytest.mark.parametrize(
    ("reason", "comes"),
    [
        ("no-certificate", lambda broker, _: refusal(broker, None)),
        ("untrusted", lambda broker, there: refusal(broker, issue(there, new_ca()))),
        ("expired", lambda broker, there: refusal(
            broker, issue(there, broker.signer, begins=-2 * HOURS, ends=-HOURS))),
        ("not-yet-valid", lambda broker, there: refusal(
            broker, issue(there, broker.signer, begins=HOURS, ends=2 * HOURS))),
        ("by-client", distrusts),
        ("other", lambda broker, _: curl(f"http://{LOOPBACK}:{broker.main}/")),
    ],
)  # fmt: skip
def test_a_refused_handshake_is_counted_by_its_reason(
    broker: Broker, tmp_path: Path, reason: str, comes: Callable[[Broker, Path], object]
) -> None:
    def counted() -> dict[str, float]:
        families = text_string_to_metric_families(broker.probe("/metrics").body.decode())
        return {
            sample.labels["reason"]: sample.value
            for family in families
            for sample in family.samples
            if sample.name == "keybroker_handshakes_refused_total" and sample.labels["listener"] == "main"
        }

    before = counted()
    comes(broker, tmp_path)
    deadline = time.monotonic() + 10
    while counted() == before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert counted() == {**before, reason: before[reason] + 1}


def test_the_broker_s_own_try_without_a_certificate_is_not_counted(tmp_path: Path) -> None:
    with running(tmp_path) as own:
        labels = {"listener": "main", "reason": "no-certificate"}
        assert value(own.probe("/metrics"), "keybroker_handshakes_refused_total", **labels) == 0
