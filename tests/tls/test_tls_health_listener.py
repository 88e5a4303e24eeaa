"""Health is told on its own socket and nowhere else, and it is told the truth."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from tests.tls.running import LOOPBACK, Broker, Host, curl, free_ports, install


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/livez"])
def test_it_is_not_told_on_public_listeners(broker: Broker, host: Host, path: str) -> None:
    for port in (broker.main, broker.enrolment):
        for who in (host.files, broker.operator):
            reply = broker.ask("GET", path, who=who, port=port)
            assert (reply.status, reply.problem) == (404, "unknown")


def test_the_socket_tells_health_and_nothing_else(broker: Broker) -> None:
    assert stat.S_ISSOCK(broker.health.stat().st_mode)
    assert broker.probe("/healthz").document == {"status": "alive"}
    assert broker.probe("/readyz").document == {"status": "ready"}
    for path in ("/v1/unlock", "/v1/addons", "/v1/enrolment", "/"):
        assert broker.probe(path).problem == "unknown"


def test_curl_can_ask(broker: Broker) -> None:
    done = curl("--fail", "--unix-socket", str(broker.health), "http://health/readyz")
    assert (done.returncode, done.stdout) == (0, b'{"status": "ready"}')


def test_it_may_be_told_on_loopback(tmp_path: Path) -> None:
    broker = install(tmp_path)
    (port,) = free_ports(1)
    text = broker.config.read_text()
    broker.config.write_text(text.replace(f"unix:{broker.health}", f"http://{LOOPBACK}:{port}"))
    broker.start()
    try:
        done = curl("--fail", f"http://{LOOPBACK}:{port}/readyz")
        assert (done.returncode, done.stdout) == (0, b'{"status": "ready"}')
    finally:
        assert broker.stop() == 0


def test_it_is_refused_elsewhere(tmp_path: Path) -> None:
    from tests.tls.running import run_cli

    broker = install(tmp_path)
    text = broker.config.read_text()
    broker.config.write_text(text.replace(f"unix:{broker.health}", "http://0.0.0.0:1"))
    done = run_cli("serve", "--config", str(broker.config))
    assert done.returncode == 78
    assert "not a loopback address" in done.stderr


def test_a_stale_socket_is_no_obstacle(tmp_path: Path) -> None:
    broker = install(tmp_path)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(broker.health))
    broker.start()
    try:
        assert broker.probe("/readyz").status == 200
    finally:
        assert broker.stop() == 0
