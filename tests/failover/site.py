"""Brokers with clients on them, from their start to what stood in the end."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from tests.failover.aftermath import gathered
from tests.failover.clients import Operator, Site
from tests.failover.history import End, History, Op
from tests.failover.load import Life, begin
from tests.failover.model import wrong
from tests.failover.told import summary
from tests.tls.running import Broker, free_ports, install

_JOIN_SECONDS = 90


def a_site(brokers: list[Broker], directory: Path, seconds: float, *, lives: int) -> tuple[Site, list[Life]]:
    """Return a site with add-ons that have no limit of requests, and nothing else yet.

    Args:
        seconds: for as long as clients repeat what they do not know.
    """
    clock = time.monotonic
    papers = directory / "papers"
    papers.mkdir()
    site = Site(brokers, papers, History(clock), clock() + seconds)
    first = brokers[0]
    approver = first.appoint("bob", "approver")
    made = []
    for number in range(lives):
        addon = f"shop{number}"
        first.add_addon(addon)
        first.change_policy(addon, rate=0, addon_rate=0)
        operator = Operator(site, first.operator, number)
        made.append(Life(site, addon, number, operator, Operator(site, approver, number)))
    return site, made


@contextmanager
def at_work(site: Site, lives: list[Life]) -> Iterator[list[End]]:
    """Have clients work meanwhile; at the end the list has what stood then."""
    ends: list[End] = []
    with site.closing:
        threads: list[threading.Thread] = begin(lives)
        try:
            yield ends
        finally:
            site.stopping.set()
            for thread in threads:
                thread.join(_JOIN_SECONDS)
        ends.append(gathered(site, lives[0].operator, lives))


def longest_without_unlocking(history: tuple[Op, ...]) -> float:
    """Return the longest time, in seconds, in which no call for a volume's keys was answered with them."""
    served = sorted(op.ended for op in history if op.verb == "unlock" and op.facts.keys)
    return max((after - before for before, after in pairwise(served)), default=0.0)


def check(site: Site, end: End) -> None:
    """Hold the history to the model."""
    ops = site.history.ops()
    print(summary(ops, end), f"; no unlock for {longest_without_unlocking(ops):.1f} s at most")
    assert wrong(ops, end) == []
    assert site.troubles == []


@contextmanager
def two_brokers(directory: Path, database: str) -> Iterator[list[Broker]]:
    """Start two brokers of one installation on one database."""
    one, two = directory / "one", directory / "two"
    one.mkdir()
    first = install(one, options=("--database", database))
    shutil.copytree(one, two)
    main, enrolment = free_ports(2)
    second = Broker(two, main, enrolment)
    said = second.config.read_text().replace(str(one), str(two))
    for before, after in ((first.main, second.main), (first.enrolment, second.enrolment)):
        said = said.replace(str(before), str(after))
    second.config.write_text(said)
    brokers = [first, second]
    for number, broker in enumerate(brokers, 1):
        with broker.config.open("a") as file:
            file.write(f'\n[audit]\nwriter = "b{number}"\n')
    try:
        for broker in brokers:
            broker.start()
        yield brokers
        for broker in brokers:
            assert broker.stop() == 0
    finally:
        for broker in brokers:
            if broker.process is not None:
                with contextlib.suppress(OSError):
                    broker.kill()
