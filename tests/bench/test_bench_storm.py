"""All machines boot at once, against nginx that answers as many bytes, and Tang; ratios within one run only.

KEYBROKER_STORM says how many there are (10000 for the whole storm). Each has its own certificate, address and
volume, makes a full TLS 1.3 handshake for each try and goes the real way to its key; all share one client
key, so that ten thousand need not be made. The server is on one core, the agents on another.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.population import Certifying, grow, template, unlocking
from tests.bench.serving import SERVER_CORE, Server, nginx
from tests.bench.storming import HEAD, allow_files, storm, tang, wanted
from tests.tls.forging import Files
from tests.tls.running import install

pytestmark = pytest.mark.bench


def test_a_boot_storm_against_nginx_and_tang(tmp_path: Path) -> None:
    allow_files()
    count = wanted("KEYBROKER_STORM", 500, 20_000)
    numbers = range(1, count + 1)
    (tmp_path / "broker").mkdir()
    broker = install(tmp_path / "broker")
    broker.start()
    made = template(broker)
    agents = Certifying(broker.signer, tmp_path / "agents")
    spare = count + 1  # asks from here, so that nobody is taken for a second boot
    grow(broker, made, range(1, spare + 1), agents)
    for number in numbers:
        (agents.directory / f"{number}.json").write_bytes(unlocking(made, number))
    broker.start(inside=("taskset", "--cpu-list", str(SERVER_CORE)))
    try:
        assert broker.process is not None
        ours = Server(broker.main, (broker.process.pid,), "/v1/unlock", None)
        one = Files(agents.directory / f"{spare}.crt", agents.directory / "key.pem")
        size = len(broker.ask("POST", "/v1/unlock", unlocking(made, spare), who=one).body)
        with nginx(broker, tmp_path / "nginx", size) as theirs, tang(tmp_path / "tang") as others:
            nginx_first = storm(theirs, agents.directory, numbers, ca=broker.ca)
            own = storm(ours, agents.directory, numbers, ca=broker.ca)
            nginx_last = storm(theirs, agents.directory, numbers, ca=broker.ca)
            tangs = storm(others, agents.directory, range(1, min(count, 200) + 1), ca=None)
    finally:
        assert broker.stop() == 0
    nginx_cpu = (nginx_first.server_seconds + nginx_last.server_seconds) / 2 / count
    nginx_rate = 2 * count / (nginx_first.drained + nginx_last.drained)
    own_cpu, own_rate = own.server_seconds / count, count / own.drained
    tang_cpu, tang_rate = tangs.server_seconds / len(tangs.done), len(tangs.done) / tangs.drained
    print(f"\n{count} agents at once, a full handshake each, {size} bytes\n{HEAD}")
    print(own.shown("keybroker"))
    print(nginx_first.shown("nginx"))
    print(nginx_last.shown("nginx, again"))
    print(tangs.shown(f"tang, {len(tangs.done)} of them"))
    print(f"  refused: {dict(own.refused)}; nginx: {dict(nginx_first.refused)}; tang: {dict(tangs.refused)}")
    print(
        f"  of nginx by the server's own time {nginx_cpu / own_cpu:.2f}, as the agents saw it"
        f" {own_rate / nginx_rate:.2f}\n  of Tang by the server's own time {tang_cpu / own_cpu:.2f}, as the"
        f" agents saw it {own_rate / tang_rate:.2f}"
    )
    assert len(own.done) == count, "somebody had to give up"
