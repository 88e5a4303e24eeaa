"""Two brokers on three machines with PostgreSQL; the primary dies, stands still or is cut off under load.

KEYBROKER_FAILOVERS names which of it happens, one after the other: words of kill, stop and cut.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.failover.cluster import Cluster, cluster
from tests.failover.site import a_site, at_work, check, two_brokers
from tests.failover.wires import Machine
from tests.tls.forging import Files
from tests.tls.running import Broker, Reply, ask, install, run_cli, unlock_request

FAULTS: Final = os.environ.get("KEYBROKER_FAILOVERS", "kill").split()
LIVES: Final = 3


@pytest.fixture(scope="module")
def database() -> Iterator[Cluster]:
    """A cluster of three, all of it well."""
    with cluster() as made:
        yield made


def mended(database: Cluster) -> dict[str, tuple[Callable[[Machine], None], Callable[[Machine], None]]]:
    """Return what happens to a primary, and how it is well again."""
    return {
        "kill": (Machine.power_off, database.boot),
        "stop": (Machine.freeze, Machine.thaw),
        "cut": (Machine.cut, Machine.mend),
    }


@pytest.mark.limit(900)
def test_nothing_acknowledged_is_lost_when_the_primary_is(database: Cluster, tmp_path: Path) -> None:
    with two_brokers(tmp_path, database.url) as brokers:
        site, lives = a_site(brokers, tmp_path, 60 + 60 * len(FAULTS), lives=LIVES)
        with at_work(site, lives) as ends:
            time.sleep(2)
            for fault in FAULTS:
                breaks, mends = mended(database)[fault]
                primary = database.wait_for_primary(60)
                began = time.monotonic()
                breaks(primary)
                after = database.wait_for_primary(60, other_than=primary)
                print(f"{fault} of {primary.name}: {after.name} after {time.monotonic() - began:.0f} s")
                time.sleep(1)
                mends(primary)
                database.wait_until_whole(90)
                time.sleep(1)
        told = run_cli("audit", "verify", "--json", "--config", str(brokers[0].config))
        assert told.returncode == 0, told.stderr
        assert {entry.receipt[2] for entry in ends[0].trail} >= {"b1", "b2"}
        print(told.stdout.strip())
    check(site, ends[0])


def unlocked(broker: Broker, files: Files, volume: dict[str, Any]) -> Reply:
    """Ask for a volume's key, and wait for as long as the broker tries: 20 s and more without a primary."""
    with broker.connect(files) as connection:
        connection.timeout = 50
        return ask(connection, "POST", "/v1/unlock", unlock_request(volume))


@pytest.mark.limit(300)
def test_without_a_primary_the_broker_says_when_to_ask_again(database: Cluster, tmp_path: Path) -> None:
    database.wait_until_whole(90)
    install_at = tmp_path / "own"
    install_at.mkdir()
    # a database of its own: the other test's brokers have theirs
    database.make_database("alone")
    broker = install(install_at, options=("--database", database.url_of("alone")))
    broker.start()
    try:
        broker.add_addon("shop")
        volume = broker.add_volume("shop", "data")
        host = broker.enrol("shop")
        broker.claim(host, volume)
        cut = database.machines[:2]
        for machine in cut:
            machine.cut()
        until = time.monotonic() + 60
        replies: list[Reply] = []
        while not replies or replies[-1].status != 503:
            assert time.monotonic() < until, replies
            replies.append(unlocked(broker, host.files, volume))
        said = replies[-1]
        assert said.problem == "unavailable"
        assert 1 <= int(said.headers["retry-after"]) <= 30
        assert b"keys" not in said.body
        for machine in cut:
            machine.mend()
        while replies[-1].status != 200:
            assert time.monotonic() < until + 90, replies
            replies.append(unlocked(broker, host.files, volume))
        (grant,) = replies[-1].document["grants"]
        assert grant["keys"]
        assert broker.stop() == 0
    finally:
        if broker.process is not None:
            broker.kill()
