"""What is reported while a course is on its way: no news is lost, and a busy broker is left in peace."""

from __future__ import annotations

import threading
import time
from typing import Any, cast

from agent.change.reporting import Reporter
from agent.change.workshop import Broker
from agent.passage import Boot
from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.reports import Activity, ReportReply, ReportRequest, VolumeReport
from tests.contract.test_agent_broker import RECORD, VOLUME

BOOT = Boot("00000000-0000-4000-8000-000000000000", "0" * 32, "0.1.0")


class Busy:
    """A broker that sends the first report away."""

    def __init__(self, seconds: float) -> None:
        self.heard: list[tuple[float, ReportRequest]] = []
        self.taken = threading.Event()
        self._seconds = seconds

    def report(self, request: ReportRequest) -> ReportReply:
        self.heard.append((time.monotonic(), request))
        if len(self.heard) == 1:
            raise KeybrokerError(Problem.BUSY, "too many", retry_after=self._seconds)
        self.taken.set()
        return cast(ReportReply, None)


def test_news_that_a_busy_broker_did_not_take_are_told_again_when_it_said() -> None:
    busy: Any = Busy(0.5)
    doing, record = Activity("Verify", "both disks are read"), Record.read(Fields(RECORD))
    with Reporter(lambda: cast(Broker, busy), BOOT, [VolumeReport(VOLUME, "open")], every=0.01) as reporter:
        reporter.watch(record, doing)
        assert busy.taken.wait(20)
    (first, refused), (second, taken) = busy.heard[:2]
    assert second - first >= 0.5
    assert taken == refused
    assert taken.volumes[0].activity == doing
