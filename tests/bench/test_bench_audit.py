"""What copying each audit record to the journal costs deliveries; a ratio within one run only."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from tests.bench.serving import keyed, load
from tests.tls.running import install
from tests.tls.test_tls_journal import INSIDE, Listener

pytestmark = pytest.mark.bench

ROUNDS = 5


def test_deliveries_with_and_without_the_journals_copy(tmp_path: Path) -> None:
    listener = Listener(tmp_path / "journal")
    brokers, served = [], []
    for name, journal in (("copied", "true"), ("not", "false")):
        (tmp_path / name).mkdir()
        broker = install(tmp_path / name)
        with broker.config.open("a") as file:
            file.write(f"\n[audit]\njournal = {journal}\n")
        broker.start(inside=(*INSIDE, str(listener.directory)), JOURNAL_STREAM="8:1")
        brokers.append(broker)
        host, server, _size = keyed(broker, tmp_path / name)
        served.append((broker, host, server))
    for broker, host, server in served:
        load(server, broker, host, count=50)
    rounds = []
    for number in range(ROUNDS):
        # each is first as often as the other
        order = served if number % 2 else served[::-1]
        measured = [load(server, broker, host, count=200) for broker, host, server in order]
        rounds.append(measured if number % 2 else measured[::-1])
    for broker in brokers:
        assert broker.stop() == 0
    listener.close()
    assert len(listener.records()) > ROUNDS * 200
    seen = statistics.median(copied.per_second / bare.per_second for copied, bare in rounds)
    spent = statistics.median(bare.server_seconds / copied.server_seconds for copied, bare in rounds)
    print(
        f"\ndeliveries with the journal's copy, medians of {ROUNDS} rounds, of what they are without:\n"
        f"  per second of the server's own time: {spent:.2f}\n"
        f"  as the clients saw it:               {seen:.2f}"
    )
    assert spent > 0.8
