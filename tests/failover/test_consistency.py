"""One broker on SQLite is killed again and again, and what its clients were told holds."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.failover.site import a_site, at_work, check
from tests.tls.running import install

KILLS = 4


@pytest.mark.limit(240)
def test_what_was_acknowledged_holds_however_often_the_broker_is_killed(tmp_path: Path) -> None:
    broker = install(tmp_path)
    broker.start()
    try:
        site, lives = a_site([broker], tmp_path, 60, lives=3)
        with at_work(site, lives) as ends:
            chance = random.Random(11)
            for _ in range(KILLS):
                time.sleep(chance.uniform(1.0, 2.5))
                broker.kill()
                broker.start()
            time.sleep(1)
        assert broker.stop() == 0
    finally:
        if broker.process is not None:
            broker.kill()
    check(site, ends[0])
