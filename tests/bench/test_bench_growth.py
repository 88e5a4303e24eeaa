"""What a boot costs with few and with many volumes in the store; ratios within one run only.

KEYBROKER_GROWTH says how many the large one has; 1000000 takes many minutes and 3 GB. What the broker does by
itself after its start (the sweep) grows with their number, and slows boots meanwhile: it is waited for, and
told apart.
"""

from __future__ import annotations

import statistics
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.bench.population import Certifying, Template, grow, template, unlocking
from tests.bench.serving import cpu_seconds
from tests.bench.storming import wanted
from tests.tls.forging import Files
from tests.tls.running import Broker, ask, install

pytestmark = pytest.mark.bench

FEW = 1000
BLOCKS = 5
EACH = 40
REST_SECONDS = 300


def test_a_boot_costs_with_many_volumes_what_it_costs_with_few(tmp_path: Path) -> None:
    many = wanted("KEYBROKER_GROWTH", 30_000, 1_000_000)
    houses = [_house(tmp_path / str(count), count) for count in (FEW, many)]
    try:
        rests = [_rested(broker) for broker, _made in houses]
        blocks = [[_median(*house) for house in houses] for _ in range(BLOCKS)]
        scrapes = [_scrape(broker) for broker, _made in houses]
        memory = [_resident(broker) for broker, _made in houses]
    finally:
        stopped = [broker.stop() for broker, _made in houses]
    ratio = statistics.median(large / small for small, large in blocks)
    small, large = blocks[-1]
    print(
        f"\nunlocking with {many} volumes: {ratio:.2f} of the median with {FEW}"
        f" (last block: {large * 1e3:.1f} ms against {small * 1e3:.1f} ms)\n"
        f"  memory {memory[1]} MiB against {memory[0]} MiB,"
        f" metrics {scrapes[1]:.2f} s against {scrapes[0]:.2f} s\n"
        f"  work of its own after the start: {rests[1]:.1f} s of a processor against {rests[0]:.1f} s"
    )
    assert stopped == [0, 0]
    assert ratio <= 1.2


def _house(directory: Path, count: int) -> tuple[Broker, Template]:
    directory.mkdir()
    broker = install(directory)
    broker.start()
    made = template(broker)
    grow(broker, made, range(1, 2), Certifying(broker.signer, directory / "agents"))
    grow(broker, made, range(2, count + 1))
    broker.start()
    return broker, made


def _rested(broker: Broker) -> float:
    """Wait until the broker does nothing by itself; return the seconds of a processor until then."""
    assert broker.process is not None
    own, until = (broker.process.pid,), time.monotonic() + REST_SECONDS
    while time.monotonic() < until:
        before = cpu_seconds(own)
        time.sleep(2)
        if cpu_seconds(own) - before < 0.1:
            break
    return cpu_seconds(own)


def _median(broker: Broker, made: Template) -> float:
    agents = broker.directory / "agents"
    request, seconds = unlocking(made, 1), []
    with broker.connect(Files(agents / "1.crt", agents / "key.pem")) as connection, closing(connection):
        for _ in range(EACH):
            began = time.perf_counter()
            reply = ask(connection, "POST", "/v1/unlock", request)
            seconds.append(time.perf_counter() - began)
            assert reply.status == 200, reply.body
            assert reply.document["grants"][0]["keys"]
    return statistics.median(seconds)


def _scrape(broker: Broker) -> float:
    began = time.perf_counter()
    assert broker.probe("/metrics").status == 200
    return time.perf_counter() - began


def _resident(broker: Broker) -> int:
    assert broker.process is not None
    lines = Path(f"/proc/{broker.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1024
