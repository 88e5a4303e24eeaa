"""One broker on SQLite is killed again and again, and what its clients were told holds."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.failover.aftermath import gathered
from tests.failover.clients import Operator, Site
from tests.failover.history import History
from tests.failover.load import Life, begin
from tests.failover.model import wrong
from tests.failover.told import summary
from tests.tls.running import Broker, install

KILLS = 4
LIVES = 3


def a_site(brokers: list[Broker], directory: Path, seconds: float) -> tuple[Site, list[Life]]:
    """Return a site with add-ons that have no limit of requests, and nothing else yet."""
    clock = time.monotonic
    papers = directory / "papers"
    papers.mkdir()
    site = Site(brokers, papers, History(clock), clock() + seconds)
    first = brokers[0]
    approver = first.appoint("bob", "approver")
    lives = []
    for number in range(LIVES):
        addon = f"shop{number}"
        first.add_addon(addon)
        first.change_policy(addon, rate=0, addon_rate=0)
        operator = Operator(site, first.operator, number)
        lives.append(Life(site, addon, number, operator, Operator(site, approver, number)))
    return site, lives


@pytest.mark.limit(180)
def test_what_was_acknowledged_holds_however_often_the_broker_is_killed(tmp_path: Path) -> None:
    broker = install(tmp_path)
    broker.start()
    try:
        site, lives = a_site([broker], tmp_path, 60)
        with site.closing:
            threads = begin(lives)
            chance = random.Random(11)
            for _ in range(KILLS):
                time.sleep(chance.uniform(1.0, 2.5))
                broker.kill()
                broker.start()
            time.sleep(1)
            site.stopping.set()
            for thread in threads:
                thread.join(60)
            end = gathered(site, lives[0].operator, lives)
        assert broker.stop() == 0
    finally:
        if broker.process is not None:
            broker.kill()
    print(summary(site.history.ops(), end))
    assert wrong(site.history.ops(), end) == []
    assert site.troubles == []
